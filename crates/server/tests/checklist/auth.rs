//! B: keys, names, origins, and what the log says.

use std::io;
use std::sync::{Arc, Mutex};

use kvist_server::ServerConfig;
use serde_json::json;

use crate::support::config;
use crate::wire::{Answer, Live};

const KEY: &str = "a-secret-of-32-bytes-or-so-abcdef";

fn keyed() -> ServerConfig {
    ServerConfig {
        api_keys: vec![KEY.to_owned()],
        ..config()
    }
}

/// Every path that the router has, from its source: a new route is checked without anybody
/// remembering to.
fn routes() -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let source = crate::list::read_all(&root);
    let after = source.split(".route(").skip(1);
    let paths = after.filter_map(|rest| {
        let path = rest.trim_start().strip_prefix('"')?.split('"').next()?;
        Some(path.replace("{*id}", "x").replace(['{', '}'], ""))
    });
    // Those of a router in a unit test are nobody's.
    let paths = paths.filter(|path| !["/panics", "/works"].contains(&path.as_str()));
    paths.collect()
}

/// Paths that need no key: probes, and the parts of the page, which hold nothing of anyone's.
fn is_open(path: &str) -> bool {
    let is_page = path == "/"
        || path.starts_with("/assets/")
        || path == "/favicon.ico"
        || path == "/favicon.svg";
    is_page || ["/health", "/ping", "/ready"].contains(&path)
}

#[tokio::test]
async fn every_route_but_probes_and_page_needs_the_key() {
    let live = Live::with(keyed()).await;
    let routes = routes();
    assert!(routes.len() >= 10, "{routes:?}");
    for path in routes {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] {
            let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close");
            let answer = live.ask(&head, "").await;
            if is_open(&path) {
                assert_ne!(answer.status, 401, "{method} {path}");
            } else {
                assert_eq!(answer.status, 401, "{method} {path}");
                assert_eq!(answer.header("www-authenticate"), Some("bearer"));
            }
        }
    }
    live.is_whole_with(KEY).await;
}

impl Live {
    /// The oracle on a server that wants a key.
    async fn is_whole_with(&self, key: &str) {
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}"
        );
        assert_eq!(self.ask(&head, "").await.status, 200);
        self.server.settle().await;
    }
}

#[tokio::test]
async fn wrong_keys_of_every_kind_are_wrong() {
    let live = Live::with(keyed()).await;
    let get = |header: String| {
        format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}")
    };
    for header in [
        format!("authorization: Bearer {KEY}"),
        format!("authorization: bearer {KEY}"),
        format!("x-api-key: {KEY}"),
    ] {
        assert_eq!(live.ask(&get(header), "").await.status, 200);
    }
    for header in [
        format!("authorization: Bearer {}", &KEY[..KEY.len() - 1]),
        format!("authorization: Bearer {KEY}x"),
        format!("authorization: Bearer {}", KEY.to_uppercase()),
        format!("authorization: Bearer {}", "k".repeat(50_000)),
        "authorization: Bearer".to_owned(),
        "x-api-key:".to_owned(),
        format!("cookie: {KEY}"),
    ] {
        let answer = live.ask(&get(header), "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_api_key")
        );
        assert!(!answer.body.contains(KEY) && !answer.head.contains(KEY));
    }
    let nul = get(format!("authorization: Bearer {KEY}\0"));
    assert_ne!(live.ask(&nul, "").await.status, 200);
    live.is_whole_with(KEY).await;
}

#[tokio::test]
async fn nothing_a_client_says_of_itself_opens_the_door() {
    let live = Live::with(keyed()).await;
    for head in [
        "GET /v1/models HTTP/1.1\r\nhost: localhost/health?",
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-forwarded-host: localhost/health",
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-original-url: /health",
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 127.0.0.1",
        "GET http://localhost/v1/models HTTP/1.1\r\nhost: localhost",
        "GET http://localhost/health/../v1/models HTTP/1.1\r\nhost: localhost",
        "GET /v1/models?/health HTTP/1.1\r\nhost: localhost",
        "GET /v1/models;/health HTTP/1.1\r\nhost: localhost",
    ] {
        let answer = live.ask(&format!("{head}\r\nconnection: close"), "").await;
        assert!(
            [400, 401, 403].contains(&answer.status),
            "{head}: {answer:?}"
        );
    }
    live.is_whole_with(KEY).await;
}

