//! What the memory map asks for: blocks as they are, plans as they could be.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use kvist_engine::MAP_AGE_MAX;
use kvist_server::ServerConfig;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{Client as _, Server, config, request, with};

const BLOCKS: &str = "/v1/memory/blocks";
const PLAN: &str = "/v1/plan";

async fn blocks(server: &Server) -> Value {
    tokio::time::sleep(MAP_AGE_MAX).await;
    let reply = server.get(BLOCKS).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    reply.json()
}

/// How many cells have a code.
fn cells(map: &Value, code: u64) -> u64 {
    let runs = map["runs"].as_array().unwrap().iter();
    let same = runs.filter(|run| run[1] == code);
    same.map(|run| run[0].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn an_idle_pool_is_one_run_of_blocks_nobody_has() {
    let server = Server::start();
    let map = blocks(&server).await;
    let total = server.handle().memory().kv.blocks_limit;
    assert_eq!(map["runs"], json!([[total, 0]]));
    assert_eq!(map["legend"][0], "uncommitted");
    assert_eq!(map["counts"]["uncommitted"], total);
    assert_eq!(
        (&map["model"], &map["blocks"]),
        (&json!("tiny"), &json!(total))
    );
    assert_eq!(map["block_size"], 16);
    assert_eq!(map["sequences"], json!([]));
    assert_eq!((&map["running"], &map["waiting"]), (&json!(0), &json!(0)));
    assert_eq!(map["counters"]["output_tokens"], 0);
}

#[tokio::test]
async fn requests_are_seen_with_their_blocks_until_they_end() {
    let server = Server::start();
    let body = json!({"prompt": "banana", "max_tokens": 5, "ignore_eos": true, "n": 2});
    server.ask("/v1/completions", &body).await;
    server.settle().await;
    let counters = blocks(&server).await["counters"].clone();
    for (name, count) in [("output_tokens", 10), ("ttft_count", 2), ("finished", 2)] {
        assert_eq!(counters[name], count, "{name}");
    }

    // Many and long, so that they are not over before somebody looks.
    let body = json!({"prompt": "banana", "max_tokens": 400, "ignore_eos": true, "n": 16});
    let asked = |_| {
        request(
            Method::POST,
            "/v1/completions",
            Body::from(body.to_string()),
        )
    };
    let ask = |request| tokio::spawn(server.router.clone().oneshot(request));
    let asking = [0; 4].map(asked).map(ask);
    server.busy().await;
    let map = blocks(&server).await;
    assert!(map["running"].as_u64() > Some(0), "{map}");
    let sequences = map["sequences"].as_array().unwrap();
    for (place, sequence) in (0..).zip(sequences) {
        let prompt = sequence["prompt_len"].as_u64().unwrap();
        assert_eq!(sequence["len_max"], prompt + 400);
        let own = cells(&map, 5 + place);
        let held = sequence["blocks"].as_u64().unwrap();
        assert!(own <= held && held <= own + cells(&map, 3), "{map}");
        assert_eq!(sequence["state"] == "running", held > 0);
    }
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    server.settle().await;
    let map = blocks(&server).await;
    assert_eq!(map["counts"]["owned"], 0);
    assert_eq!(map["sequences"], json!([]));
}

#[tokio::test]
async fn only_a_served_model_can_be_looked_at() {
    let server = Server::start();
    let named = server.get("/v1/memory/blocks?model=alias").await;
    assert_eq!(named.status, StatusCode::OK);
    assert_eq!(
        named.json()["model"],
        "tiny",
        "answers carry the first name"
    );
    let unknown = server.get("/v1/memory/blocks?model=huge").await.error();
    let expected = (404, "not_found_error", "model_not_found", Some("model"));
    assert_eq!(
        (unknown.0, &*unknown.1, &*unknown.2, unknown.3.as_deref()),
        expected
    );
    let other = server.get("/v1/memory/blocks?cells=9").await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
    assert!(
        other.message().starts_with("cells is not supported"),
        "{}",
        other.body
    );
}

#[tokio::test]
async fn both_need_the_key() {
    let server = Server::with_config(ServerConfig {
        api_keys: vec!["secret".to_owned()],
        ..config()
    });
    assert_eq!(server.get(BLOCKS).await.status, StatusCode::UNAUTHORIZED);
    let reply = server.post(PLAN, &json!({})).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn nothing_asked_is_the_plan_in_force() {
    let server = Server::start();
    let memory = server.get("/v1/memory").await.json();
    let plan = server.ask(PLAN, &json!({})).await;
    assert_eq!(plan, memory["models"][0]["plan"]);
    assert_eq!(server.ask(PLAN, &json!({"model": "alias"})).await, plan);
}

#[tokio::test]
async fn other_limits_give_another_plan_and_change_nothing() {
    let server = Server::start();
    let before = server.get("/v1/memory").await.json()["models"][0]["plan"].clone();
    let asked = json!({"max_model_len": 256, "max_num_seqs": 2, "memory": "128MiB", "kv_cache_dtype": "q8_0"});
    let plan = server.ask(PLAN, &asked).await;
    assert_eq!(plan["model_len"], 256);
    assert_eq!(plan["running_max"], 2);
    assert_eq!(plan["budget"], 128 << 20);
    assert_eq!(plan["kv"]["blocks"], 2 * 256 / 16);
    let bytes = |plan: &Value| plan["kv"]["block_bytes"].as_u64().unwrap();
    assert!(bytes(&plan) < bytes(&before));
    let small = server
        .ask(PLAN, &with(&asked, json!({"memory": 1_000_000})))
        .await;
    assert!(
        small["verdict"]["does_not_fit"]["shortfall"].as_u64() > Some(0),
        "{small}"
    );
    let after = server.get("/v1/memory").await.json();
    assert_eq!(after["models"][0]["plan"], before);
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused_by_name() {
    let server = Server::start();
    for (body, field, code) in [
        (
            json!({"max_model_len": 0}),
            "max_model_len",
            "invalid_value",
        ),
        (
            json!({"max_model_len": 1 << 30}),
            "max_model_len",
            "invalid_value",
        ),
        (json!({"max_num_seqs": 0}), "max_num_seqs", "invalid_value"),
        (
            json!({"max_num_seqs": 1 << 20}),
            "max_num_seqs",
            "invalid_value",
        ),
        (json!({"max_num_seqs": "8"}), "max_num_seqs", "invalid_type"),
        (json!({"memory": "lots"}), "memory", "invalid_value"),
        (json!({"memory": 0}), "memory", "invalid_value"),
        (
            json!({"kv_cache_dtype": "q4"}),
            "kv_cache_dtype",
            "invalid_value",
        ),
        (
            json!({"block_size": 8}),
            "block_size",
            "unsupported_parameter",
        ),
        (json!({"model": "huge"}), "model", "model_not_found"),
    ] {
        let (_, _, given_code, param) = server.post(PLAN, &body).await.error();
        assert_eq!(
            (&*given_code, param.as_deref()),
            (code, Some(field)),
            "{body}"
        );
    }
}
