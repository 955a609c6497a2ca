//! Tokens, rendered requests, and what routers ask a worker about itself.

use std::collections::BTreeSet;
use std::path::Path;

use axum::body::Body;
use axum::http::Method;
use kvist_server::{UnknownFields, serve};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{CONTEXT, Client as _, Server, config, request, with};

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

#[tokio::test]
async fn text_becomes_tokens_and_tokens_text() {
    let server = Server::start();
    let asked = json!({"prompt": "banana é", "return_token_strs": true});
    let answer = server.ask("/tokenize", &asked).await;
    let tokens = ids(&answer["tokens"]);
    assert_eq!(answer["count"], tokens.len());
    assert_eq!(answer["max_model_len"], CONTEXT);
    assert_eq!(answer["token_strs"][0], "ba");
    let back = server.ask("/detokenize", &json!({"tokens": tokens})).await;
    assert_eq!(back, json!({"prompt": "banana é"}));

    let conversation = json!([{"role": "user", "content": "hello"}]);
    let answer = server
        .ask("/tokenize", &json!({"messages": conversation}))
        .await;
    let text = server.token_text(&ids(&answer["tokens"]));
    assert_eq!(text, "user: hello\nassistant:");
    assert!(answer["token_strs"].is_null());
    let open = json!({"messages": conversation, "add_generation_prompt": false});
    let answer = server.ask("/tokenize", &open).await;
    assert_eq!(server.token_text(&ids(&answer["tokens"])), "user: hello\n");
}

#[tokio::test]
async fn requests_for_tokens_are_checked() {
    let server = Server::start();
    let messages = json!([{"role": "nobody", "content": "x"}]);
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        (
            "/tokenize",
            json!({"prompt": "a", "messages": []}),
            "prompt",
        ),
        (
            "/tokenize",
            json!({"messages": messages}),
            "messages[0].role",
        ),
        ("/tokenize", json!({"prompt": 7}), "prompt"),
        ("/tokenize", json!({"prompt": ""}), "prompt"),
        (
            "/tokenize",
            json!({"prompt": "x".repeat(100_000)}),
            "prompt",
        ),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": [512]}), "tokens"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens"),
    ] {
        let reply = server.post(path, &body).await;
        let (status, _, _, found) = reply.error();
        assert_eq!(
            (status, found.as_deref()),
            (400, Some(param)),
            "{path} {}",
            reply.body
        );
    }
    let reply = server
        .post("/tokenize", &json!({"prompt": "a", "what": 1}))
        .await;
    assert_eq!(reply.headers["x-kvist-ignored-fields"], "what");
    let strict = Server::with_config(kvist_server::ServerConfig {
        unknown_fields: UnknownFields::Refuse,
        ..config()
    });
    for (path, body) in [
        ("/tokenize", json!({"prompt": "a", "what": 1})),
        ("/detokenize", json!({"tokens": [3], "what": 1})),
    ] {
        assert_eq!(
            strict.post(path, &body).await.error().3.as_deref(),
            Some("what")
        );
    }
}

