//! Everything that is answered with an error, and that the server is none the worse for it.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use kvist_base::Bytes;
use kvist_engine::EngineOptions;
use kvist_server::{HttpLimits, ServerConfig};
use serde_json::{Value, json};

use crate::support::{Client as _, Reply, Server, config, options, request, with};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat() -> Value {
    json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2})
}

fn completion() -> Value {
    json!({"prompt": "banana", "max_tokens": 2})
}

/// A refusal with status 400, code and param; returns its message.
async fn refused(
    server: &Server,
    path: &str,
    body: &Value,
    expected: (&str, Option<&str>),
) -> String {
    let reply = server.post(path, body).await;
    let (status, kind, code, param) = reply.error();
    assert_eq!(
        (status, kind.as_str()),
        (400, "invalid_request_error"),
        "{body}: {}",
        reply.body
    );
    assert_eq!(
        (code.as_str(), param.as_deref()),
        expected,
        "{body}: {}",
        reply.body
    );
    reply.message()
}

#[tokio::test]
async fn an_error_is_openais_shape() {
    let server = Server::start();
    let reply = server
        .post(COMPLETIONS, &with(&completion(), json!({"n": 17})))
        .await;
    let expected = json!({"error": {
        "message": "n must be 1 to 16, but is 17",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_value",
    }});
    assert_eq!((reply.status.as_u16(), reply.json()), (400, expected));
    assert_eq!(reply.headers["content-type"], "application/json");
}

#[tokio::test]
async fn broken_json_is_located() {
    let server = Server::start();
    for (body, place) in [
        ("", "line 1, column 0"),
        ("{", "line 1, column 1"),
        ("{\n  \"prompt\": \"x\",\n}", "line 3, column 1"),
        ("null", "line 1, column 4"),
        ("[]", "line 1, column 0"),
        ("\"prompt\"", "line 1, column 8"),
        ("{\"prompt\": \"x\"} {}", "line 1, column 17"),
        ("{\"prompt\": nope}", "line 1, column 13"),
        ("\u{feff}{}", "line 1, column 1"),
        ("{\"a\": 1 \"b\": 2}", "line 1, column 9"),
    ] {
        for path in [CHAT, COMPLETIONS] {
            let reply = server.post_text(path, body).await;
            let (status, _, code, param) = reply.error();
            assert_eq!(
                (status, code.as_str(), param),
                (400, "invalid_json", None),
                "{body:?}"
            );
            assert!(
                reply.message().contains(place),
                "{body:?}: {}",
                reply.message()
            );
        }
    }
    let not_utf8 = request(
        Method::POST,
        COMPLETIONS,
        Body::from(&b"{\"prompt\": \"\xff\"}"[..]),
    );
    assert_eq!(server.send(not_utf8).await.error().0, 400);
}

#[tokio::test]
async fn depth_and_width_are_bounded() {
    let server = Server::start();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(
        server.post_text(CHAT, &deep).await.error().2,
        "invalid_json"
    );
    let messages = format!("{{\"messages\": {deep}}}");
    assert_eq!(server.post_text(CHAT, &messages).await.error().0, 400);
    // Also where nobody reads it.
    let unknown = format!("{{\"prompt\": \"ba\", \"max_tokens\": 1, \"x\": {deep}}}");
    let reply = server.post_text(COMPLETIONS, &unknown).await;
    assert_eq!(reply.error().2, "invalid_json");
    assert!(
        reply.message().contains("column 103)"),
        "{}",
        reply.message()
    );
    let shallow = format!(
        "{{\"prompt\": \"ba\", \"max_tokens\": 1, \"x\": {}1{}}}",
        "[".repeat(63),
        "]".repeat(63)
    );
    assert_eq!(server.post_text(COMPLETIONS, &shallow).await.status, 200);

    let fields: String = (0..300).map(|n| format!("\"f{n}\": 1,")).collect();
    let wide = format!("{{{fields} \"prompt\": \"x\"}}");
    assert_eq!(
        server.post_text(COMPLETIONS, &wide).await.error().2,
        "invalid_json"
    );
    let kwargs = json!({"chat_template_kwargs": {"x": "y".repeat(70_000)}});
    let refusal = ("invalid_type", Some("chat_template_kwargs"));
    refused(&server, CHAT, &with(&chat(), kwargs), refusal).await;
}

