//! Tools, calls and reasoning of `POST /v1/chat/completions`.

use axum::body::Body;
use axum::http::Method;
use kvist_engine::{ReasoningFormat, SpecialText, ToolFormat};
use kvist_server::{ParserChoice, Parsers, ServerConfig};
use kvist_testkit::tiny::Script;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{Client as _, Server, config, request, with};

const PATH: &str = "/v1/chat/completions";

/// Takes tools, as a Hermes model's.
pub const TEMPLATE: &str = "{% if tools %}{% for tool in tools %}{{ 'tool ' + tool.function.name + '\n' }}{% endfor %}\
    {% endif %}{% for m in messages %}{{ m.role + ':' }}{% if m.content %}{{ ' ' + m.content }}{% endif %}\
    {% for c in m.tool_calls %}{{ '<tool_call>' + c.function.name + ' ' + (c.function.arguments | tojson) }}\
    {% endfor %}{{ '\n' }}{% endfor %}{% if enable_thinking %}on {% endif %}assistant:";

/// Says something, then calls twice.
pub const CALLS: Script<'_> = Script {
    template: TEMPLATE,
    after: b':',
    pieces: &[
        "Let me",
        " look.",
        "\n<tool_",
        "call>\n{\"name\": \"get_weather\", ",
        "\"arguments\": {\"city\": ",
        "\"Z\u{fc}rich\"}}",
        "\n</tool_call>",
        "\n<tool_call>{\"name\": \"get_time\"}</tool_call>",
    ],
    controls: &[],
};

/// Thinks, then answers.
pub const THOUGHT: Script<'_> = Script {
    template: "{# </think> #}{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}assistant:",
    after: b':',
    pieces: &["<think>", "\nHm", ", yes.\n", "</think>", "\n\nIt", " is."],
    controls: &["<think>", "</think>"],
};

fn tool(name: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!({"type": "function", "function": {
        "name": name, "description": "Looks outside.", "parameters": parameters,
    }})
}

fn ask() -> Value {
    json!({
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [tool("get_weather"), tool("get_time")],
    })
}

