//! `POST /v1/responses` and `GET /v1/responses/{id}`.

use axum::body::Body;
use axum::http::Method;
use kvist_engine::SpecialText;
use kvist_server::ServerConfig;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{Client as _, Server, config, named_events, request, with};
use crate::tools::{CALLS, THOUGHT};

const PATH: &str = "/v1/responses";

fn hello() -> Value {
    json!({"model": "tiny", "input": "hi"})
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tool = |name: &str| json!({"type": "function", "name": name, "parameters": parameters});
    json!([tool("get_weather"), tool("get_time")])
}

/// The events of a stream, whose numbers must be in order.
async fn events(server: &Server, body: &Value) -> Vec<Value> {
    let reply = server
        .post(PATH, &with(body, json!({"stream": true})))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let events = named_events(&reply.body);
    for (number, (name, event)) in events.iter().enumerate() {
        assert_eq!(
            (&event["type"], &event["sequence_number"]),
            (&json!(name), &json!(number))
        );
    }
    events.into_iter().map(|(_, event)| event).collect()
}

/// A response without ids and times, which must be there.
fn anonymous(mut response: Value) -> Value {
    assert!(
        response["id"].as_str().unwrap().starts_with("resp_"),
        "{response}"
    );
    assert!(response["created_at"].as_u64().unwrap() > 1_700_000_000);
    response["id"] = json!("");
    response["created_at"] = json!(0);
    for item in response["output"].as_array_mut().unwrap() {
        for key in ["id", "call_id"] {
            if let Some(id) = item.get_mut(key) {
                assert!(!id.as_str().unwrap().is_empty());
                *id = json!("");
            }
        }
    }
    response
}