#[tokio::test]
async fn wrong_types_are_named_with_their_path() {
    let server = Server::start();
    for (field, value, detail) in [
        (
            "temperature",
            json!("hot"),
            "invalid type: string \"hot\", expected f32",
        ),
        (
            "max_tokens",
            json!("5"),
            "invalid type: string \"5\", expected an integer",
        ),
        ("max_tokens", json!(1.5), "1.5 is not an integer"),
        (
            "seed",
            json!(1_u64 << 63),
            "9223372036854775808 is larger than any 64-bit signed integer",
        ),
        (
            "stream",
            json!("yes"),
            "invalid type: string \"yes\", expected a boolean",
        ),
        ("stop", json!(5), "expected a string or a list of strings"),
        (
            "stop_token_ids",
            json!(5),
            "invalid type: integer `5`, expected a list",
        ),
        (
            "logit_bias",
            json!([1]),
            "invalid type: sequence, expected an object of token ids and numbers",
        ),
        (
            "model",
            json!(7),
            "invalid type: integer `7`, expected a string",
        ),
        (
            "stream_options",
            json!("all"),
            "invalid type: string \"all\", expected an object",
        ),
    ] {
        for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
            let body = with(&base, json!({field: value}));
            let message = refused(&server, path, &body, ("invalid_type", Some(field))).await;
            assert_eq!(message, format!("{field}: {detail}"));
        }
    }
    let huge = r#"{"prompt": "x", "temperature": 1e400}"#;
    assert_eq!(
        server
            .post_text(COMPLETIONS, huge)
            .await
            .error()
            .3
            .as_deref(),
        Some("temperature")
    );

    for (messages, path) in [
        (json!("hello"), "messages"),
        (json!(["hello"]), "messages[0]"),
        (
            json!([{"role": "user", "content": "a"}, {"role": 5}]),
            "messages[1].role",
        ),
        (
            json!([{"role": "user", "content": {"text": "a"}}]),
            "messages[0].content",
        ),
        (
            json!([{"role": "user", "content": ["a"]}]),
            "messages[0].content[0]",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": 5}]}]),
            "messages[0].content[0].text",
        ),
    ] {
        let body = with(&chat(), json!({"messages": messages}));
        refused(&server, CHAT, &body, ("invalid_type", Some(path))).await;
    }
    for prompt in [
        json!(5),
        json!({"a": 1}),
        json!([1, "a"]),
        json!(["a", 1]),
        json!([-1]),
        json!([[1], 2]),
        json!([1.5]),
    ] {
        let reply = server
            .post(COMPLETIONS, &with(&completion(), json!({"prompt": prompt})))
            .await;
        let (status, _, code, param) = reply.error();
        assert_eq!((status, code.as_str()), (400, "invalid_type"), "{prompt}");
        assert!(param.unwrap().starts_with("prompt"), "{prompt}");
    }
    let surrogate = r#"{"prompt": "\ud800"}"#;
    assert_eq!(
        server.post_text(COMPLETIONS, surrogate).await.error().0,
        400
    );
}

#[tokio::test]
async fn what_was_sent_is_not_sent_back_at_length() {
    let server = Server::start();
    let long = "é".repeat(100_000);
    for more in [
        json!({"temperature": long}),
        json!({"model": long}),
        json!({"logit_bias": {(long.clone()): 1}}),
    ] {
        let reply = server.post(COMPLETIONS, &with(&completion(), more)).await;
        assert!((400..=404).contains(&reply.error().0));
        let message = reply.message();
        assert!(
            message.ends_with("...") && message.chars().count() == 1003,
            "{message:.80}"
        );
    }
}

#[tokio::test]
async fn missing_and_empty_prompts_are_refused() {
    let server = Server::start();
    let missing = "missing_required_parameter";
    refused(&server, CHAT, &json!({}), (missing, Some("messages"))).await;
    refused(
        &server,
        CHAT,
        &json!({"messages": null}),
        (missing, Some("messages")),
    )
    .await;
    refused(&server, COMPLETIONS, &json!({}), (missing, Some("prompt"))).await;
    let invalid = "invalid_value";
    refused(
        &server,
        CHAT,
        &json!({"messages": []}),
        (invalid, Some("messages")),
    )
    .await;
    for prompt in [
        json!([]),
        json!(""),
        json!([""]),
        json!([[]]),
        json!([[], [3]]),
    ] {
        refused(
            &server,
            COMPLETIONS,
            &json!({"prompt": prompt}),
            (invalid, Some("prompt")),
        )
        .await;
    }
    let prompts = json!({"prompt": vec!["a"; 65]});
    let message = refused(&server, COMPLETIONS, &prompts, (invalid, Some("prompt"))).await;
    assert_eq!(message, "prompt must be 1 to 64 prompts, but is 65");
    refused(
        &server,
        COMPLETIONS,
        &json!({"prompt": [512]}),
        (invalid, Some("prompt")),
    )
    .await;
    server.settle().await;
}

