//! A server over a tiny model, and how tests talk to it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kvist_base::{Bytes, QuantFormat, TokenId, Tokens};
use kvist_engine::plan::{Limits, Machine, MemoryLimit};
use kvist_engine::{
    Engine, EngineHandle, EngineOptions, GenerateSpec, MetricsSnapshot, Prompt, StreamEvent,
};
use kvist_server::{ServerConfig, router};
use kvist_testkit::tiny::{Script, TinyModel};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Longest sequence the tiny model serves.
pub const CONTEXT: u32 = 512;
/// Tokens of its vocabulary.
pub const VOCAB_LEN: u32 = 512;

/// An engine behind the API.
pub struct Server {
    pub engine: Engine,
    pub router: Router,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Server {
    pub fn start() -> Self {
        Self::with_config(config())
    }

    pub fn with_config(config: ServerConfig) -> Self {
        Self::with(config, &options())
    }

    pub fn with(config: ServerConfig, options: &EngineOptions) -> Self {
        Self::over(model_file(), config, options)
    }

    /// A model that says what is written for it.
    pub fn scripted(script: &Script<'_>) -> Self {
        Self::scripted_with(script, config())
    }

    pub fn scripted_with(script: &Script<'_>, config: ServerConfig) -> Self {
        let file = TempModel::scripted(script);
        Self::over(file.path(), config, &options())
    }

    /// A model all of whose weights are NaN: it fails every request.
    pub fn faulty() -> Self {
        let file = TempModel::new(|_| f32::NAN);
        Self::over(file.path(), config(), &options())
    }

    pub fn over(model: &Path, config: ServerConfig, options: &EngineOptions) -> Self {
        let engine = Engine::load(model, &machine(), options).unwrap();
        let router = router(engine.handle(), config);
        Self { engine, router }
    }

    pub fn handle(&self) -> EngineHandle {
        self.engine.handle()
    }

    /// What the engine itself answers to a greedy plain prompt.
    pub fn greedy(&self, prompt: &str, output_max: u32) -> String {
        let mut spec = GenerateSpec::greedy(Prompt::Text(prompt.to_owned()));
        spec.output_max = Some(Tokens(output_max));
        let mut handle = self.handle().submit(spec).unwrap();
        let mut text = String::new();
        while let Some(event) = handle.recv() {
            match event {
                StreamEvent::Delta(delta) => text.push_str(&delta.text),
                StreamEvent::Finished(_) => {}
                StreamEvent::Failed(fault) => panic!("{fault}"),
            }
        }
        text
    }

    pub fn token_text(&self, tokens: &[u32]) -> String {
        let handle = self.handle();
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|&token| handle.token_bytes(TokenId(token)))
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until no sequence is alive and no block held.
    pub async fn settle(&self) {
        self.wait_for("all is over", |now| {
            let ended = now.finished;
            let ended = ended.stop + ended.length + ended.cancelled + ended.failed;
            now.running + now.waiting == 0 && now.blocks_held == 0 && ended == now.accepted
        })
        .await;
    }

    /// Waits until something runs.
    pub async fn busy(&self) {
        self.wait_for("something runs", |now| now.running > 0).await;
    }

    /// Waits until so many sequences have been accepted since the start.
    pub async fn accepted(&self, count: u64) {
        self.wait_for("requests are accepted", |now| now.accepted >= count)
            .await;
    }

    async fn wait_for(&self, what: &str, is_so: impl Fn(&MetricsSnapshot) -> bool) {
        let handle = self.handle();
        for _ in 0..5000 {
            if is_so(&handle.metrics()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("waited in vain until {what}: {:?}", handle.metrics());
    }
}

/// How tests talk to a server.
#[allow(async_fn_in_trait)] // every caller knows the type
pub trait Client {
    fn router(&self) -> Router;

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path, Body::empty())).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, &body.to_string()).await
    }

    async fn post_text(&self, path: &str, body: &str) -> Reply {
        self.send(request(Method::POST, path, Body::from(body.to_owned())))
            .await
    }

    /// A request that must succeed, as JSON.
    async fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{body}: {}", reply.body);
        reply.json()
    }

    /// A streamed request that must succeed, as its events.
    async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let reply = self.post(path, &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{body}: {}", reply.body);
        assert_eq!(reply.headers["content-type"], "text/event-stream");
        events(&reply.body)
    }
}

