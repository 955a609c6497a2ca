//! A: HTTP and transport.

use std::time::Duration;

use kvist_base::Bytes;
use kvist_server::{HttpLimits, ServerConfig, TlsFiles, serve};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::config;
use crate::wire::{Answer, Live, SHORT, message, read_to_end, read_until};

const COMPLETIONS: &str = "/v1/completions";
const GET_HEALTH: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
const POST_HEAD: &str = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n\
    content-type: application/json";

fn refused_or_closed(text: &str, statuses: &[u16]) {
    if !text.is_empty() {
        let status = Answer::parse(text).status;
        assert!(statuses.contains(&status), "{text:?}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused() {
    let live = Live::start().await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03random random random\r\n\r\n";
    let h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        hello,
        h2,
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\nx y z\r\n\r\n",
    ] {
        let text = live.exchange(bytes).await;
        refused_or_closed(&text, &[400, 505]);
    }
    live.is_whole().await;
}

#[tokio::test]
async fn headers_are_bounded_in_bytes_and_number() {
    let live = Live::start().await;
    let long = format!(
        "GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    refused_or_closed(&live.exchange(long).await, &[431]);
    let many = format!(
        "GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
        "x: y\r\n".repeat(10_000)
    );
    refused_or_closed(&live.exchange(many).await, &[431]);
    let target = format!(
        "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "y".repeat(1 << 17)
    );
    refused_or_closed(&live.exchange(target).await, &[414, 431]);

    // Each bound by itself, and what is within both.
    let get = |headers: &str| {
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")
    };
    let fits = get(&format!("x: {}\r\n", "y".repeat(60_000)));
    assert_eq!(Answer::parse(&live.exchange(fits).await).status, 200);
    let large = get(&format!("x: {}\r\n", "y".repeat(66_000)));
    assert_eq!(Answer::parse(&live.exchange(large).await).status, 431);
    let fits = get(&"x: y\r\n".repeat(98));
    assert_eq!(Answer::parse(&live.exchange(fits).await).status, 200);
    let many = get(&"x: y\r\n".repeat(99));
    assert_eq!(Answer::parse(&live.exchange(many).await).status, 431);
    live.is_whole().await;
}

#[tokio::test]
async fn headers_that_trickle_in_get_408_and_others_are_served_meanwhile() {
    let limits = HttpLimits {
        header_time_max: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = live.connect().await;
        stream.write_all(b"GET /health HT").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(live.get("/health").await.status, 200);
    for mut stream in slow {
        // One more byte does not buy more time.
        let _ = stream.write_all(b"T").await;
        let answer = Answer::parse(&read_to_end(&mut stream).await);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (408, "request_timeout")
        );
        assert_eq!(answer.header("connection"), Some("close"));
    }
    live.is_whole().await;
}

#[tokio::test]
async fn idle_connections_are_closed_without_a_word() {
    let limits = HttpLimits {
        idle_time_max: SHORT,
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    let mut silent = live.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    let mut used = live.connect().await;
    used.write_all(GET_HEALTH.as_bytes()).await.unwrap();
    let answer = Answer::parse(&read_to_end(&mut used).await);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "{\"status\":\"ok\"}")
    );
    live.is_whole().await;
}

#[tokio::test]
async fn a_connection_in_use_is_not_idle() {
    let limits = HttpLimits {
        idle_time_max: SHORT,
        header_time_max: SHORT,
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    live.faults.close();
    let body = json!({"prompt": "ba", "max_tokens": 2});
    let mut waiting = live.send(COMPLETIONS, &body).await;
    tokio::time::sleep(SHORT * 4).await;
    live.faults.open();
    let answer = Answer::parse(&read_to_end(&mut waiting).await);
    assert_eq!(answer.status, 200, "{answer:?}");
    live.is_whole().await;
}

#[tokio::test]
async fn a_body_too_large_is_refused_before_it_is_read() {
    let live = Live::start().await;
    let head = format!("{POST_HEAD}\r\ncontent-length: {}\r\n\r\n", (4 << 20) + 1);
    let answer = Answer::parse(&live.exchange(head).await);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "request_too_large")
    );
    assert_eq!(answer.header("connection"), Some("close"));
    live.is_whole().await;
}

