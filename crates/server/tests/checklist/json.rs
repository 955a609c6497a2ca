//! C: JSON that is not what it seems, and fields at both sides of their bounds, over sockets.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::VOCAB_LEN;
use crate::wire::{Answer, Live};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

async fn raw(live: &Live, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Answer::parse(&live.exchange([head.as_bytes(), body].concat()).await)
}

#[tokio::test]
async fn what_is_not_json_is_located() {
    let live = Live::start().await;
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 12] = [
        b"null",
        b"[]",
        b"{",
        b"{\"prompt\": \"ba\",}",
        b"\xef\xbb\xbf{\"prompt\": \"ba\"}",
        b"{\"prompt\": \"\xff\"}",
        b"\xff\xfe{\x00}\x00",
        b"{'prompt': 1}",
        b"{\"prompt\": NaN}",
        b"{\"prompt\": Infinity}",
        b"{\"prompt\": 01}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let answer = raw(&live, COMPLETIONS, body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_json"),
            "{shown}"
        );
        assert!(
            answer.body.contains("line 1, column "),
            "{shown}: {answer:?}"
        );
    }
    let lone = raw(&live, COMPLETIONS, br#"{"prompt": "\ud800"}"#).await;
    assert_eq!(lone.status, 400, "{lone:?}");
    live.is_whole().await;
}

#[tokio::test]
async fn numbers_are_what_they_say_and_the_last_of_two_counts() {
    let live = Live::start().await;
    let fine = [
        r#"{"prompt": "ba", "max_tokens": 9, "max_tokens": 2}"#,
        r#"{"prompt": "ba", "max_tokens": 2.0}"#,
        r#"{"prompt": "ba", "max_tokens": 2, "temperature": -0.0}"#,
        r#"{"prompt": "ba", "max_tokens": 2, "temperature": 1e-30}"#,
        r#"{"prompt": "ba", "max_tokens": 2, "seed": 9223372036854775807}"#,
        r#"{"prompt": "ba", "max_tokens": 2, "seed": -9223372036854775808}"#,
    ];
    for body in fine {
        let answer = raw(&live, COMPLETIONS, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        let tokens =
            &serde_json::from_str::<Value>(&answer.body).unwrap()["usage"]["completion_tokens"];
        assert_eq!(tokens, 2, "{body}");
    }
    let bad = [
        r#""max_tokens": "5""#,
        r#""max_tokens": 2.5"#,
        r#""max_tokens": 9223372036854775808"#,
        r#""max_tokens": -1"#,
        r#""max_tokens": 0"#,
        r#""temperature": 1e400"#,
        r#""temperature": "1""#,
        r#""temperature": -1"#,
        r#""temperature": 2.1"#,
        r#""top_p": 0"#,
        r#""top_p": 1.1"#,
        r#""top_k": -2"#,
        r#""presence_penalty": 2.1"#,
        r#""frequency_penalty": -2.1"#,
        r#""n": 0"#,
        r#""n": -1"#,
        r#""n": 129"#,
        r#""n": 2147483648"#,
        r#""n": 1e30"#,
        r#""seed": 1e19"#,
        r#""stream": 1"#,
        r#""logprobs": 6"#,
        r#""logprobs": -1"#,
        r#""min_p": -0.1"#,
    ];
    for field in bad {
        for (path, prompt) in [
            (COMPLETIONS, r#""prompt": "ba""#),
            (CHAT, r#""messages": [{"role": "user", "content": "a"}]"#),
        ] {
            let answer = raw(&live, path, format!("{{{prompt}, {field}}}").as_bytes()).await;
            assert_eq!(answer.status, 400, "{path} {field}: {answer:?}");
        }
    }
    live.is_whole().await;
}

#[tokio::test]
async fn lists_are_bounded_before_they_cost_anything() {
    let live = Live::start().await;
    let many = |count: usize, each: Value| Value::Array(vec![each; count]);
    let bias: serde_json::Map<String, Value> =
        (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    let cases = [
        json!({"prompt": "ba", "best_of": 21}),
        json!({"prompt": "ba", "stop": many(17, json!("x"))}),
        json!({"prompt": "ba", "stop": many(500_000, json!("x"))}),
        json!({"prompt": "ba", "stop": ["x".repeat(1 << 20)]}),
        json!({"prompt": "ba", "stop": [""]}),
        json!({"prompt": "ba", "logit_bias": bias}),
        json!({"prompt": "ba", "logit_bias": {"-1": 1}}),
        json!({"prompt": "ba", "logit_bias": {VOCAB_LEN.to_string(): 1}}),
        json!({"prompt": "ba", "logit_bias": {"abc": 1}}),
        json!({"prompt": "ba", "logit_bias": {"1": 101}}),
        json!({"prompt": "ba", "stop_token_ids": many(129, json!(1))}),
        json!({"prompt": many(10_000, json!("ba"))}),
        json!({"prompt": many(65, json!("ba"))}),
        json!({"prompt": [VOCAB_LEN]}),
        json!({"prompt": [-1]}),
        json!({"prompt": [[[1]]]}),
        json!({"prompt": []}),
        json!({"prompt": ""}),
        json!({"prompt": "a".repeat(3 << 20)}),
        json!({"messages": []}),
        json!({"cache_salt": "x".repeat(257), "prompt": "ba"}),
    ];
    for body in cases {
        let answer = live.post(COMPLETIONS, &body).await;
        assert_eq!(answer.status, 400, "{:.80}: {answer:?}", body.to_string());
        assert!(answer.body.len() < 3000, "{:.80}", body.to_string());
    }
    live.is_whole().await;
}

#[tokio::test]
async fn nothing_a_request_names_is_fetched() {
    let live = Live::start().await;
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", trap.local_addr().unwrap());
    let part = |kind: &str, url: &str| json!({"type": kind, kind: {"url": url}});
    for address in [
        url.as_str(),
        "file:///etc/passwd",
        "http://169.254.169.254/x",
        "http:\\\\127.0.0.1\\x",
    ] {
        for kind in ["image_url", "input_audio", "video_url", "file"] {
            let content = json!([{"type": "text", "text": "a"}, part(kind, address)]);
            let answer = live
                .post(
                    CHAT,
                    &json!({"messages": [{"role": "user", "content": content}]}),
                )
                .await;
            assert_eq!(answer.status, 400, "{kind} {address}: {answer:?}");
        }
    }
    let in_text = json!({"messages": [{"role": "user", "content": format!("![x]({url})")}], "max_tokens": 2, "model": url});
    assert_eq!(live.post(CHAT, &in_text).await.status, 404);
    let caught = tokio::time::timeout(std::time::Duration::from_millis(200), trap.accept()).await;
    assert!(
        caught.is_err(),
        "the server connected to an address of a request"
    );
    live.is_whole().await;
}

#[tokio::test]
async fn a_template_is_the_models_and_not_the_requests() {
    let live = Live::start().await;
    let ask = |more: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let evil = "{% for x in range(1000000000) %}x{% endfor %}";
    let answer = live.post(CHAT, &ask(json!({"chat_template": evil}))).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    for name in ["messages", "tools", "add_generation_prompt", "bos_token"] {
        let answer = live
            .post(CHAT, &ask(json!({"chat_template_kwargs": {name: true}})))
            .await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
    live.is_whole().await;
}
