//! A server on a socket, clients that write raw bytes, and the oracle.

use std::net::SocketAddr;
use std::time::Duration;

use kvist_engine::faults::Faults;
use kvist_engine::{Engine, EngineOptions};
use kvist_server::{HttpLimits, ServerConfig, router, serve};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Client as _, Server, config, machine, model_file, options};

/// Far more than anything here takes; what is not there by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the golden answer is asked for.
const GOLDEN_PROMPT: &str = "banana ba na";
const GOLDEN_TOKENS: u32 = 12;

/// A server on a socket.
pub struct Live {
    pub server: Server,
    pub faults: Faults,
    pub address: SocketAddr,
    golden: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// A short time for whatever a test wants to see run out.
pub const SHORT: Duration = Duration::from_millis(100);

pub fn limited(limits: HttpLimits) -> ServerConfig {
    ServerConfig { limits, ..config() }
}

impl Live {
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn limited(limits: HttpLimits) -> Self {
        Self::with(limited(limits)).await
    }

    pub async fn with(config: ServerConfig) -> Self {
        Self::over(config, &options()).await
    }

    pub async fn over(config: ServerConfig, options: &EngineOptions) -> Self {
        let faults = Faults::default();
        let knobs = (options, faults.clone());
        let engine = Engine::load_with_faults(model_file(), &machine(), knobs).unwrap();
        let router = router(engine.handle(), config.clone());
        let server = Server { engine, router };
        let golden = server.greedy(GOLDEN_PROMPT, GOLDEN_TOKENS);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, server.handle(), config, stopped));
        Self {
            server,
            faults,
            address,
            golden,
            stop: Some(stop),
            serving,
        }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads what comes until the server closes.
    pub async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may close before all is sent.
        let _ = stream.write_all(bytes.as_ref()).await;
        read_to_end(&mut stream).await
    }

    /// Sends a whole request and reads its answer.
    pub async fn ask(&self, head: &str, body: &str) -> Answer {
        Answer::parse(&self.exchange(message(head, body)).await)
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close");
        self.ask(&head, &body.to_string()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(
            &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close"),
            "",
        )
        .await
    }

    /// Opens a connection and sends a request on it, to be read later or never.
    pub async fn send(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = self.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close");
        let message = message(&head, &body.to_string());
        stream.write_all(message.as_bytes()).await.unwrap();
        stream
    }

    /// Asks the server to stop, as SIGTERM does.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has stopped, and checks that every block is back.
    pub async fn stopped(self) {
        let served = timeout(PATIENCE, self.serving).await;
        served.expect("serving ends").unwrap().unwrap();
        let report = self.server.engine.shutdown();
        assert_eq!(report.blocks_free, report.blocks_total);
    }

    /// Waits until serving has ended by itself.
    pub async fn ended(self) {
        let served = timeout(PATIENCE, self.serving).await;
        served.expect("serving ends").unwrap().unwrap();
    }

    /// The oracle: whatever happened, the server is as it was.
    pub async fn is_whole(&self) {
        let health = timeout(Duration::from_secs(30), self.get("/health")).await;
        assert_eq!(health.expect("health answers").status, 200);
        self.server.settle().await;
        assert_eq!(
            self.server.greedy(GOLDEN_PROMPT, GOLDEN_TOKENS),
            self.golden,
            "the golden answer has changed"
        );
        self.server.settle().await;
        let reset = self.server.post("/reset_prefix_cache", &json!({})).await;
        assert_eq!(reset.status, 200, "{}", reset.body);
        let now = self.server.handle().metrics();
        assert_eq!(now.blocks_free, now.blocks_total);
        assert_eq!((now.running, now.waiting), (0, 0));
    }
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no answer: {text:?}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// The error's code.
    pub fn code(&self) -> String {
        let body: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON error: {self:?}"));
        body["error"]["code"].as_str().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&start))
    }
}

/// Head and body with a length; a body makes it JSON.
pub fn message(head: &str, body: &str) -> String {
    if body.is_empty() {
        return format!("{head}\r\n\r\n");
    }
    let len = body.len();
    format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}")
}

pub async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // An end and a reset are both ends.
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `what` has come.
pub async fn read_until(stream: &mut TcpStream, what: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains(what) {
        let read = timeout(PATIENCE, stream.read(&mut bytes)).await;
        let len = read
            .unwrap_or_else(|_| panic!("{what:?} did not come: {text:?}"))
            .unwrap();
        assert!(len > 0, "closed without {what:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
    text
}