#[tokio::test]
async fn bodies_in_pieces_are_bounded_in_bytes_and_number() {
    let limits = HttpLimits {
        body_bytes_max: Bytes(100_000),
        body_pieces_max: 50,
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    let head = format!("{POST_HEAD}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    // Without an end: the server must not wait for one.
    for chunk in [
        "1\r\nx\r\n".repeat(60_000),
        format!("2710\r\n{}\r\n", "x".repeat(10_000)).repeat(40),
    ] {
        let answer = Answer::parse(&live.exchange(format!("{head}{chunk}")).await);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (413, "request_too_large")
        );
    }
    let body = r#"{"prompt": "ba", "max_tokens": 1}"#;
    let chunks: String = body
        .split_inclusive(' ')
        .map(|part| format!("{:x}\r\n{part}\r\n", part.len()))
        .collect();
    let answer = Answer::parse(&live.exchange(format!("{head}{chunks}0\r\n\r\n")).await);
    assert_eq!(answer.status, 200, "{answer:?}");
    live.is_whole().await;
}

#[tokio::test]
async fn lengths_that_lie_smuggle_nothing() {
    let limits = HttpLimits {
        body_time_max: SHORT,
        header_time_max: SHORT,
        ..HttpLimits::default()
    };
    let live = Live::limited(limits).await;
    let body = r#"{"prompt": "ba", "max_tokens": 1}"#;
    let short = format!(
        "{POST_HEAD}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len() - 5
    );
    let text = live.exchange(short).await;
    assert_eq!(Answer::parse(&text).status, 400, "{text}");
    assert!(!text.contains("HTTP/1.1 200"), "{text}");
    let long = format!(
        "{POST_HEAD}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len() + 5
    );
    assert_eq!(Answer::parse(&live.exchange(long).await).status, 408);
    let two = format!(
        "{POST_HEAD}\r\ncontent-length: 5\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(Answer::parse(&live.exchange(two).await).status, 400);
    for order in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        let inner = "GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let both = format!("{POST_HEAD}\r\n{order}\r\n\r\n0\r\n\r\n{inner}");
        let text = live.exchange(both).await;
        assert!(!text.contains("\"version\""), "smuggled: {text}");
    }
    live.is_whole().await;
}

#[tokio::test]
async fn expectations_old_versions_and_pipelines_are_answered() {
    let live = Live::start().await;
    let body = r#"{"prompt": "ba", "max_tokens": 1}"#;
    let mut stream = live.connect().await;
    let head = format!(
        "{POST_HEAD}\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(Answer::parse(&read_to_end(&mut stream).await).status, 200);

    let old = live.exchange("GET /health HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
    let head = live
        .exchange("HEAD /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let options = live
        .ask(
            "OPTIONS /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close",
            "",
        )
        .await;
    assert_eq!(
        (options.status, options.header("allow")),
        (405, Some("post"))
    );

    let paths = ["/health", "/version", "/v1/models", "/nowhere"];
    let requests: String = paths
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
        .collect();
    let last = "GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let text = live.exchange(format!("{requests}{last}")).await;
    let places: Vec<_> = [
        "\"ok\"",
        "\"version\"",
        "\"list\"",
        "route_not_found",
        "\"ready\"",
    ]
    .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")))
    .into();
    assert!(places.is_sorted(), "{text}");
    live.is_whole().await;
}

#[tokio::test]
async fn odd_paths_lead_nowhere() {
    let live = Live::start().await;
    for path in [
        "//v1//models",
        "/v1/models/../admin",
        "/v1/%2e%2e/metrics",
        "/v1/models/%00",
        "/%00",
        "/v1/models/..%2fadmin",
        "/health%2f..",
    ] {
        let answer = live.get(path).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    // Bytes no path may have.
    let text = live.exchange(b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    refused_or_closed(&text, &[400]);
    live.is_whole().await;
}

#[tokio::test]
async fn a_reset_and_a_half_closed_connection_cancel() {
    let live = Live::start().await;
    let body = json!({"prompt": ["ba", "be"], "max_tokens": 500, "ignore_eos": true, "n": 16, "stream": true});
    for round in 1..=2 {
        let mut stream = live.send(COMPLETIONS, &body).await;
        read_until(&mut stream, "data: ").await;
        if round == 1 {
            stream.set_zero_linger().unwrap();
            drop(stream);
        } else {
            stream.shutdown().await.unwrap();
        }
        live.server.settle().await;
        assert!(live.server.handle().metrics().finished.cancelled >= round);
    }
    live.is_whole().await;
}

#[tokio::test]
async fn version_6_addresses_are_served() {
    let live = Live::start().await;
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return; // a machine without them has nothing to serve
    };
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(
        listener,
        live.server.handle(),
        config(),
        std::future::pending(),
    ));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let get = message(
        &format!("GET /health HTTP/1.1\r\nhost: {address}\r\nconnection: close"),
        "",
    );
    stream.write_all(get.as_bytes()).await.unwrap();
    assert_eq!(Answer::parse(&read_to_end(&mut stream).await).status, 200);
    serving.abort();
    live.is_whole().await;
}

#[tokio::test]
async fn https_speaks_to_those_who_do_and_drops_the_others() {
    let data = |name: &str| {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(name)
    };
    let tls = TlsFiles {
        certificates: data("one.crt.pem"),
        key: data("one.key.pem"),
    };
    let limits = HttpLimits {
        header_time_max: SHORT,
        ..HttpLimits::default()
    };
    let live = Live::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let secure = ServerConfig {
        tls: Some(tls.clone()),
        limits,
        ..config()
    };
    let serving = tokio::spawn(serve(
        listener,
        live.server.handle(),
        secure,
        std::future::pending(),
    ));

    // Plain HTTP, and a client that says nothing.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(GET_HEALTH.as_bytes()).await.unwrap();
    assert!(!read_to_end(&mut plain).await.contains("HTTP/1.1 200"));
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(read_to_end(&mut silent).await, "");

    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = secure_client(&tls.certificates)
        .connect("localhost".try_into().unwrap(), stream)
        .await
        .unwrap();
    let get = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(Answer::parse(&text).status, 200);
    serving.abort();
    live.is_whole().await;
}

/// A client that trusts this certificate and no other.
fn secure_client(certificate: &std::path::Path) -> tokio_rustls::TlsConnector {
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificate).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(std::sync::Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    std::sync::Arc::new(config).into()
}