/// The message that the deltas of a stream make, and its finish reason.
fn assembled(events: &[Value]) -> (Value, String) {
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut calls: Vec<Value> = Vec::new();
    let mut reasons = Vec::new();
    for event in events {
        let Some(choice) = event["choices"].get(0) else {
            continue;
        };
        assert!(reasons.is_empty(), "{event} after the end");
        let delta = &choice["delta"];
        assert_eq!(delta.get("reasoning"), delta.get("reasoning_content"));
        content.push_str(delta["content"].as_str().unwrap_or_default());
        reasoning.push_str(delta["reasoning"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let mut call = call.clone();
            let index = call.as_object_mut().unwrap().remove("index").unwrap();
            assert_eq!(index, calls.len());
            calls.push(call);
        }
        reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
    }
    let message = json!({"content": content, "reasoning": reasoning, "tool_calls": calls});
    (message, reasons.remove(0))
}

fn without_ids(mut calls: Value) -> Value {
    for call in calls.as_array_mut().into_iter().flatten() {
        call.as_object_mut().unwrap().remove("id");
    }
    calls
}

#[tokio::test]
async fn calls_are_openais_shape_whole_and_streamed() {
    let server = Server::scripted(&CALLS);
    let answer = server.ask(PATH, &ask()).await;
    let choice = &answer["choices"][0];
    let function = |name: &str, arguments: &str| json!({"type": "function", "function": {"name": name, "arguments": arguments}});
    let calls = json!([
        function("get_weather", "{\"city\": \"Z\u{fc}rich\"}"),
        function("get_time", "{}"),
    ]);
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = &choice["message"];
    assert_eq!(message["content"], "Let me look.");
    assert_eq!(without_ids(message["tool_calls"].clone()), calls);
    let ids: Vec<&str> = [0, 1]
        .map(|n| message["tool_calls"][n]["id"].as_str().unwrap())
        .to_vec();
    assert!(
        ids.iter().all(|id| id.starts_with("call_")) && ids[0] != ids[1],
        "{ids:?}"
    );

    let (message, reason) = assembled(&server.stream(PATH, &ask()).await);
    assert_eq!(
        (&message["content"], reason.as_str()),
        (&json!("Let me look."), "tool_calls")
    );
    assert_eq!(without_ids(message["tool_calls"].clone()), calls);
}

#[tokio::test]
async fn an_answer_of_calls_alone_has_null_content() {
    let pieces = ["<tool_call>{\"name\": \"get_time\"}</tool_call>"];
    let server = Server::scripted(&Script {
        pieces: &pieces,
        ..CALLS
    });
    let answer = server.ask(PATH, &ask()).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn one_call_is_enough_without_parallel_calls() {
    let server = Server::scripted(&CALLS);
    let body = with(&ask(), json!({"parallel_tool_calls": false}));
    let answer = server.ask(PATH, &body).await;
    assert_eq!(
        answer["choices"][0]["message"]["tool_calls"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let (message, _) = assembled(&server.stream(PATH, &body).await);
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn half_a_call_is_text() {
    let server = Server::scripted(&CALLS);
    let body = with(&ask(), json!({"max_tokens": 5}));
    let answer = server.ask(PATH, &body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    let expected = CALLS.pieces[..5].concat();
    assert_eq!(choice["message"]["content"], expected);
    assert!(choice["message"].get("tool_calls").is_none());
    let (message, reason) = assembled(&server.stream(PATH, &body).await);
    assert_eq!(
        (message["content"].as_str().unwrap(), reason.as_str()),
        (expected.as_str(), "length")
    );
}

#[tokio::test]
async fn without_tools_or_a_parser_calls_are_text() {
    let text = CALLS.pieces.concat();
    let server = Server::scripted(&CALLS);
    for body in [
        with(&ask(), json!({"tools": null})),
        with(&ask(), json!({"tool_choice": "none"})),
    ] {
        let answer = server.ask(PATH, &body).await;
        assert_eq!(answer["choices"][0]["message"]["content"], text);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    let parsers = Parsers {
        tools: ParserChoice::Off,
        ..Parsers::default()
    };
    let server = Server::scripted_with(
        &CALLS,
        ServerConfig {
            parsers,
            ..config()
        },
    );
    let answer = server.ask(PATH, &ask()).await;
    assert_eq!(answer["choices"][0]["message"]["content"], text);
}

#[tokio::test]
async fn marks_that_are_control_tokens_are_read_and_not_shown() {
    let script = Script {
        template: "{# [TOOL_CALLS] #}{% if tools %}tools {% endif %}assistant:",
        pieces: &[
            "Yes.",
            "[TOOL_CALLS]",
            "get_time",
            "[ARGS]",
            "{\"city\": \"Bern\"}",
        ],
        controls: &["[TOOL_CALLS]", "[ARGS]"],
        ..CALLS
    };
    let server = Server::scripted(&script);
    let answer = server.ask(PATH, &ask()).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "Yes.");
    assert_eq!(
        message["tool_calls"][0]["function"]["arguments"],
        "{\"city\": \"Bern\"}"
    );
    // The only ids this family's templates take.
    let id = message["tool_calls"][0]["id"].as_str().unwrap();
    assert!(
        id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{id}"
    );
    let answer = server.ask(PATH, &with(&ask(), json!({"tools": []}))).await;
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "Yes.get_time{\"city\": \"Bern\"}"
    );
}

#[tokio::test]
async fn the_operator_can_name_the_parser() {
    let script = Script {
        pieces: &["{\"name\": \"get_time\", \"parameters\": {}}"],
        ..CALLS
    };
    let parsers = Parsers {
        tools: ParserChoice::Use(ToolFormat::Llama3),
        reasoning: ParserChoice::Use(ReasoningFormat::Think),
    };
    let server = Server::scripted_with(
        &script,
        ServerConfig {
            parsers,
            ..config()
        },
    );
    let answer = server.ask(PATH, &ask()).await;
    assert_eq!(
        answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
        "get_time"
    );
    assert_eq!(
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"],
        0
    );
}

#[tokio::test]
async fn the_template_sees_tools_and_calls_of_the_history() {
    let server = Server::scripted(&CALLS);
    let call = |arguments: Value| json!([{"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": arguments}}]);
    let body = |arguments: Value| {
        with(
            &ask(),
            json!({"max_tokens": 1, "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": null, "tool_calls": call(arguments)},
                {"role": "tool", "tool_call_id": "c1", "content": "noon"},
            ]}),
        )
    };
    let prompt = "tool get_weather\ntool get_time\nuser: hi\nassistant:<tool_call>get_time {\"a\": 1}\n\
        tool: noon\nassistant:";
    let expected = server
        .handle()
        .tokenize(prompt, SpecialText::Parse)
        .unwrap()
        .len();
    for arguments in [json!("{\"a\": 1}"), json!({"a": 1})] {
        let answer = server.ask(PATH, &body(arguments)).await;
        assert_eq!(answer["usage"]["prompt_tokens"], expected);
    }
}

#[tokio::test]
async fn reasoning_is_told_apart_and_counted() {
    let server = Server::scripted(&THOUGHT);
    let hi = json!({"messages": [{"role": "user", "content": "hi"}]});
    let answer = server.ask(PATH, &hi).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "It is.");
    assert_eq!(message["reasoning_content"], "Hm, yes.");
    assert_eq!(message["reasoning"], "Hm, yes.");
    assert_eq!(
        answer["usage"]["completion_tokens_details"],
        json!({"reasoning_tokens": 4})
    );
    let asked = with(&hi, json!({"stream_options": {"include_usage": true}}));
    let events = server.stream(PATH, &asked).await;
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 4);
    let (message, reason) = assembled(&events);
    assert_eq!(message["reasoning"], "Hm, yes.");
    assert_eq!(
        (&message["content"], reason.as_str()),
        (&json!("It is."), "stop")
    );

    let hidden = server
        .ask(PATH, &with(&hi, json!({"include_reasoning": false})))
        .await;
    assert!(hidden["choices"][0]["message"].get("reasoning").is_none());
    assert_eq!(hidden["choices"][0]["message"]["content"], "It is.");
    assert_eq!(
        hidden["usage"]["completion_tokens_details"]["reasoning_tokens"],
        4
    );
    // Cut off in the middle of it.
    let cut = server.ask(PATH, &with(&hi, json!({"max_tokens": 3}))).await;
    assert_eq!(cut["choices"][0]["message"]["content"], Value::Null);
    assert_eq!(cut["choices"][0]["message"]["reasoning"], "Hm, yes.");
    assert_eq!(
        cut["usage"]["completion_tokens_details"]["reasoning_tokens"],
        3
    );
}

