//! `/api/…` as Ollama's clients use it.

use axum::body::Body;
use axum::http::Method;
use kvist_engine::SpecialText;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{Client as _, Server, request, with};
use crate::tools::{CALLS, THOUGHT};

const CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";

fn hello() -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": false})
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    json!([tool("get_weather"), tool("get_time")])
}

/// The lines of a stream, which is what these endpoints send unless told otherwise.
async fn lines(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove("stream");
    let reply = server.post(path, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    let lines: Vec<Value> = reply
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, others) = lines.split_last().unwrap();
    assert!(
        last["done"] == true && others.iter().all(|line| line["done"] == false),
        "{lines:?}"
    );
    lines
}

/// An answer without what differs from run to run, which must be there.
fn timeless(mut answer: Value) -> Value {
    let fields = answer.as_object_mut().unwrap();
    let created = fields.remove("created_at").unwrap();
    assert!(created.as_str().unwrap().ends_with('Z'), "{created}");
    if fields["done"] == true {
        let durations = ["total_duration", "prompt_eval_duration", "eval_duration"]
            .map(|name| fields.remove(name).unwrap().as_u64().unwrap());
        assert!(durations[0] >= durations[1] + durations[2], "{durations:?}");
    }
    for call in fields["message"]["tool_calls"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        assert!(!call["id"].as_str().unwrap().is_empty());
        call.as_object_mut().unwrap().remove("id");
    }
    answer
}

