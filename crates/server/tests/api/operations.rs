//! Everything but completions.

use kvist_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::{CONTEXT, Client as _, Reply, Server, config, events};

#[tokio::test]
async fn models_are_listed_by_every_name() {
    let server = Server::start();
    let list = server.get("/v1/models").await.json();
    let created = list["data"][0]["created"].as_u64().unwrap();
    assert!(created > 1_700_000_000);
    let card = |name: &str| {
        json!({
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "kvist",
            "root": "llama3",
            "parent": null,
            "max_model_len": CONTEXT,
        })
    };
    assert_eq!(
        list,
        json!({"object": "list", "data": [card("tiny"), card("alias")]})
    );
    assert_eq!(server.get("/v1/models/alias").await.json(), card("alias"));
    assert_eq!(
        server.get("/v1/models/absent").await.error().2,
        "model_not_found"
    );
}

#[tokio::test]
async fn without_names_the_model_serves_under_its_own() {
    let server = Server::with_config(ServerConfig::default());
    assert_eq!(
        server.get("/v1/models").await.json()["data"][0]["id"],
        "llama3"
    );
    let named = ServerConfig {
        served_names: vec!["org/model".to_owned()],
        ..ServerConfig::default()
    };
    let server = Server::with_config(named);
    assert_eq!(
        server.get("/v1/models/org/model").await.json()["id"],
        "org/model"
    );
    assert_eq!(
        server.get("/v1/models/org%2Fmodel").await.json()["id"],
        "org/model"
    );
}

#[tokio::test]
async fn probes_and_version_answer() {
    let server = Server::with_config(ServerConfig {
        version: "1.2.3",
        ..config()
    });
    assert_eq!(server.get("/health").await.json(), json!({"status": "ok"}));
    assert_eq!(
        server.get("/ready").await.json(),
        json!({"status": "ready"})
    );
    assert_eq!(
        server.get("/version").await.json(),
        json!({"version": "1.2.3"})
    );
}

#[tokio::test]
async fn responses_carry_a_request_id() {
    let server = Server::start();
    let ids: Vec<String> = [server.get("/health").await, server.get("/nowhere").await]
        .iter()
        .map(|reply| reply.headers["x-request-id"].to_str().unwrap().to_owned())
        .collect();
    assert!(ids[0].starts_with("req-") && ids[0] != ids[1], "{ids:?}");

    let echoed = |id: &'static str| {
        let mut request = crate::support::request(
            axum::http::Method::GET,
            "/health",
            axum::body::Body::empty(),
        );
        request
            .headers_mut()
            .insert("x-request-id", id.parse().unwrap());
        server.send(request)
    };
    assert_eq!(echoed("abc-1").await.headers["x-request-id"], "abc-1");
    assert_ne!(echoed("a b").await.headers["x-request-id"], "a b");
}

/// The value of a metric with exactly these labels.
fn metric(page: &str, name: &str) -> f64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn metrics_count_what_happened_under_vllms_names() {
    let server = Server::with_config(ServerConfig {
        served_names: vec!["a\"b".to_owned()],
        ..config()
    });
    let body = json!({"prompt": "banana", "max_tokens": 5, "ignore_eos": true, "n": 2});
    for _ in 0..2 {
        server.ask("/v1/completions", &body).await;
    }
    server.settle().await;
    let reply = server.get("/metrics").await;
    assert_eq!(
        reply.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let page = &reply.body;
    let value = |name: &str| {
        metric(
            page,
            &name
                .replace("{}", "{model_name=\"a\\\"b\",engine=\"0\"}")
                .replace("{,", "{model_name=\"a\\\"b\",engine=\"0\","),
        )
    };
    for (name, expected) in [
        ("vllm:num_requests_running{}", 0.0),
        ("vllm:num_requests_waiting{}", 0.0),
        ("vllm:kv_cache_usage_perc{}", 0.0),
        ("vllm:prompt_tokens_total{}", 12.0),
        ("vllm:generation_tokens_total{}", 20.0),
        ("vllm:num_preemptions_total{}", 0.0),
        ("vllm:prefix_cache_queries_total{}", 12.0),
        ("kvist_draft_model_tokens_total{}", 0.0),
        ("kvist_draft_model_seconds_total{}", 0.0),
        (
            "vllm:request_success_total{,finished_reason=\"length\"}",
            4.0,
        ),
        ("vllm:request_success_total{,finished_reason=\"stop\"}", 0.0),
        ("vllm:time_to_first_token_seconds_count{}", 4.0),
        ("vllm:time_to_first_token_seconds_bucket{,le=\"+Inf\"}", 4.0),
        ("vllm:inter_token_latency_seconds_count{}", 16.0),
        ("vllm:e2e_request_latency_seconds_count{}", 4.0),
        ("kvist_kv_blocks{,state=\"held\"}", 0.0),
    ] {
        assert!(
            (value(name) - expected).abs() < 1e-9,
            "{name}: {} is not {expected}",
            value(name)
        );
    }
    // How many find their prompt depends on which are finished by then; the last token is never found.
    assert!(value("vllm:prefix_cache_hits_total{}") <= 8.0);
    let blocks: f64 = ["free", "held", "cached"]
        .iter()
        .map(|state| value(&format!("kvist_kv_blocks{{,state=\"{state}\"}}")))
        .sum();
    let total = server.handle().metrics().blocks_total;
    assert!(
        (blocks - f64::from(total)).abs() < 1e-9,
        "{blocks} of {total}"
    );
    let planned: u64 = page
        .lines()
        .filter(|line| line.starts_with("kvist_memory_bytes{") && line.contains("\"planned\""))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(planned, server.handle().info().plan.total.0);
}

/// Every line is a comment or `name{labels} number`, and every sample belongs to a declared family.
#[tokio::test]
async fn metrics_are_well_formed() {
    let server = Server::start();
    let page = server.get("/metrics").await.body;
    let mut families = Vec::new();
    for line in page.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            families.push(declared.split_once(' ').unwrap().0);
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, number) = line.rsplit_once(' ').unwrap();
        number.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let of_process = ["kvist_memory_budget_bytes", "kvist_process_resident_bytes"];
        assert!(labels.ends_with('}'), "{line}");
        assert_eq!(
            labels.starts_with("model_name=\"tiny\""),
            !of_process.contains(&name),
            "{line}"
        );
        let family = families.last().unwrap();
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("{line} under {family}"));
        assert!(
            ["", "_bucket", "_sum", "_count"].contains(&suffix),
            "{line}"
        );
    }
    let mut unique = families.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), families.len(), "a family is declared twice");
}