#[tokio::test]
async fn a_response_is_openais_shape() {
    let server = Server::scripted(&CALLS);
    let body = with(
        &hello(),
        json!({"tools": tools(), "metadata": {"a": "b"}, "temperature": 0.5}),
    );
    let answer = server.ask(PATH, &body).await;
    let prompt = "tool get_weather\ntool get_time\nuser: hi\nassistant:";
    let prompt = server
        .handle()
        .tokenize(prompt, SpecialText::Parse)
        .unwrap()
        .len();
    let call = |name: &str, arguments: &str| {
        json!({
            "type": "function_call", "id": "", "call_id": "", "name": name, "arguments": arguments,
            "status": "completed",
        })
    };
    let expected = json!({
        "id": "", "object": "response", "created_at": 0, "status": "completed", "error": null,
        "incomplete_details": null, "model": "tiny",
        "output": [
            {"type": "message", "id": "", "role": "assistant", "status": "completed", "content": [
                {"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []},
            ]},
            call("get_weather", "{\"city\": \"Z\u{fc}rich\"}"),
            call("get_time", "{}"),
        ],
        "truncation": "disabled", "text": {"format": {"type": "text"}},
        "reasoning": {"effort": null, "summary": null},
        "usage": {
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": prompt + 9,
        },
        "instructions": null, "max_output_tokens": null, "parallel_tool_calls": true,
        "previous_response_id": null, "store": true, "temperature": 0.5, "top_p": 1.0,
        "tool_choice": "auto", "tools": tools(), "metadata": {"a": "b"}, "user": null,
    });
    assert_eq!(anonymous(answer), expected);
}

#[tokio::test]
async fn a_stream_says_what_the_whole_response_does() {
    for script in [CALLS, THOUGHT] {
        let server = Server::scripted(&script);
        let body = if script.template == CALLS.template {
            with(&hello(), json!({"tools": tools()}))
        } else {
            hello()
        };
        let whole = server.ask(PATH, &body).await;
        let events = events(&server, &body).await;
        let kinds: Vec<&str> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
        assert_eq!(*kinds.last().unwrap(), "response.completed");
        let last = &events.last().unwrap()["response"];
        assert_eq!(
            anonymous(last.clone())["output"],
            anonymous(whole)["output"]
        );
        // Items and their texts by their deltas are those of the end.
        for (index, item) in last["output"].as_array().unwrap().iter().enumerate() {
            let mine: Vec<&Value> = events
                .iter()
                .filter(|event| event["output_index"] == index)
                .collect();
            assert_eq!(mine[0]["type"], "response.output_item.added");
            assert_eq!(mine[0]["item"]["id"], item["id"]);
            assert_eq!(&mine.last().unwrap()["item"], item);
            let text: String = mine
                .iter()
                .filter_map(|event| event["delta"].as_str())
                .collect();
            let expected = item["arguments"]
                .as_str()
                .or(item["content"][0]["text"].as_str());
            assert_eq!(Some(text.as_str()), expected);
        }
    }
}

#[tokio::test]
async fn reasoning_is_an_item_and_is_counted() {
    let server = Server::scripted(&THOUGHT);
    let answer = server
        .ask(
            PATH,
            &with(&hello(), json!({"reasoning": {"effort": "low"}})),
        )
        .await;
    assert_eq!(answer["output"][0]["type"], "reasoning");
    let text = json!([{"type": "reasoning_text", "text": "Hm, yes."}]);
    assert_eq!(answer["output"][0]["content"], text);
    assert_eq!(answer["output"][1]["content"][0]["text"], "It is.");
    assert_eq!(
        answer["usage"]["output_tokens_details"]["reasoning_tokens"],
        4
    );
}

#[tokio::test]
async fn a_cut_response_is_incomplete() {
    let server = Server::scripted(&CALLS);
    let body = with(&hello(), json!({"max_output_tokens": 1}));
    let answer = server.ask(PATH, &body).await;
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(
        answer["incomplete_details"],
        json!({"reason": "max_output_tokens"})
    );
    assert_eq!(answer["output"][0]["status"], "incomplete");
    let events = events(&server, &body).await;
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
}

#[tokio::test]
async fn a_conversation_goes_on_from_a_stored_response() {
    let server = Server::scripted(&CALLS);
    let first = server
        .ask(
            PATH,
            &with(
                &hello(),
                json!({"tools": tools(), "instructions": "be brief"}),
            ),
        )
        .await;
    let id = first["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{PATH}/{id}")).await.json(), first);
    let result = |index: usize, text: &str| {
        let call_id = &first["output"][index]["call_id"];
        json!({"type": "function_call_output", "call_id": call_id, "output": text})
    };
    let next = json!({
        "previous_response_id": id, "input": [result(1, "rain"), result(2, "noon")], "max_output_tokens": 1,
    });
    let second = server.ask(PATH, &next).await;
    // Instructions are for one answer; the rest of the conversation is remembered.
    let prompt = "user: hi\nassistant: Let me look.<tool_call>get_weather {\"city\": \"Z\u{fc}rich\"}\
        <tool_call>get_time {}\ntool: rain\ntool: noon\nassistant:";
    let expected = server
        .handle()
        .tokenize(prompt, SpecialText::Parse)
        .unwrap()
        .len();
    assert_eq!(second["usage"]["input_tokens"], expected);
    assert_eq!(second["previous_response_id"], id);

    // The same without the server's memory.
    let output = first["output"].as_array().unwrap();
    let mut items =
        vec![json!({"role": "user", "content": [{"type": "input_text", "text": "hi"}]})];
    items.extend(output.iter().cloned());
    items.extend([result(1, "rain"), result(2, "noon")]);
    let stateless = json!({"input": items, "store": false, "max_output_tokens": 1});
    let third = server.ask(PATH, &stateless).await;
    assert_eq!(third["usage"]["input_tokens"], expected);
    let unstored = server
        .get(&format!("{PATH}/{}", third["id"].as_str().unwrap()))
        .await;
    assert_eq!(
        unstored.error(),
        (
            404,
            "not_found_error".to_owned(),
            "response_not_found".to_owned(),
            None
        )
    );
}