#[tokio::test]
async fn rendered_requests_are_those_the_engine_runs() {
    let server = Server::start();
    let body = json!({
        "prompt": ["banana", "hello there"], "max_tokens": 5, "temperature": 0.5, "stop": "x",
        "cache_salt": "s", "priority": 3, "request_id": "r", "stream": true, "seed": 7,
    });
    let rendered = server.ask("/v1/completions/render", &body).await;
    let rendered = rendered.as_array().unwrap();
    assert_eq!(rendered.len(), 2);
    let first = &rendered[0];
    let run = json!({"prompt": "banana", "max_tokens": 1, "return_token_ids": true});
    let run = server.ask("/v1/completions", &run).await;
    assert_eq!(first["token_ids"], run["choices"][0]["prompt_token_ids"]);
    assert_eq!(first["request_id"], "cmpl-r-0");
    for (key, value) in [
        ("features", json!(null)),
        ("kv_transfer_params", json!(null)),
        ("model", json!("tiny")),
        ("stream", json!(true)),
        ("cache_salt", json!("s")),
        ("priority", json!(3)),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    let sampling = &first["sampling_params"];
    assert_eq!(sampling["max_tokens"], 5);
    assert_eq!(sampling["seed"], 7);
    assert_eq!(sampling["stop"], json!(["x"]));

    let chat =
        json!({"messages": [{"role": "user", "content": "hello"}], "return_token_ids": true});
    let rendered = server.ask("/v1/chat/completions/render", &chat).await;
    let run = with(&chat, json!({"max_tokens": 1}));
    let run = server.ask("/v1/chat/completions", &run).await;
    assert_eq!(rendered["token_ids"], run["prompt_token_ids"]);
    assert!(rendered["sampling_params"]["max_tokens"].is_null());

    // They are held to the same rules.
    let bad = json!({"prompt": "a", "temperature": -1, "n": 99});
    let reply = server.post("/v1/completions/render", &bad).await;
    assert_eq!(reply.error().3.as_deref(), Some("n"));
    let reply = server.post("/v1/chat/completions/render", &json!({})).await;
    assert_eq!(reply.error().3.as_deref(), Some("messages"));
    assert_eq!(
        server.handle().metrics().accepted,
        2,
        "rendering runs nothing"
    );
}

#[tokio::test]
async fn routers_learn_what_they_ask_for() {
    let server = Server::start();
    for path in ["/get_server_info", "/server_info"] {
        let info = server.get(path).await.json();
        let handle = server.handle();
        let plan = &handle.info().plan;
        assert_eq!(info["model_id"], "tiny");
        assert_eq!(info["kv_block_size"], plan.kv.block_size.0);
        assert_eq!(info["effective_attention_block_size"], plan.kv.block_size.0);
        assert_eq!(
            info["total_kv_blocks"],
            server.handle().metrics().blocks_total
        );
        assert_eq!(info["max_running_requests"], 8);
        assert!(info["instance_id"].as_str().unwrap().starts_with("kvist-"));
    }
    for path in ["/get_model_info", "/model_info"] {
        let info = server.get(path).await.json();
        assert_eq!(info["model_path"], "llama3");
        assert_eq!(info["is_generation"], true);
    }
    let sleeping = server.get("/is_sleeping").await.json();
    assert_eq!(sleeping, json!({"is_sleeping": false}));
    assert_eq!(server.get("/kv_event_sources").await.json(), json!({}));
    for method in [Method::GET, Method::POST] {
        let reply = server.send(request(method, "/ping", Body::empty())).await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn load_is_what_runs_and_waits() {
    let server = Server::start();
    let body =
        json!({"prompt": "ba", "max_tokens": 400, "ignore_eos": true, "n": 16, "stream": true});
    let reply = tower::ServiceExt::oneshot(
        server.router.clone(),
        request(
            Method::POST,
            "/v1/completions",
            Body::from(body.to_string()),
        ),
    );
    let running = reply.await.unwrap();
    server.busy().await;
    let load = server.get("/load").await.json();
    assert!(
        (1..=16).contains(&load["server_load"].as_u64().unwrap()),
        "{load}"
    );
    let loads = server.get("/v1/loads?include=core").await.json();
    assert_eq!(loads["dp_rank_count"], 1);
    let load = &loads["loads"][0];
    assert!(load["num_used_tokens"].as_u64().unwrap() > 0, "{load}");
    assert!(load["utilization"].as_f64().unwrap() > 0.0, "{load}");
    assert_eq!(load["max_running_requests"], 8);
    drop(running);
    server.settle().await;
    assert_eq!(server.get("/load").await.json(), json!({"server_load": 0}));
}

/// Paths that the sources route, in the document's spelling.
fn routed(dir: &Path, paths: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            routed(&path, paths);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text: String = text.split_whitespace().collect();
        // What tests build for themselves is not of the API.
        let text = text.split("#[cfg(test)]").next().unwrap();
        for after in text.split(".route(\"").skip(1) {
            let path = after.split('"').next().unwrap();
            paths.insert(path.replace("{*", "{"));
        }
    }
}

#[tokio::test]
async fn the_api_describes_every_route_it_has_and_no_other() {
    let server = Server::start();
    let document = server.get("/openapi.json").await.json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    let mut found = BTreeSet::new();
    routed(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    assert_eq!(described, found);
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path.replace("{id}", "tiny");
            let reply = server
                .send(request(method.clone(), &path, Body::from("{}")))
                .await;
            let has_no_route = reply.status == 404 && reply.body.contains("no such route");
            assert!(
                reply.status != 405 && !has_no_route,
                "{method} {path}: {}",
                reply.body
            );
        }
    }
}

#[tokio::test]
async fn the_api_describes_every_field_it_reads() {
    let server = Server::start();
    let document = server.get("/openapi.json").await.json();
    for (path, schema) in [
        ("/v1/completions", "CompletionRequest"),
        ("/v1/chat/completions", "ChatCompletionRequest"),
    ] {
        let fields = &document["components"]["schemas"][schema]["properties"];
        let fields = fields.as_object().unwrap();
        // What is not read is reported, so no field of these may be.
        let body: Value = fields
            .keys()
            .map(|key| (key.clone(), Value::Null))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let valid = match path {
            "/v1/completions" => json!({"prompt": "a", "max_tokens": 1}),
            _ => json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        };
        let reply = server.post(path, &with(&body, valid)).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert!(
            !reply.headers.contains_key("x-kvist-ignored-fields"),
            "{:?}",
            reply.headers
        );
    }
}

#[tokio::test]
async fn a_preface_of_http_2_ends_the_connection_and_nothing_else() {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, server.handle(), config(), async {
        let _ = stopped.await;
    }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), reading).await;
    // Closed, perhaps after a refusal; a reset is as clear.
    assert!(ended.is_ok(), "the connection was left open");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let get = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(get).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}
