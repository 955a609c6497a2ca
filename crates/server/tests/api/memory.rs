//! The budget: shown, changed, refused; the prefix cache; whom a request runs for.

use axum::body::Body;
use axum::http::Method;
use kvist_base::{Bytes, Tokens};
use kvist_engine::EngineOptions;
use kvist_engine::plan::{Limits, MemoryLimit};
use kvist_server::{FairShare, ServerConfig};
use serde_json::{Value, json};

use crate::support::{Client as _, Reply, Server, config, options, request, with};

const COMPLETIONS: &str = "/v1/completions";
const MEMORY: &str = "/v1/memory";
const RESET: &str = "/reset_prefix_cache";

async fn put(server: &Server, body: &Value) -> Reply {
    let mut request = request(Method::PUT, MEMORY, Body::from(body.to_string()));
    let json = "application/json".parse().unwrap();
    request.headers_mut().insert("content-type", json);
    server.send(request).await
}

/// A pool of many extents, so that budgets make a difference.
fn large_pool() -> Server {
    let options = EngineOptions {
        limits: Limits {
            memory: MemoryLimit::Absolute(Bytes::GIB),
            running_max: 128,
            ..options().limits
        },
        waiting_max: 128,
        ..options()
    };
    Server::with(config(), &options)
}

fn sum(memory: &Value, of: &str) -> u64 {
    let lines = memory["lines"].as_array().unwrap().iter();
    lines.map(|line| line[of].as_u64().unwrap()).sum()
}

fn least(server: &Server) -> u64 {
    server.handle().memory().plan.budget_min().0
}

#[tokio::test]
async fn memory_is_shown_line_by_line() {
    let server = Server::start();
    let memory = server.get(MEMORY).await.json();
    assert_eq!(memory["budget"], 256 << 20);
    for of in ["planned", "committed", "used"] {
        assert_eq!(memory[of], sum(&memory, of), "{of}");
    }
    let planned = memory["planned"].as_u64().unwrap();
    assert_eq!(planned, server.handle().info().plan.total.0);
    assert!(planned <= 256 << 20 && sum(&memory, "committed") <= planned);
    for line in memory["lines"].as_array().unwrap() {
        assert_eq!(line["model"], "tiny");
        assert!(line["kind"].is_string() && line["name"].is_string());
    }
    let model = &memory["models"][0];
    assert_eq!(
        (&model["id"], &model["state"]),
        (&json!("tiny"), &json!("ready"))
    );
    assert_eq!(model["kv"]["blocks_free"], model["kv"]["blocks_limit"]);
    assert_eq!(model["plan"]["model_len"], 512);
    assert!(memory["process"]["resident"].as_u64() > Some(0));

    let page = server.get("/metrics").await.body;
    let budget = format!("\nkvist_memory_budget_bytes {}\n", 256 << 20);
    assert!(
        page.contains(&budget) && page.contains("\nkvist_process_resident_bytes "),
        "{page}"
    );
    let pool = "kvist_memory_bytes{model_name=\"tiny\",engine=\"0\",line=\"kv pool\",state=\"committed\"} ";
    assert!(page.contains(pool), "{page}");
}

