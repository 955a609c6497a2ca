//! F: clients that leave, queues that fill, and the end of serving.

use std::time::Duration;

use kvist_base::Tokens;
use kvist_engine::EngineOptions;
use kvist_engine::plan::Limits;
use kvist_server::{HttpLimits, ServerConfig};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::{config, frames, options};
use crate::wire::{Answer, Live, SHORT, limited, read_to_end, read_until};

const COMPLETIONS: &str = "/v1/completions";

fn body(stream: bool, tokens: u32) -> Value {
    json!({"prompt": "ba", "max_tokens": tokens, "ignore_eos": true, "stream": stream})
}

/// One sequence runs, two may wait.
fn narrow() -> EngineOptions {
    EngineOptions {
        limits: Limits {
            running_max: 1,
            ..options().limits
        },
        waiting_max: 2,
        ..options()
    }
}

/// The events of a raw answer, chunk sizes left out.
fn events(text: &str) -> Vec<String> {
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let mut plain = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(len) = usize::from_str_radix(size, 16) else {
            break;
        };
        let Some(chunk) = after.get(..len) else { break };
        plain.push_str(chunk);
        rest = after[len..].strip_prefix("\r\n").unwrap_or("");
    }
    frames(&plain)
}

#[tokio::test]
async fn leaving_at_any_point_of_any_request_gives_all_back() {
    let live = Live::start().await;
    for stream in [false, true] {
        for steps in 1..=6 {
            live.faults.close();
            let before = live.faults.steps();
            // A prompt of several steps, then output: step by step the client leaves later.
            let long: Vec<u32> = (0..300).map(|token| 3 + token % 200).collect();
            let body =
                json!({"prompt": long, "max_tokens": 3, "ignore_eos": true, "stream": stream});
            let client = live.send(COMPLETIONS, &body).await;
            live.faults.admit(steps - 1);
            let faults = live.faults.clone();
            let arrived = tokio::task::spawn_blocking(move || faults.wait_for(before + 1));
            arrived.await.unwrap();
            drop(client);
            live.faults.open();
            live.is_whole().await;
        }
    }
}

#[tokio::test]
async fn a_storm_of_clients_half_of_whom_leave_leaves_nothing_behind() {
    let live = Live::start().await;
    for round in 0..10_u32 {
        let mut clients = Vec::new();
        for client in 0..20_u32 {
            let number = round * 20 + client;
            let sent = live
                .send(
                    COMPLETIONS,
                    &body(number.is_multiple_of(3), 1 + number % 17),
                )
                .await;
            clients.push((number, sent));
        }
        for (number, mut client) in clients {
            if number.is_multiple_of(2) {
                drop(client);
            } else {
                assert_eq!(Answer::parse(&read_to_end(&mut client).await).status, 200);
            }
        }
    }
    live.is_whole().await;
}

#[tokio::test]
async fn a_full_queue_says_so_at_once() {
    let live = Live::over(config(), &narrow()).await;
    live.faults.close();
    let mut taken = Vec::new();
    for _ in 0..3 {
        let mut client = live.send(COMPLETIONS, &body(true, 2)).await;
        // The head of a stream comes when its place is taken.
        read_until(&mut client, "text/event-stream").await;
        taken.push(client);
    }
    let refused = live.post(COMPLETIONS, &body(false, 1)).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "queue_full")
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    live.faults.open();
    for mut client in taken {
        assert!(read_to_end(&mut client).await.contains("[DONE]"));
    }
    live.is_whole().await;
}

#[tokio::test]
async fn tokens_that_wait_are_bounded_too() {
    let options = EngineOptions {
        waiting_tokens_max: 200,
        ..narrow()
    };
    let live = Live::over(config(), &options).await;
    live.faults.close();
    let before = live.faults.steps();
    let mut running = live.send(COMPLETIONS, &body(false, 2)).await;
    let faults = live.faults.clone();
    tokio::task::spawn_blocking(move || faults.wait_for(before + 1))
        .await
        .unwrap();
    let prompt: Vec<u32> = (0..150).map(|token| 3 + token).collect();
    let large = json!({"prompt": prompt, "max_tokens": 1, "stream": true});
    let mut waiting = live.send(COMPLETIONS, &large).await;
    read_until(&mut waiting, "text/event-stream").await;
    let refused = live.post(COMPLETIONS, &large).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "queue_full")
    );
    assert!(
        refused.body.contains("150 tokens are waiting"),
        "{refused:?}"
    );
    live.faults.open();
    assert_eq!(Answer::parse(&read_to_end(&mut running).await).status, 200);
    assert!(read_to_end(&mut waiting).await.contains("[DONE]"));
    live.is_whole().await;
}