#[tokio::test]
async fn values_outside_their_range_are_refused_on_both_endpoints() {
    let server = Server::start();
    for (field, value) in [
        ("n", json!(0)),
        ("n", json!(-1)),
        ("n", json!(17)),
        ("n", json!(2_i64 << 40)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1_i64 << 32)),
        ("temperature", json!(-0.1)),
        ("temperature", json!(2.1)),
        ("temperature", json!(1e39)),
        ("top_p", json!(0)),
        ("top_p", json!(1.1)),
        ("min_p", json!(-0.1)),
        ("min_p", json!(1.1)),
        ("top_k", json!(-2)),
        ("repetition_penalty", json!(0)),
        ("presence_penalty", json!(2.1)),
        ("frequency_penalty", json!(-2.1)),
        ("min_tokens", json!(-1)),
        ("min_tokens", json!(3)),
        ("stop", json!("")),
        ("stop", json!(["a", ""])),
        ("stop", json!(vec!["a"; 17])),
        ("stop_token_ids", json!([-1])),
        ("stop_token_ids", json!([512])),
        ("stop_token_ids", json!(vec![1; 129])),
        ("logit_bias", json!({"abc": 1})),
        ("logit_bias", json!({"-1": 1})),
        ("logit_bias", json!({"512": 1})),
        ("logit_bias", json!({"1": 101})),
        ("allowed_token_ids", json!([512])),
        ("allowed_token_ids", json!([-1])),
        ("bad_words", json!(["a", ""])),
        ("bad_words", json!(vec!["a"; 129])),
        ("bad_words", json!(["a".repeat(33)])),
        ("logprob_token_ids", json!([512])),
        ("logprob_token_ids", json!(vec![1; 129])),
        ("logprob_token_ids", json!([1])),
        ("prompt_logprobs", json!(-1)),
        ("prompt_logprobs", json!(21)),
        ("truncate_prompt_tokens", json!(0)),
        ("truncate_prompt_tokens", json!(-2)),
        ("truncation_side", json!("middle")),
        ("request_id", json!("")),
        ("request_id", json!("a b")),
    ] {
        for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
            let body = with(&base, json!({field: value}));
            let message = refused(&server, path, &body, ("invalid_value", Some(field))).await;
            assert!(message.contains(field), "{message}");
        }
    }
    let nothing_left =
        json!({"allowed_token_ids": [100], "bad_words": [server.token_text(&[100])]});
    let refusal = ("invalid_value", Some("allowed_token_ids"));
    let body = with(&completion(), nothing_left);
    refused(&server, COMPLETIONS, &body, refusal).await;
    let crowded: Value = (0..1025)
        .map(|id| (id.to_string(), json!(1)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let body = with(&completion(), json!({"logit_bias": crowded}));
    refused(
        &server,
        COMPLETIONS,
        &body,
        ("invalid_value", Some("logit_bias")),
    )
    .await;
    let stops = with(&completion(), json!({"stop": ["x".repeat(1 << 20)]}));
    refused(
        &server,
        COMPLETIONS,
        &stops,
        ("invalid_value", Some("stop")),
    )
    .await;
    server.settle().await;
}

#[tokio::test]
async fn log_probability_rules_differ_by_endpoint() {
    let server = Server::start();
    for count in [6, 21, -1] {
        let body = with(&completion(), json!({"logprobs": count}));
        refused(
            &server,
            COMPLETIONS,
            &body,
            ("invalid_value", Some("logprobs")),
        )
        .await;
        let streamed = with(&body, json!({"stream": true}));
        refused(
            &server,
            COMPLETIONS,
            &streamed,
            ("invalid_value", Some("logprobs")),
        )
        .await;
    }
    for count in [21, -1] {
        let body = with(&chat(), json!({"logprobs": true, "top_logprobs": count}));
        refused(
            &server,
            CHAT,
            &body,
            ("invalid_value", Some("top_logprobs")),
        )
        .await;
    }
    let alone = with(&chat(), json!({"top_logprobs": 5}));
    refused(
        &server,
        CHAT,
        &alone,
        ("invalid_value", Some("top_logprobs")),
    )
    .await;
    // And it still works.
    server.ask(COMPLETIONS, &completion()).await;
}

#[tokio::test]
async fn contradictions_are_refused() {
    let server = Server::start();
    for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
        let body = with(&base, json!({"stream_options": {"include_usage": true}}));
        refused(
            &server,
            path,
            &body,
            ("invalid_value", Some("stream_options")),
        )
        .await;
    }
    for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
        let body = with(&base, json!({"prompt_logprobs": 1, "stream": true}));
        let refusal = ("invalid_value", Some("prompt_logprobs"));
        refused(&server, path, &body, refusal).await;
    }
    let both = json!({"continue_final_message": true, "add_generation_prompt": true});
    let refusal = ("invalid_value", Some("continue_final_message"));
    refused(&server, CHAT, &with(&chat(), both), refusal).await;
    let unfinished = with(&chat(), json!({"continue_final_message": true}));
    let refusal = ("invalid_value", Some("messages"));
    refused(&server, CHAT, &unfinished, refusal).await;
    for best_of in [
        json!({"best_of": 1, "n": 2}),
        json!({"best_of": 17}),
        json!({"best_of": 2, "stream": true}),
    ] {
        let body = with(&completion(), best_of);
        let refusal = ("invalid_value", Some("best_of"));
        refused(&server, COMPLETIONS, &body, refusal).await;
    }
    let body = with(
        &chat(),
        json!({"max_tokens": 2, "max_completion_tokens": 3}),
    );
    refused(
        &server,
        CHAT,
        &body,
        ("invalid_value", Some("max_completion_tokens")),
    )
    .await;
}