#[tokio::test]
async fn a_chat_is_ollamas_shape_whole_and_streamed() {
    let server = Server::scripted(&CALLS);
    let body = with(&hello(), json!({"tools": tools()}));
    let prompt = "tool get_weather\ntool get_time\nuser: hi\nassistant:";
    let prompt = server
        .handle()
        .tokenize(prompt, SpecialText::Parse)
        .unwrap()
        .len();
    let calls = json!([
        {"function": {"index": 0, "name": "get_weather", "arguments": {"city": "Z\u{fc}rich"}}},
        {"function": {"index": 1, "name": "get_time", "arguments": {}}},
    ]);
    let expected = json!({
        "model": "tiny", "done": true, "done_reason": "stop", "load_duration": 0,
        "message": {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        "prompt_eval_count": prompt, "eval_count": 9,
    });
    assert_eq!(timeless(server.ask(CHAT, &body).await), expected);

    let mut content = String::new();
    let mut called = Vec::new();
    for line in lines(&server, CHAT, &body).await {
        let line = timeless(line);
        content.push_str(line["message"]["content"].as_str().unwrap());
        called.extend(
            line["message"]["tool_calls"]
                .as_array()
                .into_iter()
                .flatten()
                .cloned(),
        );
        if line["done"] == true {
            for key in ["done_reason", "prompt_eval_count", "eval_count"] {
                assert_eq!(line[key], expected[key]);
            }
        }
    }
    assert_eq!(
        (content.as_str(), Value::Array(called)),
        ("Let me look.", calls)
    );
}

#[tokio::test]
async fn thinking_has_a_field_of_its_own() {
    let server = Server::scripted(&THOUGHT);
    let answer = server.ask(CHAT, &hello()).await;
    assert_eq!(
        answer["message"],
        json!({"role": "assistant", "content": "It is.", "thinking": "Hm, yes."})
    );
    let prompt = json!({"model": "tiny", "prompt": "hi", "stream": false});
    let answer = server.ask(GENERATE, &prompt).await;
    assert_eq!(
        (&answer["response"], &answer["thinking"]),
        (&json!("It is."), &json!("Hm, yes."))
    );
    let hidden = server
        .ask(GENERATE, &with(&prompt, json!({"think": false})))
        .await;
    assert_eq!(hidden["response"], "It is.");
    assert!(hidden.get("thinking").is_none());
    let lines = lines(&server, GENERATE, &prompt).await;
    let all =
        |key: &str| -> String { lines.iter().filter_map(|line| line[key].as_str()).collect() };
    assert_eq!(
        (all("response").as_str(), all("thinking").as_str()),
        ("It is.", "Hm, yes.")
    );
}

#[tokio::test]
async fn a_prompt_goes_through_the_template_unless_it_is_raw() {
    let server = Server::start();
    let options = json!({"temperature": 0, "num_predict": 6, "stop": null});
    let ask = |more: Value| {
        with(
            &json!({"model": "tiny:latest", "stream": false, "options": options}),
            more,
        )
    };
    let raw = server
        .ask(GENERATE, &ask(json!({"prompt": "banana", "raw": true})))
        .await;
    assert_eq!(raw["response"], server.greedy("banana", 6));
    assert_eq!(
        (&raw["done_reason"], &raw["eval_count"]),
        (&json!("length"), &json!(6))
    );
    let asked = json!({"prompt": "banana", "system": "be brief"});
    let answer = server.ask(GENERATE, &ask(asked)).await;
    let prompt = "system: be brief\nuser: banana\nassistant:";
    assert_eq!(answer["response"], server.greedy(prompt, 6));
    // Without anything to say, the model is loaded and no more.
    for (path, empty) in [
        (GENERATE, json!({"prompt": ""})),
        (CHAT, json!({"messages": []})),
    ] {
        let answer = server.ask(path, &ask(empty)).await;
        assert_eq!(
            (&answer["done"], &answer["done_reason"]),
            (&json!(true), &json!("load"))
        );
    }
}

#[tokio::test]
async fn options_reach_the_sampler() {
    let server = Server::scripted(&CALLS);
    let stop = json!({"options": {"stop": ["look"], "seed": 3, "num_ctx": 4096}});
    let reply = server.post(CHAT, &with(&hello(), stop)).await;
    assert_eq!(reply.json()["message"]["content"], "Let me ");
    assert_eq!(reply.headers["x-kvist-ignored-fields"], "options.num_ctx");
    let answer = server
        .ask(
            CHAT,
            &with(&hello(), json!({"options": {"num_predict": -1}})),
        )
        .await;
    assert_eq!(answer["done_reason"], "stop");
}

#[tokio::test]
async fn models_are_listed_and_described() {
    let server = Server::scripted(&CALLS);
    let tags = server.get("/api/tags").await.json();
    let names: Vec<&str> = tags["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["tiny", "alias"]);
    let shown = server.ask("/api/show", &json!({"model": "tiny"})).await;
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    assert_eq!(
        shown["model_info"]["llama.context_length"],
        crate::support::CONTEXT
    );
    let thinks = Server::scripted(&THOUGHT)
        .ask("/api/show", &json!({"name": "tiny"}))
        .await;
    assert_eq!(thinks["capabilities"], json!(["completion", "thinking"]));
    let version = server.get("/api/version").await.json();
    assert_eq!(version, server.get("/version").await.json());
}

#[tokio::test]
async fn refusals_are_ollamas_shape() {
    let server = Server::scripted(&CALLS);
    let messages = |message: Value| json!({"messages": [message]});
    for (path, more, words) in [
        (
            CHAT,
            messages(json!({"role": "robot", "content": "x"})),
            "messages[0].role",
        ),
        (
            CHAT,
            messages(json!({"role": "user"})),
            "messages[0].content",
        ),
        (
            CHAT,
            messages(json!({"role": "user", "content": "x", "images": ["AAAA"]})),
            "messages[0].images",
        ),
        (CHAT, json!({"messages": 1}), "messages"),
        (
            CHAT,
            json!({"tools": [{"type": "function"}]}),
            "tools[0].function",
        ),
        (CHAT, json!({"format": "json"}), "format"),
        (CHAT, json!({"think": "very"}), "think"),
        (CHAT, json!({"options": {"temperature": 5}}), "temperature"),
        (
            CHAT,
            json!({"options": {"num_predict": 0}}),
            "options.num_predict",
        ),
        (
            CHAT,
            json!({"options": {"mirostat": 2}}),
            "options.mirostat",
        ),
        (GENERATE, json!({"prompt": "x", "suffix": "y"}), "suffix"),
        (
            GENERATE,
            json!({"prompt": "x", "template": "{{ .Prompt }}"}),
            "template",
        ),
        (
            GENERATE,
            json!({"prompt": "x", "images": ["AAAA"]}),
            "images",
        ),
        (
            GENERATE,
            json!({"prompt": "x", "raw": true, "system": "y"}),
            "system",
        ),
        ("/api/show", json!({"model": null}), "model"),
    ] {
        let reply = server.post(path, &with(&hello(), more.clone())).await;
        assert_eq!(reply.status, 400, "{more}: {}", reply.body);
        let body = reply.json();
        assert!(
            body["error"].as_str().unwrap().contains(words),
            "{more}: {body}"
        );
        assert_eq!(body.as_object().unwrap().len(), 1);
    }
    let unknown = server.post("/api/show", &json!({"model": "other"})).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"].as_str().unwrap().contains("other"));
    assert_eq!(server.get(CHAT).await.status, 405);
}

#[tokio::test]
async fn a_fault_is_the_last_line() {
    let server = Server::faulty();
    let mut body = hello();
    body["stream"] = json!(true);
    let reply = server.post(CHAT, &body).await;
    let last: Value = serde_json::from_str(reply.body.lines().last().unwrap()).unwrap();
    assert!(
        last["error"].as_str().unwrap().contains("internal error"),
        "{last}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_cancelled() {
    let server = Server::start();
    let body = with(
        &hello(),
        json!({"stream": true, "options": {"num_predict": 400}}),
    );
    let request = request(Method::POST, CHAT, Body::from(body.to_string()));
    let response = server.router().oneshot(request).await.unwrap();
    drop(response);
    server.settle().await;
}
