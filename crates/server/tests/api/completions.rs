//! `POST /v1/completions`, whole answers.

use serde_json::{Value, json};

use crate::support::{Client as _, Server, anonymous, tiny_model, with};

const PATH: &str = "/v1/completions";

fn greedy(prompt: impl Into<Value>) -> Value {
    json!({"prompt": prompt.into(), "temperature": 0, "max_tokens": 6, "ignore_eos": true})
}

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    let indices: Vec<_> = choices
        .iter()
        .map(|choice| choice["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, (0..choices.len() as u64).collect::<Vec<_>>());
    choices
        .iter()
        .map(|choice| choice["text"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn an_answer_is_openais_shape() {
    let server = Server::start();
    let answer = server.ask(PATH, &greedy("banana")).await;
    let expected = json!({
        "id": "cmpl",
        "object": "text_completion",
        "created": 0,
        "model": "tiny",
        "choices": [{
            "index": 0,
            "text": server.greedy("banana", 6),
            "logprobs": null,
            "finish_reason": "length",
            "stop_reason": null,
        }],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 6,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "system_fingerprint": "kvist",
    });
    assert_eq!(anonymous(answer), expected);
}

#[tokio::test]
async fn the_reference_implementations_tokens_come_out() {
    let server = Server::start();
    let golden = tiny_model().golden;
    let body = with(
        &greedy(golden.input_ids.clone()),
        json!({"max_tokens": golden.greedy.len(), "skip_special_tokens": false, "logprobs": 0}),
    );
    let answer = server.ask(PATH, &body).await;
    assert_eq!(texts(&answer), [server.token_text(&golden.greedy)]);
    assert_eq!(answer["usage"]["prompt_tokens"], golden.input_ids.len());
    assert_eq!(answer["usage"]["completion_tokens"], golden.greedy.len());
    let tokens: Vec<Value> = golden
        .greedy
        .iter()
        .map(|&token| json!(api_text(&server, token)))
        .collect();
    assert_eq!(
        answer["choices"][0]["logprobs"]["tokens"],
        Value::Array(tokens)
    );
}

/// A token as this endpoint writes it.
fn api_text(server: &Server, token: u32) -> String {
    let bytes = server.handle().token_bytes(kvist_base::TokenId(token));
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let hex: String = error
            .as_bytes()
            .iter()
            .map(|byte| format!("\\x{byte:02x}"))
            .collect();
        format!("bytes:{hex}")
    })
}

#[tokio::test]
async fn sixteen_tokens_are_the_default() {
    let server = Server::start();
    let answer = server
        .ask(PATH, &with(&greedy("banana"), json!({"max_tokens": null})))
        .await;
    assert_eq!(answer["usage"]["completion_tokens"], 16);
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_each_prompt_its_own_answer() {
    let server = Server::start();
    let prompts = ["banana", "hello there", "ba", "z", "lululu"];
    let answer = server.ask(PATH, &greedy(prompts.to_vec())).await;
    let expected: Vec<String> = prompts
        .iter()
        .map(|prompt| server.greedy(prompt, 6))
        .collect();
    assert_eq!(texts(&answer), expected);
    assert_eq!(answer["usage"]["completion_tokens"], 30);

    let ids = json!([[3, 4, 5], [300, 301]]);
    let together = server.ask(PATH, &greedy(ids.clone())).await;
    for (index, alone) in ids.as_array().unwrap().iter().enumerate() {
        let alone = server.ask(PATH, &greedy(alone.clone())).await;
        assert_eq!(texts(&together)[index], texts(&alone)[0]);
    }
    assert_eq!(together["usage"]["prompt_tokens"], 5);
}

#[tokio::test]
async fn one_text_alone_or_in_a_list_is_the_same() {
    let server = Server::start();
    let alone = server.ask(PATH, &greedy("banana")).await;
    let listed = server.ask(PATH, &greedy(vec!["banana"])).await;
    assert_eq!(texts(&alone), texts(&listed));
}

#[tokio::test]
async fn echo_puts_the_prompt_first() {
    let server = Server::start();
    for (prompt, text) in [
        (json!("banana"), "banana".to_owned()),
        (json!([300, 4]), server.token_text(&[300, 4])),
    ] {
        let plain = server.ask(PATH, &greedy(prompt.clone())).await;
        let echoed = server
            .ask(PATH, &with(&greedy(prompt), json!({"echo": true})))
            .await;
        assert_eq!(texts(&echoed)[0], format!("{text}{}", texts(&plain)[0]));
        assert_eq!(echoed["usage"]["completion_tokens"], 6);
    }
}

#[tokio::test]
async fn log_probabilities_are_parallel_lists() {
    let server = Server::start();
    for asked in [0, 5] {
        let answer = server
            .ask(PATH, &with(&greedy("banana"), json!({"logprobs": asked})))
            .await;
        let lists = &answer["choices"][0]["logprobs"];
        let list = |name: &str| lists[name].as_array().unwrap().clone();
        let tokens = list("tokens");
        let mut offset = 0;
        for (index, token) in tokens.iter().enumerate() {
            let token = token.as_str().unwrap();
            let logprob = &list("token_logprobs")[index];
            let top = list("top_logprobs")[index].as_object().unwrap().clone();
            // Greedy: the chosen token is among the likeliest, if any are listed.
            assert_eq!(top.len(), std::cmp::max(asked, 1), "{top:?}");
            assert_eq!(&top[token], logprob);
            assert!(
                top.values().all(|each| each.as_f64() <= logprob.as_f64()),
                "{top:?}"
            );
            assert_eq!(list("text_offset")[index], offset);
            offset += token.chars().count();
        }
        assert_eq!(tokens.len(), 6);
        for name in ["token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(list(name).len(), 6, "{name}");
        }
    }
}

#[tokio::test]
async fn a_sampled_token_is_listed_even_when_it_is_not_likely() {
    let server = Server::start();
    let hot = json!({"temperature": 2, "seed": 3, "logprobs": 1, "max_tokens": 40});
    let answer = server.ask(PATH, &with(&greedy("banana"), hot)).await;
    let lists = &answer["choices"][0]["logprobs"];
    let tops = lists["top_logprobs"].as_array().unwrap();
    for (top, token) in tops.iter().zip(lists["tokens"].as_array().unwrap()) {
        assert!(
            top.as_object()
                .unwrap()
                .contains_key(token.as_str().unwrap()),
            "{top} {token}"
        );
    }
    assert!(
        tops.iter().any(|top| top.as_object().unwrap().len() == 2),
        "every draw was the likeliest"
    );
}