#[tokio::test]
async fn names_that_point_here_from_outside_are_not_answered() {
    let live = Live::with(ServerConfig {
        allowed_hosts: vec!["models.example".to_owned()],
        ..config()
    })
    .await;
    let ask = |host: &str| format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close");
    for host in [
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "localhost:1",
        "kvist",
        "models.example",
        "MODELS.example:80",
    ] {
        assert_eq!(live.ask(&ask(host), "").await.status, 200, "{host}");
    }
    for host in [
        "attacker.example",
        "attacker.example:8000",
        "localhost.attacker.example",
        "x@attacker.example",
    ] {
        let answer = live.ask(&ask(host), "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "host_not_allowed"),
            "{host}"
        );
    }
    // The line of the request counts before the header, for health too.
    let line =
        "GET http://attacker.example/health HTTP/1.1\r\nhost: localhost\r\nconnection: close";
    assert_eq!(live.ask(line, "").await.status, 403);
    live.is_whole().await;
}

#[tokio::test]
async fn pages_of_other_sites_get_nothing_unless_they_are_listed() {
    let live = Live::with(ServerConfig {
        cors_origins: vec!["https://page.example".to_owned()],
        ..config()
    })
    .await;
    let ask = |method: &str, origin: &str, more: &str| {
        format!(
            "{method} /v1/completions HTTP/1.1\r\nhost: localhost:8000\r\nconnection: close\r\norigin: {origin}{more}"
        )
    };
    let body = json!({"prompt": "ba", "max_tokens": 1}).to_string();
    let preflight =
        "\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization";
    for origin in [
        "https://attacker.example",
        "null",
        "http://page.example",
        "http://localhost:8001",
    ] {
        for answer in [
            live.ask(&ask("POST", origin, ""), &body).await,
            live.ask(&ask("OPTIONS", origin, preflight), "").await,
        ] {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "origin_not_allowed"),
                "{origin}"
            );
            assert!(!answer.head.contains("access-control-"), "{answer:?}");
        }
    }
    let own = live
        .ask(&ask("POST", "http://localhost:8000", ""), &body)
        .await;
    assert_eq!(own.status, 200);
    assert!(!own.head.contains("access-control-"), "{own:?}");
    let listed = live
        .ask(&ask("POST", "https://page.example", ""), &body)
        .await;
    assert_eq!(listed.status, 200);
    assert_eq!(
        listed.header("access-control-allow-origin"),
        Some("https://page.example")
    );
    assert_eq!(listed.header("access-control-allow-credentials"), None);
    let asked = live
        .ask(&ask("OPTIONS", "https://page.example", preflight), "")
        .await;
    assert_eq!(asked.status, 204);
    assert!(
        asked
            .header("access-control-allow-headers")
            .unwrap()
            .contains("authorization")
    );
    live.is_whole().await;
}

#[tokio::test]
async fn keys_are_nowhere_to_be_read() {
    let config = keyed();
    let live = Live::with(config).await;
    let with_key =
        format!("\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {KEY}");
    for path in [
        "/metrics",
        "/version",
        "/v1/models",
        "/v1/memory",
        "/nowhere",
        "/health",
    ] {
        let answer = live
            .ask(&format!("GET {path} HTTP/1.1{with_key}"), "")
            .await;
        assert!(
            !answer.body.contains(KEY) && !answer.head.contains(KEY),
            "{path}"
        );
    }
    let bad = live
        .ask(
            &format!("POST /v1/completions HTTP/1.1{with_key}"),
            "{\"prompt\": 1}",
        )
        .await;
    assert_eq!(bad.status, 400);
    assert!(!bad.body.contains(KEY));
    live.is_whole_with(KEY).await;
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_client_cannot_write_lines_of_the_log() {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::level_filters::LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let live = Live::start().await;
    let evil = "x\r\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{9b}1m";
    let field = json!({"prompt": "ba", "max_tokens": 1, evil: 1, "model": "tiny"});
    assert_eq!(live.post("/v1/completions", &field).await.status, 200);
    for body in [
        json!({"prompt": "ba", "model": evil}),
        json!({"prompt": "ba", "stop": [evil], "max_tokens": 1}),
        json!({"prompt": "ba", "user": evil, "max_tokens": 1}),
        json!({"messages": [{"role": evil, "content": "x"}]}),
    ] {
        live.post("/v1/completions", &body).await;
        live.post("/v1/chat/completions", &body).await;
    }
    let id = "GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: a\u{1b}[2Jb";
    live.ask(id, "").await;
    live.exchange("GET /\u{1b}[2J HTTP/1.1\r\nhost: \u{1b}\r\n\r\n")
        .await;
    live.is_whole().await;
    let bytes = log.0.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("request fields without effect"),
        "the log was not caught: {text}"
    );
    for line in text.lines() {
        assert!(!line.starts_with("2026-01-01T00:00:00Z"), "{text}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn an_answer_is_read_by_its_parts() {
    let answer = Answer::parse("HTTP/1.1 418 X\r\nA: b\r\n\r\nbody");
    assert_eq!(
        (answer.status, answer.header("a"), answer.body.as_str()),
        (418, Some("b"), "body")
    );
}
