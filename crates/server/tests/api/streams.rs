//! Server-sent events.

use serde_json::{Value, json};

use crate::support::{Client as _, Server, anonymous, with};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat() -> Value {
    json!({
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "max_tokens": 24,
        "ignore_eos": true,
    })
}

fn completion() -> Value {
    json!({"prompt": "banana", "temperature": 0, "max_tokens": 24, "ignore_eos": true})
}

/// Pieces of alternative `index`: its text, and its finish reasons.
fn pieces(events: &[Value], index: usize) -> (String, Vec<&str>) {
    let mut text = String::new();
    let mut reasons = Vec::new();
    let choices = events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap());
    for choice in choices.filter(|choice| choice["index"] == index) {
        assert!(reasons.is_empty(), "{choice} after the end");
        let piece = choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str());
        text.push_str(piece.unwrap_or_default());
        reasons.extend(choice["finish_reason"].as_str());
    }
    (text, reasons)
}

#[tokio::test]
async fn a_chat_stream_is_openais_shape() {
    let server = Server::start();
    let body = with(&chat(), json!({"max_tokens": 1}));
    let events = server.stream(CHAT, &body).await;
    let whole = server.ask(CHAT, &body).await;
    let chunk = |delta: Value| {
        json!({
            "id": "chatcmpl",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "tiny", "system_fingerprint": "kvist",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}],
        })
    };
    let mut end = chunk(json!({}));
    end["choices"][0]["finish_reason"] = json!("length");
    let expected = [
        chunk(json!({"role": "assistant", "content": ""})),
        chunk(json!({"content": whole["choices"][0]["message"]["content"]})),
        end,
    ];
    let ids: Vec<_> = events.iter().map(|event| event["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(
        events.into_iter().map(anonymous).collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn a_completion_stream_is_openais_shape() {
    let server = Server::start();
    let body = with(&completion(), json!({"max_tokens": 1, "echo": true}));
    let events = server.stream(COMPLETIONS, &body).await;
    let chunk = |text: &str, reason: Value| {
        json!({
            "id": "cmpl",
            "object": "text_completion",
            "created": 0,
            "model": "tiny", "system_fingerprint": "kvist",
            "choices": [{
                "index": 0, "text": text, "logprobs": null, "finish_reason": reason, "stop_reason": null,
            }],
        })
    };
    let expected = [
        chunk("banana", Value::Null),
        chunk(&server.greedy("banana", 1), Value::Null),
        chunk("", json!("length")),
    ];
    assert_eq!(
        events.into_iter().map(anonymous).collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn streamed_text_is_the_whole_text() {
    let server = Server::start();
    let variants = [
        json!({}),
        json!({"max_tokens": 200}),
        json!({"temperature": 1.5, "seed": 5, "max_tokens": 100}),
        json!({"temperature": 1.5, "seed": 5, "max_tokens": 40, "n": 3}),
        json!({"stop": "e"}),
    ];
    for variant in variants {
        for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
            let body = with(&base, variant.clone());
            let whole = server.ask(path, &body).await;
            let events = server.stream(path, &body).await;
            for choice in whole["choices"].as_array().unwrap() {
                let index = choice["index"].as_u64().unwrap() as usize;
                let (text, reasons) = pieces(&events, index);
                let expected = choice["message"]["content"]
                    .as_str()
                    .or(choice["text"].as_str());
                assert_eq!(Some(text.as_str()), expected, "{body}");
                assert_eq!(
                    reasons,
                    [choice["finish_reason"].as_str().unwrap()],
                    "{body}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_alternative_of_a_chat_begins_with_its_role() {
    let server = Server::start();
    let events = server
        .stream(
            CHAT,
            &with(&chat(), json!({"n": 2, "temperature": 1, "seed": 1})),
        )
        .await;
    for index in 0..2 {
        let mine: Vec<_> = events
            .iter()
            .map(|event| &event["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        assert_eq!(
            mine[0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        assert!(
            mine[1..]
                .iter()
                .all(|choice| choice["delta"].get("role").is_none())
        );
    }
}

#[tokio::test]
async fn usage_comes_last_when_asked_for() {
    let server = Server::start();
    for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
        let whole = server.ask(path, &base).await;
        let asked = with(&base, json!({"stream_options": {"include_usage": true}}));
        let mut events = server.stream(path, &asked).await;
        let last = events.pop().unwrap();
        assert_eq!(last["choices"], json!([]));
        for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(last["usage"][key], whole["usage"][key], "{path} {key}");
        }
        assert!(
            events
                .iter()
                .all(|event| event.get("usage") == Some(&Value::Null)),
            "{path}"
        );

        for silent in [
            json!({}),
            json!({"stream_options": {"include_usage": false}}),
        ] {
            let events = server.stream(path, &with(&base, silent)).await;
            assert!(
                events.iter().all(|event| event.get("usage").is_none()),
                "{path}"
            );
            assert!(
                events.iter().all(|event| event["choices"] != json!([])),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn streamed_log_probabilities_are_the_whole_ones() {
    let server = Server::start();
    let body = with(&completion(), json!({"logprobs": 2}));
    let whole = server.ask(COMPLETIONS, &body).await;
    let events = server.stream(COMPLETIONS, &body).await;
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let streamed: Vec<Value> = events
            .iter()
            .filter_map(|event| event["choices"][0]["logprobs"][list].as_array())
            .flatten()
            .cloned()
            .collect();
        assert_eq!(
            Value::Array(streamed),
            whole["choices"][0]["logprobs"][list],
            "{list}"
        );
    }

    let body = with(&chat(), json!({"logprobs": true, "top_logprobs": 2}));
    let whole = server.ask(CHAT, &body).await;
    let streamed: Vec<Value> = server
        .stream(CHAT, &body)
        .await
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(
        Value::Array(streamed),
        whole["choices"][0]["logprobs"]["content"]
    );
}

#[tokio::test]
async fn the_stop_condition_is_named_in_the_last_piece() {
    let server = Server::start();
    let forced = json!({"logit_bias": {"300": 100}, "stop_token_ids": [300]});
    for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
        let events = server.stream(path, &with(&base, forced.clone())).await;
        let last = &events.last().unwrap()["choices"][0];
        assert_eq!(
            (&last["finish_reason"], &last["stop_reason"]),
            (&json!("stop"), &json!(300))
        );
    }
}