#[tokio::test]
async fn a_request_whose_turn_does_not_come_is_told() {
    let limits = HttpLimits {
        queue_time_max: SHORT,
        ..HttpLimits::default()
    };
    let live = Live::over(limited(limits), &narrow()).await;
    live.faults.close();
    let before = live.faults.steps();
    let mut running = live.send(COMPLETIONS, &body(false, 2)).await;
    let faults = live.faults.clone();
    tokio::task::spawn_blocking(move || faults.wait_for(before + 1))
        .await
        .unwrap();
    let waited = live.post(COMPLETIONS, &body(false, 2)).await;
    assert_eq!(
        (waited.status, waited.code().as_str()),
        (429, "queue_timeout")
    );
    assert_eq!(waited.header("retry-after"), Some("1"));
    let mut streamed = live.send(COMPLETIONS, &body(true, 2)).await;
    let events = events(&read_to_end(&mut streamed).await);
    assert!(
        events.len() == 1 && events[0].contains("queue_timeout"),
        "{events:?}"
    );
    live.faults.open();
    // What runs is not waiting, however long it takes.
    assert_eq!(Answer::parse(&read_to_end(&mut running).await).status, 200);
    assert_eq!(live.server.handle().metrics().finished.failed, 0);
    live.is_whole().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_with_504_or_an_error_event() {
    let limits = HttpLimits {
        request_time_max: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    live.faults.close();
    let mut whole = live.send(COMPLETIONS, &body(false, 400)).await;
    let mut streamed = live.send(COMPLETIONS, &body(true, 400)).await;
    live.faults.admit(5);
    let answer = Answer::parse(&read_to_end(&mut whole).await);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (504, "deadline_exceeded")
    );
    let events = events(&read_to_end(&mut streamed).await);
    let error: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "deadline_exceeded");
    assert!(!events.contains(&"[DONE]".to_owned()), "{events:?}");
    live.faults.open();
    live.is_whole().await;
    assert_eq!(live.server.handle().metrics().finished.cancelled, 2);
}

#[tokio::test]
async fn health_answers_beside_a_step_and_says_when_it_never_ends() {
    let limits = HttpLimits {
        step_time_max: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    live.faults.close();
    let mut client = live.send(COMPLETIONS, &body(false, 2)).await;
    let stalled = loop {
        let health = live.get("/health").await;
        if health.status != 200 {
            break health;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        (stalled.status, stalled.code().as_str()),
        (503, "engine_stalled")
    );
    live.faults.open();
    assert_eq!(Answer::parse(&read_to_end(&mut client).await).status, 200);
    live.is_whole().await;
}

#[tokio::test]
async fn a_server_that_leaves_says_so_and_goes_on_until_it_drains() {
    let limits = HttpLimits {
        drain_delay: Duration::from_secs(3),
        ..HttpLimits::default()
    };
    let mut live = Live::limited(limits).await;
    assert_eq!(live.get("/ready").await.status, 200);
    live.stop();
    let leaving = loop {
        let ready = live.get("/ready").await;
        if ready.status != 200 {
            break ready;
        }
    };
    assert_eq!(
        (leaving.status, leaving.code().as_str()),
        (503, "shutting_down")
    );
    assert_eq!(live.get("/health").await.status, 200);
    assert_eq!(live.post(COMPLETIONS, &body(false, 2)).await.status, 200);
    live.stopped().await;
}

#[tokio::test]
async fn draining_finishes_what_runs_and_turns_away_what_waits() {
    let mut live = Live::over(config(), &narrow()).await;
    live.faults.close();
    let before = live.faults.steps();
    let mut running = live.send(COMPLETIONS, &body(true, 5)).await;
    let faults = live.faults.clone();
    tokio::task::spawn_blocking(move || faults.wait_for(before + 1))
        .await
        .unwrap();
    let mut waiting = live.send(COMPLETIONS, &body(false, 5)).await;
    let mut waiting_stream = live.send(COMPLETIONS, &body(true, 5)).await;
    // The head of a stream comes before its turn does: then it is in the queue.
    read_until(&mut waiting_stream, "text/event-stream").await;
    live.stop();
    let late = read_to_end(&mut waiting_stream).await;
    assert!(
        late.contains("shutting_down") && !late.contains("[DONE]"),
        "{late}"
    );
    let turned_away = Answer::parse(&read_to_end(&mut waiting).await);
    assert_eq!(
        (turned_away.status, turned_away.code().as_str()),
        (503, "shutting_down")
    );
    // Probes and whoever comes now are still answered.
    assert_eq!(live.get("/health").await.status, 200);
    assert_eq!(live.get("/ready").await.status, 503);
    let new = live.post(COMPLETIONS, &body(false, 1)).await;
    assert_eq!((new.status, new.code().as_str()), (503, "shutting_down"));
    assert_eq!(new.header("retry-after"), Some("1"));
    live.faults.open();
    let text = read_to_end(&mut running).await;
    assert_eq!(events(&text).last().unwrap(), "[DONE]");
    live.stopped().await;
}

#[tokio::test]
async fn what_does_not_end_in_time_ends_with_an_error() {
    let limits = HttpLimits {
        drain_time_max: SHORT,
        ..HttpLimits::default()
    };
    let mut live = Live::limited(limits).await;
    live.faults.close();
    let before = live.faults.steps();
    let mut whole = live.send(COMPLETIONS, &body(false, 400)).await;
    let mut streamed = live.send(COMPLETIONS, &body(true, 400)).await;
    live.faults.admit(3);
    let faults = live.faults.clone();
    tokio::task::spawn_blocking(move || faults.wait_for(before + 4))
        .await
        .unwrap();
    live.stop();
    let events = events(&read_to_end(&mut streamed).await);
    assert!(
        events.last().unwrap().contains("shutting_down"),
        "{events:?}"
    );
    let answer = Answer::parse(&read_to_end(&mut whole).await);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "shutting_down")
    );
    live.faults.open();
    live.stopped().await;
}