#[tokio::test]
async fn the_budget_changes_by_size_or_by_bytes() {
    let server = large_pool();
    let smaller = least(&server) + (4 << 20);
    let limit = |memory: &Value| memory["models"][0]["kv"]["blocks_limit"].as_u64().unwrap();
    let before = server.get(MEMORY).await.json();
    let reply = put(&server, &json!({"budget": smaller})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let after = reply.json();
    assert_eq!(after["budget"], smaller);
    assert!(sum(&after, "planned") <= smaller);
    assert!(limit(&after) < limit(&before), "{after}");
    assert_eq!(server.get(MEMORY).await.json()["budget"], smaller);
    let again = put(&server, &json!({"budget": "1GiB"})).await.json();
    assert_eq!(again["budget"], 1 << 30);
    assert_eq!(limit(&again), limit(&before));
}

#[tokio::test]
async fn budgets_that_cannot_be_are_refused_with_numbers() {
    let server = large_pool();
    let before = server.get(MEMORY).await.json()["budget"].clone();
    let needed = least(&server);
    for (body, code, param, words) in [
        (json!({}), "missing_required_parameter", "budget", "3GiB"),
        (
            json!({"budget": null}),
            "missing_required_parameter",
            "budget",
            "3GiB",
        ),
        (json!({"budget": true}), "invalid_type", "budget", "size"),
        (json!({"budget": -5}), "invalid_type", "budget", "size"),
        (json!({"budget": "much"}), "invalid_value", "budget", "much"),
        (json!({"budget": 0}), "invalid_value", "budget", "above 0"),
        (
            json!({"budget": 0.5}),
            "invalid_value",
            "budget",
            "number of bytes",
        ),
        (
            json!({"bugdet": "1GiB"}),
            "unsupported_parameter",
            "bugdet",
            "budget can be set",
        ),
        (
            json!({"budget": needed - 1}),
            "invalid_value",
            "budget",
            &needed.to_string(),
        ),
    ] {
        let reply = put(&server, &body).await;
        let (status, kind, given_code, given_param) = reply.error();
        assert_eq!(
            (status, kind.as_str()),
            (400, "invalid_request_error"),
            "{body}"
        );
        assert_eq!(
            (given_code.as_str(), given_param.as_deref()),
            (code, Some(param)),
            "{body}"
        );
        assert!(
            reply.message().contains(words),
            "{body}: {}",
            reply.message()
        );
    }
    assert_eq!(
        server.get(MEMORY).await.json()["budget"],
        before,
        "nothing has changed"
    );
    assert_eq!(
        server.post(MEMORY, &json!({"budget": "1GiB"})).await.status,
        405
    );
}

#[tokio::test]
async fn the_smallest_pool_still_takes_what_the_context_allows() {
    let server = Server::start();
    let least = least(&server);
    assert_eq!(put(&server, &json!({ "budget": least })).await.status, 200);
    let body = json!({"prompt": "ba", "max_tokens": 500, "ignore_eos": true});
    let answer = server.ask(COMPLETIONS, &body).await;
    assert_eq!(answer["usage"]["completion_tokens"], 500);
}

#[tokio::test]
async fn shrinking_under_load_loses_nothing() {
    let server = large_pool();
    let body = json!({"prompt": "ba", "max_tokens": 300, "ignore_eos": true, "temperature": 0});
    let alone = server.ask(COMPLETIONS, &body).await["choices"][0]["text"].clone();
    let eight = with(&body, json!({"prompt": vec!["ba"; 8]}));
    let small = json!({"budget": least(&server)});
    let shrinking = async {
        server.busy().await;
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(put(&server, &small).await.status.as_u16());
            statuses.push(
                put(&server, &json!({"budget": "1GiB"}))
                    .await
                    .status
                    .as_u16(),
            );
        }
        statuses
    };
    let (answer, statuses) = tokio::join!(server.ask(COMPLETIONS, &eight), shrinking);
    assert!(
        statuses.iter().all(|status| [200, 409].contains(status)),
        "{statuses:?}"
    );
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(choice["text"], alone);
    }
    server.settle().await;
}

#[tokio::test]
async fn the_prefix_cache_is_forgotten_on_demand() {
    let server = Server::start();
    let prompt = "banana ".repeat(12);
    let body = json!({"prompt": prompt, "max_tokens": 1});
    let hits = |answer: Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert_eq!(hits(server.ask(COMPLETIONS, &body).await), Some(0));
    assert!(hits(server.ask(COMPLETIONS, &body).await) > Some(16));
    assert_eq!(
        server.post(RESET, &json!({})).await.json(),
        json!({"status": "ok"})
    );
    assert_eq!(hits(server.ask(COMPLETIONS, &body).await), Some(0));

    let long = json!({"prompt": "ba", "max_tokens": 500, "ignore_eos": true});
    let refused = async {
        server.busy().await;
        server.post(RESET, &json!({})).await
    };
    let (_, refused) = tokio::join!(server.ask(COMPLETIONS, &long), refused);
    let (status, kind, code, _) = refused.error();
    assert_eq!(
        (status, kind.as_str(), code.as_str()),
        (409, "conflict_error", "cache_in_use")
    );
}