#[tokio::test]
async fn reasoning_may_have_begun_in_the_prompt() {
    let script = Script {
        template: "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{{ '\n' }}{# </think> #}",
        after: b'\n',
        pieces: &["Hm.", "</think>", "Yes."],
        controls: &[],
    };
    let server = Server::scripted(&script);
    let hi = json!({"messages": [{"role": "user", "content": "hi"}]});
    let answer = server.ask(PATH, &hi).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning"], &message["content"]),
        (&json!("Hm."), &json!("Yes."))
    );
    assert_eq!(
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"],
        2
    );
}

#[tokio::test]
async fn the_template_can_be_told_not_to_think() {
    let server = Server::scripted(&CALLS);
    let hi = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
    let plain = server.ask(PATH, &hi).await;
    let prompt_tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let told = |value: bool| {
        with(
            &hi,
            json!({"chat_template_kwargs": {"enable_thinking": value}}),
        )
    };
    assert_eq!(
        prompt_tokens(&server.ask(PATH, &told(false)).await),
        prompt_tokens(&plain)
    );
    assert!(prompt_tokens(&server.ask(PATH, &told(true)).await) > prompt_tokens(&plain));
    for name in ["tokenize", "chat_template", "enable_thinkin"] {
        let reply = server
            .post(
                PATH,
                &with(&hi, json!({"chat_template_kwargs": {name: true}})),
            )
            .await;
        let (status, _, code, param) = reply.error();
        assert_eq!((status, code.as_str()), (400, "invalid_value"), "{name}");
        assert_eq!(param.as_deref(), Some("chat_template_kwargs"));
        assert!(reply.message().contains(name), "{}", reply.message());
    }
}