fn keyed() -> Server {
    let api_keys = vec!["secret-one".to_owned(), "secret-two".to_owned()];
    Server::with_config(ServerConfig {
        api_keys,
        ..config()
    })
}

async fn with_header(server: &Server, path: &str, header: (&'static str, &str)) -> Reply {
    let mut request =
        crate::support::request(axum::http::Method::GET, path, axum::body::Body::empty());
    request
        .headers_mut()
        .insert(header.0, header.1.parse().unwrap());
    server.send(request).await
}

#[tokio::test]
async fn a_key_is_needed_for_everything_but_probes() {
    let server = keyed();
    for path in ["/health", "/ping", "/ready"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let guarded = [
        "/v1/models",
        "/v1/models/tiny",
        "/version",
        "/metrics",
        "/v1/chat/completions",
        "/v1/completions",
        "/nowhere",
        "//health",
        "/health/",
        "/v1/health",
    ];
    for path in guarded {
        for reply in [server.get(path).await, server.post(path, &json!({})).await] {
            let (status, kind, code, param) = reply.error();
            assert_eq!(
                (status, kind.as_str()),
                (401, "authentication_error"),
                "{path}"
            );
            assert_eq!((code.as_str(), param), ("invalid_api_key", None), "{path}");
            assert_eq!(reply.headers["www-authenticate"], "Bearer", "{path}");
            assert!(!reply.body.contains("secret"), "{path}");
        }
    }
}

#[tokio::test]
async fn right_keys_open_and_wrong_ones_do_not() {
    let server = keyed();
    for header in [
        ("authorization", "Bearer secret-one"),
        ("authorization", "bearer secret-two"),
        ("x-api-key", "secret-two"),
    ] {
        assert_eq!(
            with_header(&server, "/v1/models", header).await.status,
            200,
            "{header:?}"
        );
    }
    let long = format!("Bearer secret-one{}", "x".repeat(100_000));
    for header in [
        ("authorization", "Bearer secret-on"),
        ("authorization", "Bearer secret-one2"),
        ("authorization", "secret-one"),
        ("authorization", "Basic secret-one"),
        ("authorization", long.as_str()),
        ("x-api-key", "Bearer secret-one"),
        ("x-api-key", ""),
        ("host", "secret-one"),
    ] {
        assert_eq!(
            with_header(&server, "/v1/models", header).await.status,
            401,
            "{:.40}",
            header.1
        );
    }
}

#[tokio::test]
async fn nothing_of_the_request_is_reflected_into_headers() {
    let server = Server::start();
    let reply = with_header(
        &server,
        "/v1/models",
        ("origin", "https://elsewhere.example"),
    )
    .await;
    assert!(
        !reply
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("access-control-"))
    );
}

#[tokio::test]
async fn fields_without_effect_are_reported() {
    let server = Server::start();
    let body = json!({
        "prompt": "banana", "max_tokens": 1, "user": "ann", "metadata": {"a": "b"},
        "colour": "red", "shape": [1, 2, 3], "stream_options": null,
    });
    let reply = server.post("/v1/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.headers["x-kvist-ignored-fields"], "colour, shape");

    let body = json!({
        "messages": [{"role": "user", "content": "x", "weight": 1}], "max_tokens": 1, "stream": true,
        "stream_options": {"include_obfuscation": false},
    });
    let reply = server.post("/v1/chat/completions", &body).await;
    assert_eq!(
        reply.headers["x-kvist-ignored-fields"],
        "stream_options.include_obfuscation, messages[0].weight"
    );
    assert!(!events(&reply.body).is_empty());

    let plain = server
        .post(
            "/v1/completions",
            &json!({"prompt": "banana", "max_tokens": 1}),
        )
        .await;
    assert_eq!(
        plain.headers.get("x-kvist-ignored-fields"),
        None::<&axum::http::HeaderValue>
    );
    assert_ne!(plain.json()["choices"], Value::Null);
}