impl Client for Server {
    fn router(&self) -> Router {
        self.router.clone()
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The error's status, type, code and param. Panics unless it has OpenAI's four keys and no
    /// other.
    pub fn error(&self) -> (u16, String, String, Option<String>) {
        let body = self.json();
        let error = body["error"]
            .as_object()
            .unwrap_or_else(|| panic!("no error in {body}"));
        let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"], "{body}");
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        (
            self.status.as_u16(),
            text("type").unwrap(),
            text("code").unwrap(),
            text("param"),
        )
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// The events of a stream, which must be framed as such and end with `[DONE]`.
pub fn events(body: &str) -> Vec<Value> {
    let mut frames = frames(body);
    assert_eq!(frames.pop().as_deref(), Some("[DONE]"), "{body}");
    frames
        .iter()
        .map(|frame| serde_json::from_str(frame).unwrap())
        .collect()
}

/// The data of each event, comments left out.
pub fn frames(body: &str) -> Vec<String> {
    let body = body
        .strip_suffix("\n\n")
        .unwrap_or_else(|| panic!("cut off: {body:?}"));
    body.split("\n\n")
        .filter(|frame| !frame.starts_with(':'))
        .map(|frame| {
            frame
                .strip_prefix("data: ")
                .unwrap_or_else(|| panic!("{frame:?}"))
                .to_owned()
        })
        .collect()
}

/// Name and data of each event of a stream of named events, comments left out.
pub fn named_events(body: &str) -> Vec<(String, Value)> {
    let frames = body
        .split("\n\n")
        .filter(|frame| !frame.is_empty() && !frame.starts_with(':'));
    let event = |frame: &str| {
        let (name, data) = frame
            .split_once('\n')
            .unwrap_or_else(|| panic!("{frame:?}"));
        let name = name
            .strip_prefix("event: ")
            .unwrap_or_else(|| panic!("{frame:?}"));
        let data = data
            .strip_prefix("data: ")
            .unwrap_or_else(|| panic!("{frame:?}"));
        (name.to_owned(), serde_json::from_str(data).unwrap())
    };
    frames.map(event).collect()
}

pub fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.uri_mut() = path.parse().unwrap();
    if method == Method::POST {
        request
            .headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
    }
    *request.method_mut() = method;
    request
}

/// An object with the fields of both, those of `more` winning.
pub fn with(base: &Value, more: Value) -> Value {
    let mut all = base.clone();
    let Value::Object(more) = more else {
        panic!("not an object: {more}")
    };
    all.as_object_mut().unwrap().extend(more);
    all
}

/// A JSON answer with what differs from run to run blanked out.
pub fn anonymous(mut answer: Value) -> Value {
    assert!(
        answer["created"].as_u64().unwrap() > 1_700_000_000,
        "{answer}"
    );
    answer["created"] = json!(0);
    let id = answer["id"].as_str().unwrap();
    let prefix = id.split_once('-').unwrap().0.to_owned();
    answer["id"] = json!(prefix);
    let fingerprint = answer["system_fingerprint"].as_str().unwrap();
    assert!(
        fingerprint.starts_with("kvist-") && fingerprint.len() == 22,
        "{fingerprint}"
    );
    answer["system_fingerprint"] = json!("kvist");
    answer
}

pub fn config() -> ServerConfig {
    ServerConfig {
        served_names: vec!["tiny".to_owned(), "alias".to_owned()],
        ..ServerConfig::default()
    }
}

pub fn options() -> EngineOptions {
    EngineOptions {
        limits: Limits {
            memory: MemoryLimit::Absolute(Bytes::MIB * 256),
            running_max: 8,
            step_tokens_max: Tokens(128),
            ..Limits::default()
        },
        waiting_max: 64,
        ..EngineOptions::default()
    }
}

pub fn machine() -> Machine {
    Machine {
        mem_total: Bytes::GIB * 4,
        mem_available: Bytes::GIB * 2,
        cgroup_limit: None,
        cgroup_used: None,
        cores: 1,
    }
}

pub fn tiny_model() -> TinyModel {
    TinyModel::load("llama3")
}

/// The model's file, written once and left for the next run.
pub fn model_file() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("server-tests.gguf");
        // Renamed into place: another run of the tests may be reading it.
        std::fs::rename(TempModel::new(|weight| weight).path(), &file).unwrap();
        file
    })
}

/// A model file of this process alone, gone when dropped.
pub struct TempModel(PathBuf);

impl TempModel {
    pub fn new(change: impl Fn(f32) -> f32) -> Self {
        Self::of(&tiny_model(), change)
    }

    pub fn scripted(script: &Script<'_>) -> Self {
        let file = Self(Self::fresh_path());
        script.write_gguf(file.path());
        file
    }

    /// Any of the tiny models, with `change` done to each weight.
    pub fn of(model: &TinyModel, change: impl Fn(f32) -> f32) -> Self {
        let path = Self::fresh_path();
        let encode = |row: &[f32]| {
            row.iter()
                .flat_map(|&each| change(each).to_le_bytes())
                .collect()
        };
        model.write_gguf_with(&path, QuantFormat::F32, &encode);
        Self(path)
    }

    fn fresh_path() -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("server-tests.{}.{number}.gguf", std::process::id());
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempModel {
    fn drop(&mut self) {
        // Already renamed, or of no more use.
        let _ = std::fs::remove_file(&self.0);
    }
}