#[tokio::test]
async fn bad_tools_are_refused_by_name() {
    let server = Server::scripted(&CALLS);
    let named = |name: &str| json!([tool(name)]);
    let function = |more: Value| json!([{"type": "function", "function": more}]);
    let many: Vec<Value> = (0..129).map(|n| tool(&format!("f{n}"))).collect();
    let wide = json!([{"type": "function", "function": {"name": "f", "parameters": {"x": vec![0; 70_000]}}}]);
    for (more, code, param) in [
        (json!({"tools": many}), "invalid_value", "tools"),
        (json!({"tools": {}}), "invalid_value", "tools"),
        (json!({"tools": [1]}), "invalid_value", "tools[0]"),
        (json!({"tools": wide}), "invalid_type", "tools"),
        (
            json!({"tools": [{"function": {"name": "f"}}]}),
            "invalid_value",
            "tools[0].type",
        ),
        (
            json!({"tools": [{"type": "web_search"}]}),
            "unsupported_parameter",
            "tools[0].type \"web_search\"",
        ),
        (
            json!({"tools": [{"type": "function"}]}),
            "invalid_value",
            "tools[0].function",
        ),
        (
            json!({"tools": named("two words")}),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            json!({"tools": named("")}),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            json!({"tools": named(&"x".repeat(129))}),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            json!({"tools": function(json!({}))}),
            "invalid_value",
            "tools[0].function.name",
        ),
        (
            json!({"tools": [tool("f"), tool("f")]}),
            "invalid_value",
            "tools[1].function.name",
        ),
        (
            json!({"tools": function(json!({"name": "f", "parameters": [1]}))}),
            "invalid_value",
            "tools[0].function.parameters",
        ),
        (
            json!({"tools": function(json!({"name": "f", "parameters": {"type": "string"}}))}),
            "invalid_value",
            "tools[0].function.parameters.type",
        ),
        (
            json!({"tools": function(json!({"name": "f", "description": 1}))}),
            "invalid_value",
            "tools[0].function.description",
        ),
        (
            json!({"tool_choice": "sometimes"}),
            "invalid_value",
            "tool_choice",
        ),
        (
            json!({"tool_choice": {"type": "function"}}),
            "invalid_value",
            "tool_choice.function.name",
        ),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "absent"}}}),
            "invalid_value",
            "tool_choice",
        ),
        (
            json!({"tools": [], "tool_choice": "required"}),
            "invalid_value",
            "tool_choice",
        ),
    ] {
        let body = with(&ask(), more.clone());
        let reply = server.post(PATH, &body).await;
        let (status, _, given_code, given_param) = reply.error();
        assert_eq!(
            (status, given_code.as_str(), given_param.as_deref()),
            (400, code, Some(param)),
            "{}",
            reply.body
        );
    }
    // The tiny model's own template has no place for them.
    let reply = Server::start().post(PATH, &ask()).await;
    assert_eq!(reply.error().2, "unsupported_parameter");
    assert!(
        reply.message().contains("chat template"),
        "{}",
        reply.message()
    );
}

#[tokio::test]
async fn bad_calls_in_the_history_are_refused_by_place() {
    let server = Server::scripted(&CALLS);
    let call = |function: Value| json!([{"id": "c", "type": "function", "function": function}]);
    let wide = format!("{{\"x\": [{}0]}}", "0,".repeat(70_000));
    for (role, calls, param) in [
        (
            "assistant",
            call(json!({"arguments": "{}"})),
            "messages[1].tool_calls[0].function.name",
        ),
        (
            "assistant",
            call(json!({"name": "f", "arguments": "{"})),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            "assistant",
            call(json!({"name": "f", "arguments": "[1]"})),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            "assistant",
            call(json!({"name": "f", "arguments": wide})),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            "user",
            call(json!({"name": "f", "arguments": "{}"})),
            "messages[1].tool_calls",
        ),
    ] {
        let messages = json!([
            {"role": "user", "content": "hi"}, {"role": role, "content": "x", "tool_calls": calls},
        ]);
        let reply = server
            .post(PATH, &with(&ask(), json!({"messages": messages})))
            .await;
        let (status, _, _, given) = reply.error();
        assert_eq!(
            (status, given.as_deref()),
            (400, Some(param)),
            "{}",
            reply.body
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_call_costs_nothing() {
    let server = Server::scripted(&CALLS);
    let body = with(&ask(), json!({"stream": true, "ignore_eos": true}));
    let request = request(Method::POST, PATH, Body::from(body.to_string()));
    let response = server.router().oneshot(request).await.unwrap();
    drop(response);
    server.settle().await;
}
