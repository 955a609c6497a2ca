//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use axum::body::Body;
use axum::http::Method;
use kvist_server::ServerConfig;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{Client as _, Reply, Server, config, named_events, request, with};
use crate::tools::{CALLS, THOUGHT};

const PATH: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn hello() -> Value {
    json!({"model": "tiny", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]})
}

fn tools() -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([
        {"name": "get_weather", "description": "Looks outside.", "input_schema": schema},
        {"name": "get_time", "input_schema": schema, "type": "custom", "cache_control": {"type": "ephemeral"}},
    ])
}

/// Status, type and message of an error in Anthropic's shape.
fn error(reply: &Reply) -> (u16, String, String) {
    let body = reply.json();
    assert_eq!(body["type"], "error", "{body}");
    let text = |key: &str| body["error"][key].as_str().unwrap().to_owned();
    (reply.status.as_u16(), text("type"), text("message"))
}

async fn events(server: &Server, body: &Value) -> Vec<(String, Value)> {
    let reply = server
        .post(PATH, &with(body, json!({"stream": true})))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    named_events(&reply.body)
}

/// The message that the events of a stream make.
fn assembled(events: &[(String, Value)]) -> Value {
    let mut message = Value::Null;
    let mut json_text = String::new();
    for (name, event) in events {
        assert_eq!(event["type"], **name);
        match name.as_str() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                let blocks = message["content"].as_array_mut().unwrap();
                assert_eq!(event["index"], blocks.len());
                blocks.push(event["content_block"].clone());
                json_text.clear();
            }
            "content_block_delta" => {
                let index = event["index"].as_u64().unwrap() as usize;
                let block = &mut message["content"][index];
                let delta = &event["delta"];
                let key = match delta["type"].as_str().unwrap() {
                    "text_delta" => "text",
                    "thinking_delta" => "thinking",
                    "input_json_delta" => {
                        json_text.push_str(delta["partial_json"].as_str().unwrap());
                        block["input"] = serde_json::from_str(&json_text).unwrap();
                        continue;
                    }
                    other => panic!("{other}"),
                };
                let text = format!(
                    "{}{}",
                    block[key].as_str().unwrap(),
                    delta[key].as_str().unwrap()
                );
                block[key] = json!(text);
            }
            "message_delta" => {
                for (key, value) in event["delta"].as_object().unwrap() {
                    message[key] = value.clone();
                }
                message["usage"] = event["usage"].clone();
            }
            "content_block_stop" | "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().unwrap().0, "message_stop");
    message
}

#[tokio::test]
async fn a_message_is_anthropics_shape_whole_and_streamed() {
    let server = Server::scripted(&CALLS);
    let body = with(&hello(), json!({"tools": tools()}));
    let mut whole = server.ask(PATH, &body).await;
    let prompt = "tool get_weather\ntool get_time\nuser: hi\nassistant:";
    let prompt = server
        .handle()
        .tokenize(prompt, kvist_engine::SpecialText::Parse)
        .unwrap()
        .len();
    let expected = json!({
        "id": "", "type": "message", "role": "assistant", "model": "tiny",
        "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "", "name": "get_weather", "input": {"city": "Z\u{fc}rich"}},
            {"type": "tool_use", "id": "", "name": "get_time", "input": {}},
        ],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {
            "input_tokens": prompt, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": 9,
        },
    });
    let mut streamed = assembled(&events(&server, &body).await);
    // The second request finds the prompt of the first in the cache.
    let hit = streamed["usage"]["cache_read_input_tokens"]
        .as_u64()
        .unwrap();
    assert!(hit > 0);
    assert_eq!(
        streamed["usage"]["input_tokens"].as_u64().unwrap() + hit,
        prompt as u64
    );
    streamed["usage"] = whole["usage"].clone();
    for message in [&mut whole, &mut streamed] {
        assert!(message["id"].as_str().unwrap().starts_with("msg-"));
        message["id"] = json!("");
        for index in [1, 2] {
            assert!(!message["content"][index]["id"].as_str().unwrap().is_empty());
            message["content"][index]["id"] = json!("");
        }
        assert_eq!(message, &expected);
    }
}

#[tokio::test]
async fn thinking_is_a_block_of_its_own() {
    let server = Server::scripted(&THOUGHT);
    let body = with(&hello(), json!({"thinking": {"type": "adaptive"}}));
    let whole = server.ask(PATH, &body).await;
    let blocks = json!([
        {"type": "thinking", "thinking": "Hm, yes.", "signature": ""},
        {"type": "text", "text": "It is."},
    ]);
    assert_eq!(whole["content"], blocks);
    assert_eq!(whole["stop_reason"], "end_turn");
    let events = events(&server, &body).await;
    assert_eq!(assembled(&events)["content"], blocks);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(
        names[names.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
}

#[tokio::test]
async fn every_ending_has_its_name() {
    let server = Server::scripted(&CALLS);
    for (more, reason, sequence) in [
        (json!({"max_tokens": 2}), "max_tokens", Value::Null),
        (
            json!({"stop_sequences": ["look"]}),
            "stop_sequence",
            json!("look"),
        ),
        (json!({}), "end_turn", Value::Null),
    ] {
        let body = with(&hello(), more);
        let answer = server.ask(PATH, &body).await;
        assert_eq!(
            (&answer["stop_reason"], &answer["stop_sequence"]),
            (&json!(reason), &sequence)
        );
        let streamed = assembled(&events(&server, &body).await);
        assert_eq!(
            (&streamed["stop_reason"], &streamed["stop_sequence"]),
            (&json!(reason), &sequence)
        );
        assert_eq!(streamed["content"], answer["content"]);
    }
}

#[tokio::test]
async fn a_conversation_with_results_is_counted_as_it_is_rendered() {
    let server = Server::scripted(&CALLS);
    let body = json!({
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=4711;"},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ],
        "tools": tools(),
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
                {"type": "text", "text": "So."},
                {"type": "tool_use", "id": "t1", "name": "get_time", "input": {"a": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "is_error": false,
                 "content": [{"type": "text", "text": "noon"}]},
                {"type": "text", "text": "and?"},
            ]},
        ],
    });
    let prompt = "tool get_weather\ntool get_time\nsystem: Be brief.\nuser: hi\n\
        assistant: So.<tool_call>get_time {\"a\": 1}\ntool: noon\nuser: and?\nassistant:";
    let expected = server
        .handle()
        .tokenize(prompt, kvist_engine::SpecialText::Parse)
        .unwrap()
        .len();
    let counted = server.ask(COUNT, &body).await;
    assert_eq!(counted, json!({"input_tokens": expected}));
    let answer = server
        .ask(PATH, &with(&body, json!({"max_tokens": 1})))
        .await;
    assert_eq!(answer["usage"]["input_tokens"], expected);
}

