//! Faults of our own: steps that fail, panic, or compute nonsense.

use serde_json::{Value, json};

use kvist_engine::faults::{Fault, When};

use crate::support::VOCAB_LEN;
use crate::wire::{Live, read_to_end};

const COMPLETIONS: &str = "/v1/completions";

fn body() -> Value {
    json!({"prompt": "ba", "max_tokens": 8, "ignore_eos": true})
}

#[tokio::test]
async fn a_step_that_fails_is_a_500_and_the_next_request_is_served() {
    let live = Live::start().await;
    for fault in [
        Fault::Refuse,
        Fault::OutOfMemory,
        Fault::NotANumber(0..VOCAB_LEN as usize),
    ] {
        for step in [1, 2, 5] {
            live.faults
                .plan(When::At(live.faults.steps() + step), fault.clone());
            let answer = live.post(COMPLETIONS, &body()).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (500, "internal_error"),
                "{fault:?}"
            );
            let said = answer.body.to_lowercase();
            assert!(!said.contains("planted") && !said.contains("nan"), "{said}");
            live.is_whole().await;
        }
    }
    assert_eq!(live.server.handle().metrics().finished.failed, 9);
}

#[tokio::test]
async fn a_row_that_fails_takes_no_other_with_it() {
    let live = Live::start().await;
    live.faults.close();
    let before = live.faults.steps();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(live.send(COMPLETIONS, &body()).await);
    }
    live.server.accepted(1).await;
    let faults = live.faults.clone();
    tokio::task::spawn_blocking(move || faults.wait_for(before + 1))
        .await
        .unwrap();
    live.faults.plan(
        When::At(before + 3),
        Fault::NotANumber(0..VOCAB_LEN as usize),
    );
    live.faults.open();
    let mut failed = 0;
    for client in &mut clients {
        let text = read_to_end(client).await;
        failed += usize::from(text.starts_with("HTTP/1.1 500"));
        assert!(
            text.starts_with("HTTP/1.1 500") || text.starts_with("HTTP/1.1 200"),
            "{text}"
        );
    }
    assert_eq!(failed, 1);
    live.is_whole().await;
}

#[tokio::test]
async fn an_engine_that_is_gone_ends_serving_with_every_client_told() {
    for (when, fault) in [(When::Next, Fault::Panic), (When::From(0), Fault::Refuse)] {
        let live = Live::start().await;
        live.faults.close();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(live.send(COMPLETIONS, &body()).await);
        }
        live.server.accepted(1).await;
        live.faults.plan(when, fault.clone());
        live.faults.open();
        for client in &mut clients {
            let text = read_to_end(client).await;
            assert!(text.starts_with("HTTP/1.1 500"), "{fault:?}: {text}");
        }
        // Three steps are allowed to fail; then, as after a panic, there is nothing to go on with.
        while live.server.get_health().await == 200 {
            live.post(COMPLETIONS, &body()).await;
        }
        live.ended().await;
    }
}

impl crate::support::Server {
    async fn get_health(&self) -> u16 {
        use crate::support::Client as _;
        self.get("/health").await.status.as_u16()
    }
}