#[tokio::test]
async fn requests_share_prefixes_only_under_the_same_salt() {
    let server = Server::start();
    let body = json!({"prompt": "banana ".repeat(12), "max_tokens": 1});
    let mut cached = Vec::new();
    for salt in [None, Some("a"), Some("b"), Some("a"), None] {
        let body = with(&body, json!({"cache_salt": salt}));
        let answer = server.ask(COMPLETIONS, &body).await;
        let details = &answer["usage"]["prompt_tokens_details"];
        cached.push(details["cached_tokens"].as_u64() > Some(0));
    }
    assert_eq!(cached, [false, false, false, true, true]);

    let chat = json!({"messages": [{"role": "user", "content": "banana ".repeat(12)}],
        "max_tokens": 1, "cache_salt": "chat", "stream_options": {"include_usage": true}});
    let path = "/v1/chat/completions";
    for expected in [false, true] {
        let events = server.stream(path, &chat).await;
        let usage = &events.last().unwrap()["usage"];
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        assert_eq!(cached > Some(0), expected, "{usage}");
    }
}

#[tokio::test]
async fn salts_and_priorities_have_bounds() {
    let server = Server::start();
    let body = |field: &str, value: Value| json!({"prompt": "ba", "max_tokens": 1, field: value});
    for (field, value, code) in [
        ("cache_salt", json!(""), "invalid_value"),
        ("cache_salt", json!("x".repeat(257)), "invalid_value"),
        ("cache_salt", json!(5), "invalid_type"),
        ("priority", json!(1_i64 << 31), "invalid_value"),
        ("priority", json!(-(1_i64 << 31) - 1), "invalid_value"),
        ("priority", json!("high"), "invalid_type"),
        ("user", json!(["ann"]), "invalid_type"),
    ] {
        let reply = server.post(COMPLETIONS, &body(field, value)).await;
        let (status, _, given, param) = reply.error();
        assert_eq!(
            (status, given.as_str(), param.as_deref()),
            (400, code, Some(field))
        );
    }
    for (field, value) in [
        ("cache_salt", json!("x".repeat(256))),
        ("priority", json!(i32::MIN)),
        ("priority", json!(i32::MAX)),
        ("user", json!("ann")),
    ] {
        server.ask(COMPLETIONS, &body(field, value)).await;
    }
}

#[tokio::test]
async fn a_server_has_a_default_for_how_much_is_produced() {
    let server = Server::with_config(ServerConfig {
        output_default: Some(Tokens(5)),
        ..config()
    });
    let produced = |answer: Value| answer["usage"]["completion_tokens"].as_u64().unwrap();
    let chat = json!({"messages": [{"role": "user", "content": "a"}], "ignore_eos": true});
    let plain = json!({"prompt": "ba", "ignore_eos": true});
    for (path, body) in [("/v1/chat/completions", &chat), (COMPLETIONS, &plain)] {
        assert_eq!(produced(server.ask(path, body).await), 5);
        let asked = with(body, json!({"max_tokens": 9}));
        assert_eq!(
            produced(server.ask(path, &asked).await),
            9,
            "what is asked for counts"
        );
    }
    // A default is no reason to refuse a prompt that leaves less room.
    let prompt = vec![300; 509];
    let almost = json!({"prompt": prompt, "ignore_eos": true});
    assert_eq!(produced(server.ask(COMPLETIONS, &almost).await), 3);
}

#[tokio::test]
async fn users_and_keys_are_tenants_where_shares_are_to_be_fair() {
    for fair_share in [FairShare::User, FairShare::Key] {
        let server = Server::with_config(ServerConfig {
            fair_share,
            ..config()
        });
        let body = json!({"prompt": "ba", "max_tokens": 2, "user": "ann", "temperature": 0});
        let with_user = server.ask(COMPLETIONS, &body).await["choices"][0]["text"].clone();
        let other = with(&body, json!({"user": null}));
        let without = server.ask(COMPLETIONS, &other).await["choices"][0]["text"].clone();
        assert_eq!(with_user, without, "whom it is for changes no answer");
    }
}