#[tokio::test]
async fn a_changing_billing_line_does_not_cost_the_prefix() {
    let server = Server::scripted(&CALLS);
    let ask = |mark: &str| {
        let system = format!(
            "x-anthropic-billing-header: cch={mark};\n{}",
            "banana ".repeat(30)
        );
        with(&hello(), json!({"system": system, "max_tokens": 1}))
    };
    server.ask(PATH, &ask("first")).await;
    let again = server.ask(PATH, &ask("second")).await;
    let usage = &again["usage"];
    let (read, fresh) = (&usage["cache_read_input_tokens"], &usage["input_tokens"]);
    assert!(read.as_u64().unwrap() > fresh.as_u64().unwrap(), "{usage}");
}

#[tokio::test]
async fn refusals_are_anthropics_shape() {
    let server = Server::scripted(&CALLS);
    let block = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    let image =
        json!({"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/"}});
    for (more, words) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (
            json!({"messages": [{"role": "system", "content": "x"}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": []}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": 1}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
            "assistant",
        ),
        (block(image), "messages[0].content[0].type \"image\""),
        (block(json!({"type": "tool_use", "name": "f"})), "tool_use"),
        (
            block(json!({"type": "tool_result", "content": "x"})),
            "messages[0].content[0].tool_use_id",
        ),
        (block(json!({"text": "x"})), "messages[0].content[0].type"),
        (json!({"system": [{"type": "image"}]}), "system[0].type"),
        (json!({"stop_sequences": [""]}), "stop_sequences"),
        (json!({"stop_sequences": vec!["x"; 17]}), "stop_sequences"),
        (json!({"temperature": 3}), "temperature"),
        (
            json!({"tools": [{"name": "a b", "input_schema": {}}]}),
            "tools[0].name",
        ),
        (
            json!({"tools": [{"name": "f", "input_schema": 1}]}),
            "tools[0].parameters",
        ),
        (
            json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}),
            "bash_20250124",
        ),
        (
            json!({"tool_choice": {"type": "maybe"}}),
            "tool_choice.type",
        ),
        (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
        (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 10}}),
            "thinking.budget_tokens",
        ),
        (json!({"thinking": {"type": "perhaps"}}), "thinking.type"),
        (json!({"mcp_servers": [{}]}), "mcp_servers"),
    ] {
        let reply = server.post(PATH, &with(&hello(), more.clone())).await;
        let (status, kind, message) = error(&reply);
        assert_eq!(
            (status, kind.as_str()),
            (400, "invalid_request_error"),
            "{more}"
        );
        assert!(message.contains(words), "{more}: {message}");
    }
    let unknown = server
        .post(PATH, &with(&hello(), json!({"model": "claude"})))
        .await;
    assert_eq!(error(&unknown).1, "not_found_error");
    assert_eq!(error(&server.get(PATH).await).0, 405);
    assert_eq!(
        error(&server.post_text(COUNT, "{").await).1,
        "invalid_request_error"
    );
    let long = json!({"messages": [{"role": "user", "content": "a".repeat(1 << 16)}]});
    assert_eq!(error(&server.post(COUNT, &long).await).0, 400);
}

#[tokio::test]
async fn the_key_is_taken_from_either_header() {
    let keyed = ServerConfig {
        api_keys: vec!["secret".to_owned()],
        ..config()
    };
    let server = Server::with_config(keyed);
    let reply = server.post(PATH, &hello()).await;
    assert_eq!(error(&reply).1, "authentication_error");
    let body = json!({"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
    let mut with_key = request(Method::POST, PATH, Body::from(body.to_string()));
    with_key
        .headers_mut()
        .insert("x-api-key", "secret".parse().unwrap());
    assert_eq!(server.send(with_key).await.status, 200);
}

#[tokio::test]
async fn a_fault_ends_the_stream_with_an_error_event() {
    let server = Server::faulty();
    let events = events(&server, &hello()).await;
    let (name, event) = events.last().unwrap();
    assert_eq!(
        (name.as_str(), &event["error"]["type"]),
        ("error", &json!("api_error"))
    );
    let reply = server.post(PATH, &hello()).await;
    assert_eq!(error(&reply).1, "api_error");
}

#[tokio::test]
async fn a_client_that_leaves_is_cancelled() {
    let server = Server::start();
    let body = with(&hello(), json!({"stream": true, "max_tokens": 400}));
    let request = request(Method::POST, PATH, Body::from(body.to_string()));
    let response = server.router().oneshot(request).await.unwrap();
    drop(response);
    server.settle().await;
}
