//! `POST /v1/chat/completions`, whole answers.

use serde_json::{Value, json};

use crate::support::{Client as _, Server, anonymous, with};

const PATH: &str = "/v1/chat/completions";

fn hello() -> Value {
    json!({
        "model": "tiny",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "max_tokens": 8,
        "ignore_eos": true,
    })
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn an_answer_is_openais_shape() {
    let server = Server::start();
    let answer = server.ask(PATH, &hello()).await;
    let prompt = "user: hello\nassistant:";
    let prompt_tokens = server
        .handle()
        .tokenize(prompt, kvist_engine::SpecialText::Parse)
        .unwrap()
        .len();
    let expected = json!({
        "id": "chatcmpl",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [{
            "index": 0,
            "message": {
                "role": "assistant",
                "content": server.greedy(prompt, 8),
                "refusal": null,
            },
            "logprobs": null,
            "finish_reason": "length",
            "stop_reason": null,
        }],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 8,
            "total_tokens": prompt_tokens + 8,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "system_fingerprint": "kvist",
    });
    assert_eq!(anonymous(answer), expected);
}

#[tokio::test]
async fn ids_differ_and_say_what_they_are() {
    let server = Server::start();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = server.ask(PATH, &hello()).await;
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    assert!(ids.iter().all(|id| id.starts_with("chatcmpl-")), "{ids:?}");
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn equal_conversations_however_spelled_get_equal_answers() {
    let server = Server::start();
    let say = |messages: Value| with(&hello(), json!({"messages": messages}));
    let plain = server
        .ask(PATH, &say(json!([{"role": "system", "content": "be\nbrief"}, {"role": "user", "content": "hi"}])))
        .await;
    for same in [
        json!([{"role": "developer", "content": "be\nbrief"}, {"role": "user", "content": "hi"}]),
        json!([
            {"role": "system", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        ]),
    ] {
        let answer = server.ask(PATH, &say(same.clone())).await;
        assert_eq!(content(&answer), content(&plain), "{same}");
        assert_eq!(
            answer["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"],
            "{same}"
        );
    }
}

#[tokio::test]
async fn a_conversation_goes_on_turn_by_turn() {
    let server = Server::start();
    let first = server.ask(PATH, &hello()).await;
    let messages = json!([
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": content(&first)},
        {"role": "tool", "content": "7", "tool_call_id": "call-1"},
        {"role": "user", "content": "and now?"},
    ]);
    let second = server
        .ask(PATH, &with(&hello(), json!({"messages": messages})))
        .await;
    let prompt = format!(
        "user: hello\nassistant: {}\ntool: 7\nuser: and now?\nassistant:",
        content(&first)
    );
    assert_eq!(content(&second), server.greedy(&prompt, 8));
}

#[tokio::test]
async fn the_generation_prompt_can_be_left_out() {
    let server = Server::start();
    let answer = server
        .ask(
            PATH,
            &with(&hello(), json!({"add_generation_prompt": false})),
        )
        .await;
    assert_eq!(content(&answer), server.greedy("user: hello\n", 8));
}

#[tokio::test]
async fn both_names_of_the_output_limit_mean_the_same() {
    let server = Server::start();
    let newer = json!({"max_tokens": null, "max_completion_tokens": 3});
    let answer = server.ask(PATH, &with(&hello(), newer)).await;
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    let both = json!({"max_tokens": 3, "max_completion_tokens": 3.0});
    let answer = server.ask(PATH, &with(&hello(), both)).await;
    assert_eq!(answer["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn without_a_limit_the_answer_fills_the_context() {
    let server = Server::start();
    let answer = server
        .ask(PATH, &with(&hello(), json!({"max_tokens": null})))
        .await;
    assert_eq!(answer["usage"]["total_tokens"], crate::support::CONTEXT);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn log_probabilities_come_with_text_and_bytes() {
    let server = Server::start();
    let answer = server
        .ask(
            PATH,
            &with(&hello(), json!({"logprobs": true, "top_logprobs": 3})),
        )
        .await;
    let positions = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(positions.len(), 8);
    for position in positions {
        let top = position["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the chosen token is the likeliest, and the list is ordered.
        for key in ["token", "logprob", "bytes"] {
            assert_eq!(top[0][key], position[key], "{position}");
        }
        let likelihood: Vec<f64> = top
            .iter()
            .map(|each| each["logprob"].as_f64().unwrap())
            .collect();
        assert!(
            likelihood.is_sorted_by(|a, b| a >= b) && likelihood[0] <= 0.0,
            "{position}"
        );
        for each in top {
            let bytes: Vec<u8> = serde_json::from_value(each["bytes"].clone()).unwrap();
            assert_eq!(each["token"], *String::from_utf8_lossy(&bytes), "{each}");
        }
    }
    let bytes: Vec<u8> = positions
        .iter()
        .flat_map(|position| serde_json::from_value::<Vec<u8>>(position["bytes"].clone()).unwrap())
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), content(&answer));

    let bare = server
        .ask(PATH, &with(&hello(), json!({"logprobs": true})))
        .await;
    let position = &bare["choices"][0]["logprobs"]["content"][0];
    assert_eq!(position["top_logprobs"], json!([]));
    assert_eq!(position["token"], positions[0]["token"]);

    // A draw that is not the likeliest token is not listed among them.
    let hot =
        json!({"logprobs": true, "top_logprobs": 1, "temperature": 2, "seed": 3, "max_tokens": 40});
    let hot = server.ask(PATH, &with(&hello(), hot)).await;
    let positions = hot["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(
        positions
            .iter()
            .all(|each| each["top_logprobs"].as_array().unwrap().len() == 1)
    );
    assert!(
        positions
            .iter()
            .any(|each| each["top_logprobs"][0]["token"] != each["token"])
    );

    let none = server
        .ask(
            PATH,
            &with(&hello(), json!({"logprobs": false, "top_logprobs": 0})),
        )
        .await;
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn any_served_name_will_do_and_the_first_is_answered() {
    let server = Server::start();
    for model in [json!("tiny"), json!("alias"), Value::Null] {
        let answer = server
            .ask(PATH, &with(&hello(), json!({"model": model})))
            .await;
        assert_eq!(answer["model"], "tiny");
    }
}

#[tokio::test]
async fn a_repeated_prompt_reports_its_prefix_hit() {
    let server = Server::start();
    let long = "banana ".repeat(20);
    let body = with(
        &hello(),
        json!({"messages": [{"role": "user", "content": long}]}),
    );
    let first = server.ask(PATH, &body).await;
    let second = server.ask(PATH, &body).await;
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let hit = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert!(
        hit >= 16 && hit < second["usage"]["prompt_tokens"].as_u64().unwrap(),
        "{second}"
    );
    assert_eq!(content(&first), content(&second));
}

#[tokio::test]
async fn a_large_conversation_is_tokenised_off_the_server_thread() {
    let server = Server::start();
    // More bytes than are tokenised in place, and more tokens than the context holds.
    let messages: Vec<Value> = (0..2200)
        .map(|_| json!({"role": "user", "content": "bananana "}))
        .collect();
    let reply = server
        .post(PATH, &with(&hello(), json!({"messages": messages})))
        .await;
    let (status, _, code, param) = reply.error();
    assert_eq!(
        (status, code.as_str()),
        (400, "context_length_exceeded"),
        "{}",
        reply.body
    );
    assert_eq!(param.as_deref(), Some("messages"));
    server.settle().await;
}