#[tokio::test]
async fn the_same_request_id_twice_is_two_requests() {
    let live = Live::start().await;
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: same";
    let body = body(false, 3).to_string();
    let (one, two) = tokio::join!(live.ask(head, &body), live.ask(head, &body));
    for answer in [&one, &two] {
        assert_eq!(
            (answer.status, answer.header("x-request-id")),
            (200, Some("same"))
        );
    }
    let id =
        |answer: &Answer| serde_json::from_str::<Value>(&answer.body).unwrap()["id"].to_string();
    assert_ne!(id(&one), id(&two));
    live.is_whole().await;
}

#[tokio::test]
async fn slow_readers_beside_others_cost_them_nothing() {
    let limits = HttpLimits {
        stall_time_max: SHORT,
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    let long =
        json!({"prompt": "ba", "max_tokens": 400, "ignore_eos": true, "stream": true, "n": 2});
    let mut slow = Vec::new();
    for _ in 0..16 {
        slow.push(live.send(COMPLETIONS, &long).await);
    }
    assert_eq!(live.post(COMPLETIONS, &body(false, 20)).await.status, 200);
    live.server.settle().await;
    drop(slow);
    live.is_whole().await;
}

#[tokio::test]
async fn a_context_filled_to_its_end_and_one_beyond() {
    let options = EngineOptions {
        limits: Limits {
            model_len: Some(Tokens(64)),
            ..options().limits
        },
        ..options()
    };
    let live = Live::over(ServerConfig::default(), &options).await;
    for (tokens, status) in [(62, 200), (63, 200), (64, 400), (65, 400)] {
        let prompt: Vec<u32> = (0..tokens).map(|token| 3 + token).collect();
        let answer = live
            .post(COMPLETIONS, &json!({"prompt": prompt, "max_tokens": 1}))
            .await;
        assert_eq!(answer.status, status, "{tokens}: {answer:?}");
        if status == 400 {
            assert_eq!(answer.code(), "context_length_exceeded");
        }
    }
    live.is_whole().await;
}

#[tokio::test]
async fn a_request_begun_before_its_end_is_awaited() {
    let mut live = Live::start().await;
    let mut half = live.connect().await;
    let text = body(false, 2).to_string();
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    half.write_all(head.as_bytes()).await.unwrap();
    half.write_all(&text.as_bytes()[..5]).await.unwrap();
    live.get("/health").await;
    live.stop();
    half.write_all(&text.as_bytes()[5..]).await.unwrap();
    // It had not asked for anything yet: it is told to go elsewhere, and not left without an answer.
    let answer = Answer::parse(&read_to_end(&mut half).await);
    assert!([200, 503].contains(&answer.status), "{answer:?}");
    live.stopped().await;
}