#[tokio::test]
async fn what_we_cannot_do_is_refused_by_name() {
    let server = Server::start();
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    for (field, value) in [
        ("tools", tool.clone()),
        ("functions", json!([{"name": "f"}])),
        ("audio", json!({"voice": "alloy"})),
        ("modalities", json!(["text", "audio"])),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("web_search_options", json!({})),
        ("reasoning_effort", json!("high")),
        ("chat_template", json!("{{ messages }}")),
        ("store", json!(true)),
        ("best_of", json!(2)),
        ("use_beam_search", json!(true)),
        ("guided_whitespace_pattern", json!(" *")),
        ("documents", json!([{"x": "y".repeat(1000)}])),
    ] {
        let body = with(&chat(), json!({field: value}));
        let message = refused(&server, CHAT, &body, ("unsupported_parameter", Some(field))).await;
        assert!(
            message.starts_with(&format!("{field} is not supported")),
            "{message}"
        );
    }
    for (field, value) in [("suffix", json!("x")), ("prompt_embeds", json!("AAAA"))] {
        let body = with(&completion(), json!({field: value}));
        refused(
            &server,
            COMPLETIONS,
            &body,
            ("unsupported_parameter", Some(field)),
        )
        .await;
    }
}

#[tokio::test]
async fn values_that_ask_for_nothing_special_are_taken() {
    let server = Server::start();
    let neutral = json!({
        "tools": [], "tool_choice": "auto", "functions": null, "function_call": "none",
        "response_format": {"type": "text"}, "modalities": ["text"], "store": false, "best_of": 1,
        "use_beam_search": false, "length_penalty": 1.0, "priority": 0, "bad_words": [], "guided_json": null,
        "chat_template": null, "echo": false, "parallel_tool_calls": true, "service_tier": "auto",
        "mirostat": 0, "logprobs": null, "stop": null, "stream": false, "stream_options": null,
        "documents": [], "truncate_prompt_tokens": null,
    });
    let reply = server.post(CHAT, &with(&chat(), neutral)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(
        !reply.headers.contains_key("x-kvist-ignored-fields"),
        "{:?}",
        reply.headers
    );
    let suffix = with(
        &completion(),
        json!({"suffix": null, "echo": false, "best_of": 1}),
    );
    server.ask(COMPLETIONS, &suffix).await;
}

#[tokio::test]
async fn messages_are_checked_one_by_one() {
    let server = Server::start();
    let user = json!({"role": "user", "content": "a"});
    for (bad, code, param) in [
        (
            json!({"role": "robot", "content": "a"}),
            "invalid_value",
            "messages[1].role",
        ),
        (json!({"content": "a"}), "invalid_value", "messages[1].role"),
        (
            json!({"role": "user"}),
            "invalid_value",
            "messages[1].content",
        ),
        (
            json!({"role": "user", "content": []}),
            "invalid_value",
            "messages[1].content",
        ),
        (
            json!({"role": "user", "content": [{"text": "a"}]}),
            "invalid_value",
            "messages[1].content[0].type",
        ),
        (
            json!({"role": "user", "content": [{"type": "text"}]}),
            "invalid_value",
            "messages[1].content[0].text",
        ),
    ] {
        let body = with(&chat(), json!({"messages": [user, bad]}));
        refused(&server, CHAT, &body, (code, Some(param))).await;
    }
    for kind in ["image_url", "input_audio", "file", "video_url"] {
        let part = json!({"type": kind, kind: {"url": "http://169.254.169.254/"}});
        let content = json!([{"type": "text", "text": "a"}, part]);
        let body = with(
            &chat(),
            json!({"messages": [{"role": "user", "content": content}]}),
        );
        let reply = server.post(CHAT, &body).await;
        let (status, _, code, _) = reply.error();
        assert_eq!((status, code.as_str()), (400, "unsupported_parameter"));
        let message = reply.message();
        assert!(
            message.contains("messages[0].content[1]") && message.contains(kind),
            "{message}"
        );
    }
    let reserved = json!({"chat_template_kwargs": {"messages": []}});
    let reply = server.post(CHAT, &with(&chat(), reserved)).await;
    assert_eq!(reply.error().0, 400, "{}", reply.body);
}

#[tokio::test]
async fn lengths_beyond_the_context_are_refused_with_both_numbers() {
    let server = Server::start();
    let ids = |count: usize| json!({"prompt": vec![3; count], "max_tokens": 1});
    let code = "context_length_exceeded";
    server.ask(COMPLETIONS, &ids(511)).await;
    for count in [512, 513, 5000] {
        let message = refused(&server, COMPLETIONS, &ids(count), (code, Some("prompt"))).await;
        assert!(
            message.contains(&count.to_string()) && message.contains("512"),
            "{message}"
        );
    }
    let long = json!({"messages": [{"role": "user", "content": "banana ".repeat(400)}]});
    refused(&server, CHAT, &long, (code, Some("messages"))).await;
    let absurd = json!({"prompt": "a".repeat(1 << 20)});
    refused(&server, COMPLETIONS, &absurd, (code, Some("prompt"))).await;
    let greedy = with(&completion(), json!({"max_tokens": 510}));
    refused(&server, COMPLETIONS, &greedy, (code, Some("prompt"))).await;
    server.settle().await;
}

#[tokio::test]
async fn one_bad_prompt_refuses_the_batch_and_cancels_the_rest() {
    let server = Server::start();
    let body = json!({"prompt": [[3, 4], [5, 6], [512]], "max_tokens": 400, "ignore_eos": true});
    refused(
        &server,
        COMPLETIONS,
        &body,
        ("invalid_value", Some("prompt")),
    )
    .await;
    server.settle().await;
    assert_eq!(server.handle().metrics().finished.length, 0);
}

#[tokio::test]
async fn unknown_models_routes_and_methods() {
    let server = Server::start();
    for (path, base) in [(CHAT, chat()), (COMPLETIONS, completion())] {
        let reply = server
            .post(path, &with(&base, json!({"model": "gpt-99"})))
            .await;
        let expected = (404, "not_found_error", "model_not_found", Some("model"));
        assert_error(&reply, expected);
        assert!(
            reply.message().contains("tiny, alias"),
            "{}",
            reply.message()
        );
    }
    for path in [
        "/v1",
        "/v2/completions",
        "//v1/models",
        "/v1/models/../admin",
        "/v1/%2e%2e/metrics",
        "/v1/completions/",
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(
            ["route_not_found", "model_not_found"].contains(&reply.error().2.as_str()),
            "{path}"
        );
    }
    for (method, path, allow) in [
        (Method::GET, CHAT, "POST"),
        (Method::PUT, COMPLETIONS, "POST"),
        (Method::DELETE, "/v1/models", "GET,HEAD"),
        (Method::POST, "/health", "GET,HEAD"),
        (Method::OPTIONS, CHAT, "POST"),
    ] {
        let reply = server
            .send(request(method.clone(), path, Body::empty()))
            .await;
        let expected = (405, "invalid_request_error", "method_not_allowed", None);
        assert_error(&reply, expected);
        assert_eq!(reply.headers["allow"], allow, "{method} {path}");
    }
}

fn assert_error(reply: &Reply, expected: (u16, &str, &str, Option<&str>)) {
    let (status, kind, code, param) = reply.error();
    assert_eq!(
        (status, kind.as_str(), code.as_str(), param.as_deref()),
        expected,
        "{}",
        reply.body
    );
}

#[tokio::test]
async fn only_plain_json_is_taken() {
    let server = Server::start();
    let send = |header: &'static str, value: &'static str| {
        let mut request = request(
            Method::POST,
            COMPLETIONS,
            Body::from(completion().to_string()),
        );
        request.headers_mut().remove("content-type");
        request.headers_mut().insert(header, value.parse().unwrap());
        server.send(request)
    };
    for (header, value) in [
        ("content-type", "text/plain"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-encoding", "gzip"),
    ] {
        let expected = (415, "invalid_request_error", "unsupported_media_type", None);
        assert_error(&send(header, value).await, expected);
    }
    for (header, value) in [
        ("content-type", "application/json; charset=utf-8"),
        ("content-encoding", "identity"),
        ("accept", "*/*"),
    ] {
        assert_eq!(send(header, value).await.status, 200, "{header}: {value}");
    }
}

fn with_limits(limits: HttpLimits) -> Server {
    Server::with_config(ServerConfig { limits, ..config() })
}

#[tokio::test]
async fn large_bodies_are_refused_announced_or_not() {
    let server = with_limits(HttpLimits {
        body_bytes_max: Bytes(1000),
        ..HttpLimits::default()
    });
    let body = |len: usize| {
        let shell = json!({"prompt": "ba", "max_tokens": 1, "user": ""})
            .to_string()
            .len();
        json!({"prompt": "ba", "max_tokens": 1, "user": "x".repeat(len - shell)}).to_string()
    };
    assert_eq!(server.post_text(COMPLETIONS, &body(1000)).await.status, 200);
    let expected = (413, "invalid_request_error", "request_too_large", None);
    let reply = server.post_text(COMPLETIONS, &body(1001)).await;
    assert_error(&reply, expected);
    assert_eq!(reply.message(), "the request body is larger than 1000 B");

    // A length nobody sends: refused unread.
    let mut announced = request(Method::POST, COMPLETIONS, Body::empty());
    announced
        .headers_mut()
        .insert("content-length", "1001".parse().unwrap());
    assert_error(&server.send(announced).await, expected);
}

#[tokio::test]
async fn bodies_share_a_bound_and_give_it_back() {
    let limits = HttpLimits {
        bodies_bytes_max: Bytes::KIB * 3,
        ..HttpLimits::default()
    };
    let server = with_limits(limits);
    let body = with(&completion(), json!({"user": "x".repeat(2500)}));
    for _ in 0..5 {
        server.ask(COMPLETIONS, &body).await;
    }
    let large = with(&completion(), json!({"user": "x".repeat(4000)}));
    let reply = server.post(COMPLETIONS, &large).await;
    assert_error(&reply, (429, "rate_limit_error", "queue_full", None));
    assert_eq!(reply.headers["retry-after"], "1");
    server.ask(COMPLETIONS, &body).await;
}

#[tokio::test]
async fn a_full_engine_answers_429_and_recovers() {
    let limits = kvist_engine::plan::Limits {
        running_max: 2,
        ..options().limits
    };
    let server = Server::with(
        config(),
        &EngineOptions {
            limits,
            waiting_max: 1,
            ..options()
        },
    );
    let long =
        json!({"prompt": "ba", "max_tokens": 500, "ignore_eos": true, "stream": true, "n": 3});
    let held = tower::ServiceExt::oneshot(
        server.router.clone(),
        request(Method::POST, COMPLETIONS, Body::from(long.to_string())),
    );
    let held = held.await.unwrap();
    let reply = server.post(COMPLETIONS, &completion()).await;
    assert_error(&reply, (429, "rate_limit_error", "queue_full", None));
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(
        reply.message().contains("3 requests in flight, 3 allowed"),
        "{}",
        reply.message()
    );
    drop(held);
    server.settle().await;
    // The places of the cancelled are given back just after their blocks.
    let mut tries = 0;
    while server.post(COMPLETIONS, &completion()).await.status != 200 {
        tries += 1;
        assert!(tries < 500, "still full");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // More than it ever takes is not a matter of waiting.
    let never = with(
        &completion(),
        json!({"n": 4, "max_tokens": 500, "ignore_eos": true}),
    );
    refused(&server, COMPLETIONS, &never, ("invalid_value", Some("n"))).await;
    server.settle().await;
}
