//! Clients that go away, shutdown, and real connections.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use http_body_util::BodyExt as _;
use kvist_engine::EngineOptions;
use kvist_engine::plan::Limits;
use kvist_server::{HttpLimits, ServerConfig, serve};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use crate::support::{Client as _, Server, config, events, frames, options, request, with};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// Eight answers as long as the context allows.
fn long() -> Value {
    json!({"prompt": "ba", "max_tokens": 500, "ignore_eos": true, "n": 8})
}

/// So many of them that they take seconds if nobody cancels them.
fn endless() -> Value {
    with(
        &long(),
        json!({"prompt": ["ba", "be", "bi", "bo"], "n": 16}),
    )
}

#[tokio::test]
async fn a_dropped_stream_gives_its_blocks_back() {
    let server = Server::start();
    let body = with(&endless(), json!({"stream": true})).to_string();
    let response = server
        .router
        .clone()
        .oneshot(request(Method::POST, COMPLETIONS, Body::from(body)))
        .await
        .unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: {"), "{first:?}");
    server.busy().await;
    drop(body);
    server.settle().await;
    let ended = server.handle().metrics().finished;
    assert!(ended.cancelled > 0, "{ended:?}");
}

#[tokio::test]
async fn a_dropped_wait_for_a_whole_answer_gives_its_blocks_back() {
    let server = Server::start();
    let router = server.router.clone();
    let request = request(Method::POST, COMPLETIONS, Body::from(endless().to_string()));
    let waiting = tokio::spawn(async move { router.oneshot(request).await });
    server.busy().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    server.settle().await;
    let ended = server.handle().metrics().finished;
    assert!(ended.cancelled > 0, "{ended:?}");
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let server = Server::start();
    let body = with(&long(), json!({"stream": true, "n": 2})).to_string();
    let response = server
        .router
        .clone()
        .oneshot(request(Method::POST, COMPLETIONS, Body::from(body)))
        .await
        .unwrap();
    server.handle().drain();

    for path in [COMPLETIONS, CHAT] {
        let base = json!({"prompt": "ba", "messages": [{"role": "user", "content": "a"}]});
        let reply = server.post(path, &base).await;
        let (status, kind, code, _) = reply.error();
        assert_eq!((status, kind.as_str()), (503, "service_unavailable_error"));
        assert_eq!(
            (code.as_str(), &reply.headers["retry-after"]),
            ("shutting_down", &"1".parse().unwrap())
        );
    }
    assert_eq!(server.get("/ready").await.error().2, "shutting_down");
    assert_eq!(server.get("/health").await.status, 200);

    let body = response.into_body().collect().await.unwrap().to_bytes();
    let events = events(std::str::from_utf8(&body).unwrap());
    let ends = events
        .iter()
        .filter(|event| event["choices"][0]["finish_reason"] == "length");
    assert_eq!(ends.count(), 2);
    let report = server.engine.shutdown();
    assert_eq!(report.blocks_free, report.blocks_total);
    assert_eq!(report.failed, 0);
}

/// A server on a socket, and what ends it.
struct Served {
    server: Server,
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start(config: ServerConfig) -> Self {
        let server = Server::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, server.handle(), config, stopped));
        Self {
            server,
            address,
            stop,
            serving,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn send(&self, body: &Value) -> TcpStream {
        let mut stream = self.connect().await;
        post(&mut stream, COMPLETIONS, body).await;
        stream
    }
}

async fn post(stream: &mut TcpStream, path: &str, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn shutdown_lets_answers_end_and_then_serving_ends() {
    let served = Served::start(config()).await;
    let mut running = served.send(&long()).await;
    let mut idle = served.connect().await;
    served.server.accepted(8).await;
    served.stop.send(()).unwrap();
    let answer = read_all(&mut running).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:.200}");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["usage"]["completion_tokens"], 8 * 500);
    served.serving.await.unwrap().unwrap();
    assert_eq!(
        idle.read(&mut [0; 16]).await.unwrap(),
        0,
        "idle connections are closed"
    );
    let report = served.server.engine.shutdown();
    assert_eq!(report.blocks_free, report.blocks_total);
}

#[tokio::test]
async fn a_closed_connection_cancels_whole_and_streamed_answers() {
    let served = Served::start(config()).await;
    for (count, stream) in [(1, false), (2, true)] {
        let connection = served
            .send(&with(&endless(), json!({"stream": stream})))
            .await;
        served.server.busy().await;
        drop(connection);
        served.server.settle().await;
        let ended = served.server.handle().metrics().finished;
        assert!(ended.cancelled >= count, "{ended:?}");
    }
    assert_eq!(served.server.get("/health").await.status, 200);
}

#[tokio::test]
async fn draining_does_not_wait_for_ever() {
    let limits = HttpLimits {
        drain_time_max: Duration::from_millis(50),
        ..HttpLimits::default()
    };
    let served = Served::start(ServerConfig { limits, ..config() }).await;
    // A client that never finishes its request.
    let mut stuck = served.connect().await;
    stuck
        .write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    served.stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), served.serving).await;
    ended.expect("serving ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_body_is_given_up() {
    let limits = HttpLimits {
        body_time_max: Duration::from_millis(50),
        ..HttpLimits::default()
    };
    let served = Served::start(ServerConfig { limits, ..config() }).await;
    let mut slow = served.connect().await;
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        .await
        .unwrap();
    let mut head = [0; 64];
    let len = slow.read(&mut head).await.unwrap();
    assert!(
        head[..len].starts_with(b"HTTP/1.1 408 "),
        "{:?}",
        String::from_utf8_lossy(&head[..len])
    );
    assert_eq!(served.server.handle().metrics().accepted, 0);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let limits = HttpLimits {
        connections_max: 1,
        ..HttpLimits::default()
    };
    let served = Served::start(ServerConfig { limits, ..config() }).await;
    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = served.connect().await;
    first.write_all(HEALTH).await.unwrap();
    let mut reply = [0; 512];
    assert!(first.read(&mut reply).await.unwrap() > 0);

    let mut second = served.connect().await;
    second.write_all(HEALTH).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut reply)).await;
    assert!(
        early.is_err(),
        "the second connection was served beside the first"
    );
    drop(first);
    assert!(second.read(&mut reply).await.unwrap() > 0);
    assert!(reply.starts_with(b"HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn silence_on_a_stream_is_filled_with_comments() {
    let limits = HttpLimits {
        stream_ping_interval: Duration::from_millis(1),
        ..HttpLimits::default()
    };
    let one_at_a_time = EngineOptions {
        limits: Limits {
            running_max: 1,
            ..options().limits
        },
        ..options()
    };
    let server = Server::with(ServerConfig { limits, ..config() }, &one_at_a_time);
    let alone = with(&long(), json!({"n": 1}));
    let first = server.post(COMPLETIONS, &alone);
    let waiting = async {
        server.busy().await;
        let body = json!({"prompt": "ba", "max_tokens": 2, "stream": true});
        server.post(COMPLETIONS, &body).await
    };
    let (first, waited) = tokio::join!(first, waiting);
    assert_eq!(first.status, 200);
    assert!(
        waited.body.starts_with(":\n\n"),
        "no comment: {:.200}",
        waited.body
    );
    assert_eq!(frames(&waited.body).last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_fault_is_a_500_with_an_id_and_no_details() {
    let server = Server::faulty();
    for body in [
        json!({"prompt": "ba"}),
        json!({"prompt": ["ba", "na"], "n": 2}),
    ] {
        let reply = server.post(COMPLETIONS, &body).await;
        let (status, kind, code, param) = reply.error();
        assert_eq!((status, kind.as_str()), (500, "server_error"));
        assert_eq!((code.as_str(), param), ("internal_error", None));
        let message = reply.message();
        assert!(message.contains("cmpl-"), "{message}");
        assert!(!message.to_lowercase().contains("nan"), "{message}");
    }
    server.settle().await;
    // One sequence's numbers are no reason to stop serving.
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_fault_ends_a_stream_with_an_error_and_without_done() {
    let server = Server::faulty();
    let body = json!({
        "messages": [{"role": "user", "content": "a"}], "stream": true, "n": 2,
        "stream_options": {"include_usage": true},
    });
    let reply = server.post(CHAT, &body).await;
    assert_eq!(reply.status, 200);
    let frames = frames(&reply.body);
    assert_eq!(frames.len(), 1, "{frames:?}");
    let error: Value = serde_json::from_str(&frames[0]).unwrap();
    assert_eq!(error["error"]["code"], "internal_error");
    assert_eq!(error.as_object().unwrap().len(), 1);
    server.settle().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let limits = HttpLimits {
        stall_time_max: Duration::from_millis(100),
        ..HttpLimits::default()
    };
    let served = Served::start(ServerConfig { limits, ..config() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(served.address).await.unwrap();
    // Some 15 MB of answer: more than any socket buffer takes.
    let body = json!({
        "messages": [{"role": "user", "content": "a"}], "stream": true, "n": 16, "max_tokens": 480,
        "ignore_eos": true, "logprobs": true, "top_logprobs": 20,
    });
    post(&mut stream, CHAT, &body).await;
    served.server.accepted(16).await;
    served.server.settle().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await; // ends, or is reset
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:.100}");
    assert!(
        !answer.contains("[DONE]"),
        "all {} bytes were sent",
        answer.len()
    );
}
