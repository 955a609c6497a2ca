//! `/metrics` as dashboards and alerts read it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{CONTEXT, Client as _, Server};

/// A sample's value, by its name and what else stands between its braces.
fn value(page: &str, name: &str, labels: &str) -> f64 {
    let start = format!("{name}{{model_name=\"tiny\",engine=\"0\"{labels}}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&start));
    let line = line.unwrap_or_else(|| panic!("no {start} in\n{page}"));
    line.parse().unwrap()
}

fn is(page: &str, name: &str, labels: &str, expected: f64) {
    let found = value(page, name, labels);
    assert!(
        (found - expected).abs() < 1e-9,
        "{name}{labels}: {found}, not {expected}"
    );
}

#[tokio::test]
async fn requests_are_measured_in_all_their_parts() {
    let server = Server::start();
    let body = json!({"prompt": "banana", "max_tokens": 5, "ignore_eos": true, "n": 2});
    server.ask("/v1/completions", &body).await;
    server
        .ask("/v1/completions", &json!({"prompt": "ba", "max_tokens": 1}))
        .await;
    server.settle().await;
    let page = server.get("/metrics").await.body;
    for name in [
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_inference_time_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
        "request_prefill_kv_computed_tokens",
        "request_params_max_tokens",
    ] {
        is(&page, &format!("vllm:{name}_count"), "", 3.0);
    }
    // One token has no time after the first.
    is(
        &page,
        "vllm:request_time_per_output_token_seconds_count",
        "",
        2.0,
    );
    is(&page, "vllm:request_prompt_tokens_sum", "", 7.0);
    is(&page, "vllm:request_generation_tokens_sum", "", 11.0);
    is(
        &page,
        "vllm:request_generation_tokens_bucket",
        ",le=\"1.0\"",
        1.0,
    );
    is(&page, "vllm:request_params_max_tokens_sum", "", 11.0);
    is(&page, "vllm:request_params_n_count", "", 2.0);
    is(&page, "vllm:request_params_n_sum", "", 3.0);
    let parts = |part| value(&page, &format!("vllm:request_{part}_time_seconds_sum"), "");
    let inference = parts("inference");
    assert!((parts("prefill") + parts("decode") - inference).abs() < 1e-6);
    let sources = ["local_compute", "local_cache_hit"];
    let sources = sources.map(|source| {
        let labels = format!(",source=\"{source}\"");
        value(&page, "vllm:prompt_tokens_by_source_total", &labels)
    });
    assert!(
        (sources.iter().sum::<f64>() - 7.0).abs() < 1e-9,
        "{sources:?}"
    );
    let steps = value(&page, "vllm:iteration_tokens_total_count", "");
    is(&page, "kvist_steps_total", "", steps);
    let tokens = value(&page, "vllm:iteration_tokens_total_sum", "");
    is(&page, "kvist_computed_tokens_total", "", tokens);
    is(&page, "vllm:corrupted_requests_total", "", 0.0);
    is(
        &page,
        "vllm:engine_sleep_state",
        ",sleep_state=\"awake\"",
        1.0,
    );
}

#[tokio::test]
async fn what_routers_schedule_by_is_told() {
    let server = Server::start();
    let page = server.get("/metrics").await.body;
    let now = server.handle().metrics();
    let block_size = server.handle().info().plan.kv.block_size.0;
    let tokens = now.blocks_total * block_size;
    let labels = format!(
        ",block_size=\"{block_size}\",num_gpu_blocks=\"{}\",kv_cache_size_tokens=\"{tokens}\",\
         kv_cache_max_concurrency=\"{:.2}\"",
        now.blocks_total,
        f64::from(tokens) / f64::from(CONTEXT)
    );
    is(&page, "vllm:cache_config_info", &labels, 1.0);
    is(
        &page,
        "vllm:num_requests_waiting_by_reason",
        ",reason=\"capacity\"",
        0.0,
    );
}

#[tokio::test]
async fn broken_requests_are_counted() {
    let server = Server::faulty();
    let body = json!({"prompt": "banana", "max_tokens": 5});
    assert_eq!(server.post("/v1/completions", &body).await.status, 500);
    server.settle().await;
    let page = server.get("/metrics").await.body;
    is(&page, "vllm:corrupted_requests_total", "", 1.0);
}

#[tokio::test]
async fn refused_requests_are_counted() {
    let server = Server::start();
    // More than there are places for, and none of them ends by itself before the last one is sent.
    let prompts = vec!["ba"; 64];
    let crowd = json!({"prompt": prompts, "n": 16, "max_tokens": 500, "ignore_eos": true});
    assert_eq!(server.post("/v1/completions", &crowd).await.status, 400);
    server.settle().await;
    let page = server.get("/metrics").await.body;
    is(
        &page,
        "vllm:admission_rejections_total",
        ",reason=\"queue_full\"",
        1.0,
    );
}

/// Names of families in a query: everything that looks like one.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("vllm:") || word.starts_with("kvist_"))
        .map(str::to_owned)
        .collect()
}

/// Every string in it that is a query.
fn queries(value: &Value, found: &mut String) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("expr" | "query" | "definition", Value::String(text)) => {
                        found.push_str(text);
                        found.push('\n');
                    }
                    (_, value) => queries(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn dashboard_and_rules_name_metrics_there_are() {
    let server = Server::start();
    let page = server.get("/metrics").await.body;
    let there: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap())
        .collect();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let read = |name: &str| std::fs::read_to_string(deploy.join(name)).unwrap();
    let dashboard: Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let mut asked = String::new();
    queries(&dashboard, &mut asked);
    for text in [asked, read("prometheus-rules.yaml")] {
        let named = names(&text);
        assert!(named.len() > 8, "{named:?}");
        for name in named {
            assert!(there.contains(name.as_str()), "{name} is not in /metrics");
        }
    }
}