#[tokio::test]
async fn a_stored_response_is_the_key_holders() {
    let keyed = ServerConfig {
        api_keys: vec!["one".to_owned(), "two".to_owned()],
        ..config()
    };
    let server = Server::scripted_with(&CALLS, keyed);
    let with_key = |method: Method, path: &str, key: &str, body: Body| {
        let mut request = request(method, path, body);
        let key = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert("authorization", key);
        request
    };
    let body = Body::from(hello().to_string());
    let answer = server
        .send(with_key(Method::POST, PATH, "one", body))
        .await
        .json();
    let path = format!("{PATH}/{}", answer["id"].as_str().unwrap());
    for (key, status) in [("one", 200), ("two", 404)] {
        let reply = server
            .send(with_key(Method::GET, &path, key, Body::empty()))
            .await;
        assert_eq!(reply.status, status, "{key}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused_by_name() {
    let server = Server::scripted(&CALLS);
    let item = |item: Value| json!({"input": [item]});
    for (more, code, param) in [
        (
            json!({"input": null}),
            "missing_required_parameter",
            "input",
        ),
        (json!({"input": []}), "invalid_value", "input"),
        (json!({"input": 1}), "invalid_type", "input"),
        (
            item(json!({"role": "robot", "content": "x"})),
            "invalid_value",
            "input[0].role",
        ),
        (
            item(json!({"role": "user"})),
            "invalid_value",
            "input[0].content",
        ),
        (
            item(json!({"type": "item_reference"})),
            "unsupported_parameter",
            "input[0].type \"item_reference\"",
        ),
        (
            item(json!({"role": "user", "content": [{"type": "input_image"}]})),
            "unsupported_parameter",
            "input[0].content[0].type \"input_image\"",
        ),
        (
            item(json!({"role": "user", "content": [{"type": "input_text"}]})),
            "invalid_value",
            "input[0].content[0].text",
        ),
        (
            item(json!({"type": "function_call", "call_id": "c"})),
            "invalid_value",
            "input[0].name",
        ),
        (
            item(json!({"type": "function_call", "name": "f"})),
            "invalid_value",
            "input[0].call_id",
        ),
        (
            item(json!({"type": "function_call", "name": "f", "call_id": "c", "arguments": "{"})),
            "invalid_value",
            "input[0].arguments",
        ),
        (
            item(json!({"type": "function_call_output", "call_id": "c"})),
            "invalid_value",
            "input[0].output",
        ),
        (
            json!({"max_output_tokens": 0}),
            "invalid_value",
            "max_output_tokens",
        ),
        (
            json!({"tools": [{"type": "web_search"}]}),
            "unsupported_parameter",
            "tools[0].type \"web_search\"",
        ),
        (
            json!({"tools": [{"type": "function", "name": ""}]}),
            "invalid_value",
            "tools[0].name",
        ),
        (
            json!({"reasoning": {"effort": "much"}}),
            "invalid_value",
            "reasoning.effort",
        ),
        (
            json!({"text": {"format": {"type": "json_object"}}}),
            "unsupported_parameter",
            "text.format",
        ),
        (
            json!({"truncation": "auto"}),
            "unsupported_parameter",
            "truncation",
        ),
        (
            json!({"background": true}),
            "unsupported_parameter",
            "background",
        ),
        (
            json!({"conversation": "c"}),
            "unsupported_parameter",
            "conversation",
        ),
        (
            json!({"metadata": (0..17).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>()}),
            "invalid_value",
            "metadata",
        ),
    ] {
        let reply = server.post(PATH, &with(&hello(), more.clone())).await;
        let (status, _, given, field) = reply.error();
        assert_eq!(
            (status, given.as_str(), field.as_deref()),
            (400, code, Some(param)),
            "{}",
            reply.body
        );
    }
    let reply = server
        .post(
            PATH,
            &with(&hello(), json!({"previous_response_id": "resp_0"})),
        )
        .await;
    let (status, _, code, param) = reply.error();
    assert_eq!(
        (status, code.as_str(), param.as_deref()),
        (404, "response_not_found", Some("previous_response_id"))
    );
}

#[tokio::test]
async fn a_fault_fails_the_response() {
    let server = Server::faulty();
    let events = events(&server, &hello()).await;
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_cancelled() {
    let server = Server::start();
    let body = with(&hello(), json!({"stream": true, "max_output_tokens": 400}));
    let request = request(Method::POST, PATH, Body::from(body.to_string()));
    let response = server.router().oneshot(request).await.unwrap();
    drop(response);
    server.settle().await;
}
