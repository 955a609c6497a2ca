//! What request fields do to the output, and that they arrive where they should.

use kvist_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{Client as _, Server, VOCAB_LEN, config, with};

const PATH: &str = "/v1/completions";

fn base() -> Value {
    json!({"prompt": "banana", "max_tokens": 12, "ignore_eos": true, "temperature": 0})
}

async fn text(server: &Server, more: Value) -> String {
    let answer = server.ask(PATH, &with(&base(), more)).await;
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_seed_fixes_the_draws_whatever_runs_beside() {
    let server = Server::start();
    let seeded = |seed: i64| json!({"temperature": 1.5, "seed": seed, "max_tokens": 40});
    for seed in [0, -1, i64::MAX, i64::MIN] {
        let alone = text(&server, seeded(seed)).await;
        let crowd = with(&seeded(seed), json!({"prompt": ["z", "banana", "hello"]}));
        let crowd = server.ask(PATH, &with(&base(), crowd)).await;
        assert_eq!(crowd["choices"][1]["text"], alone, "seed {seed}");
    }
    assert_ne!(
        text(&server, seeded(1)).await,
        text(&server, seeded(2)).await
    );
}

#[tokio::test]
async fn without_a_seed_draws_differ() {
    let server = Server::start();
    let hot = || json!({"temperature": 1.5, "max_tokens": 40});
    assert_ne!(text(&server, hot()).await, text(&server, hot()).await);
}

#[tokio::test]
async fn a_server_with_a_seed_repeats_itself_request_by_request() {
    let hot = || json!({"temperature": 1.5, "max_tokens": 40});
    let mut runs = Vec::new();
    for seed in [5, 5, 6] {
        let server = Server::with_config(ServerConfig {
            seed: Some(seed),
            ..config()
        });
        runs.push([text(&server, hot()).await, text(&server, hot()).await]);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    assert_ne!(runs[0][0], runs[0][1], "requests of one server differ");
}

#[tokio::test]
async fn alternatives_differ_and_the_first_is_what_one_would_be() {
    let server = Server::start();
    let hot = json!({"temperature": 1.5, "seed": 7, "max_tokens": 40});
    let one = text(&server, hot.clone()).await;
    let body = with(
        &base(),
        with(&hot, json!({"n": 3, "prompt": ["banana", "hello"]})),
    );
    let answer = server.ask(PATH, &body).await;
    let texts: Vec<_> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts.len(), 6);
    assert_eq!(texts[0], one);
    for (a, b) in [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)] {
        assert_ne!(texts[a], texts[b], "alternatives {a} and {b}");
    }
    // Prompts count once, outputs each.
    assert_eq!(answer["usage"]["completion_tokens"], 240);
    let alone = server
        .ask(PATH, &with(&base(), json!({"prompt": "hello"})))
        .await;
    let prompts = 3 + alone["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(answer["usage"]["prompt_tokens"], prompts);
}

#[tokio::test]
async fn stop_strings_cut_exactly_and_are_named() {
    let server = Server::start();
    let free = text(&server, json!({})).await;
    let stop: String = free.chars().skip(3).take(2).collect();
    let cut = free.find(&stop).unwrap();
    for stops in [json!(stop), json!(["never\u{1F600}", stop])] {
        let answer = server
            .ask(PATH, &with(&base(), json!({"stop": stops})))
            .await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["text"], free[..cut]);
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice["stop_reason"], stop);
    }
}

#[tokio::test]
async fn stop_tokens_end_the_output_and_are_named() {
    let server = Server::start();
    // Nothing but token 300 can be drawn.
    let forced = json!({"logit_bias": {"300": 100}, "repetition_penalty": 1});
    let free = server.ask(PATH, &with(&base(), forced.clone())).await;
    assert_eq!(free["choices"][0]["text"], server.token_text(&[300; 12]));
    assert_eq!(free["choices"][0]["finish_reason"], "length");

    let answer = server
        .ask(
            PATH,
            &with(&base(), with(&forced, json!({"stop_token_ids": [5, 300]}))),
        )
        .await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!(""), &json!("stop"))
    );
    assert_eq!(choice["stop_reason"], 300);
    assert_eq!(answer["usage"]["completion_tokens"], 1);
}

#[tokio::test]
async fn end_tokens_stop_unless_ignored_or_too_early() {
    let server = Server::start();
    let forced = json!({"logit_bias": {"2": 100}, "ignore_eos": false});
    let answer = server.ask(PATH, &with(&base(), forced.clone())).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["stop_reason"]),
        (&json!("stop"), &Value::Null)
    );
    assert_eq!(answer["usage"]["completion_tokens"], 1);

    let later = with(&forced, json!({"min_tokens": 5}));
    let answer = server.ask(PATH, &with(&base(), later)).await;
    assert_eq!(answer["usage"]["completion_tokens"], 6);

    let ignored = with(&forced, json!({"ignore_eos": true}));
    let answer = server.ask(PATH, &with(&base(), ignored.clone())).await;
    assert_eq!(
        (
            &answer["choices"][0]["text"],
            &answer["usage"]["completion_tokens"]
        ),
        (&json!(""), &json!(12))
    );
    let shown = with(&ignored, json!({"skip_special_tokens": false}));
    assert_eq!(text(&server, shown).await, "<eos>".repeat(12));
}

#[tokio::test]
async fn every_sampling_field_arrives() {
    let server = Server::start();
    let hot = json!({"temperature": 2, "seed": 11, "max_tokens": 40});
    let reference = text(&server, hot.clone()).await;
    let cold = text(&server, json!({"max_tokens": 40})).await;
    // Each of these leaves one token to draw from.
    for narrow in [
        json!({"top_k": 1}),
        json!({"top_p": 1e-6}),
        json!({"min_p": 1}),
    ] {
        assert_eq!(
            text(&server, with(&hot, narrow.clone())).await,
            cold,
            "{narrow}"
        );
    }
    // Each of these turns itself off.
    for off in [
        json!({"top_k": 0}),
        json!({"top_k": -1}),
        json!({"top_p": 1}),
        json!({"min_p": 0}),
    ] {
        assert_eq!(
            text(&server, with(&hot, off.clone())).await,
            reference,
            "{off}"
        );
    }
    // Each of these keeps a forced token from being drawn for ever.
    let forced = json!({"logit_bias": {"300": 3}, "max_tokens": 40});
    let monotone = text(&server, forced.clone()).await;
    for penalty in [
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    ] {
        let varied = text(&server, with(&forced, json!({penalty: 2}))).await;
        assert_ne!(varied, monotone, "{penalty}");
    }
}

#[tokio::test]
async fn numbers_at_the_ends_of_their_ranges_are_taken() {
    let server = Server::start();
    for edge in [
        json!({"temperature": 2.0}),
        json!({"temperature": 1e-30}),
        json!({"top_p": 1.0}),
        json!({"presence_penalty": -2, "frequency_penalty": 2}),
        json!({"logit_bias": {(VOCAB_LEN - 1).to_string(): -100, "0": 100}}),
        json!({"n": 16, "max_tokens": 1}),
        json!({"logprobs": 5}),
        json!({"stop": vec!["never"; 16]}),
        json!({"max_tokens": 12.0, "seed": 1.0}),
    ] {
        server.ask(PATH, &with(&base(), edge)).await;
    }
}
