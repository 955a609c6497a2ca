//! What the server is told at start.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use kvist_base::{Bytes, Tokens};
use kvist_engine::{ReasoningFormat, ToolFormat};

/// How the API is served.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Names a request may put into `model` for the first model; answers carry the first of them.
    /// Without any, it keeps the names it came with.
    pub served_names: Vec<String>,
    /// Keys, any of which opens every route. Without any, everything is open.
    pub api_keys: Vec<String>,
    /// Names a request's `Host` may carry, beside addresses, `localhost` and names without a dot.
    /// `*` stands for every name.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call the API from a browser, as `https://example.org`. `*` stands for
    /// every page.
    pub cors_origins: Vec<String>,
    /// Certificate and key to serve HTTPS with; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Bounds on what a client can make the server hold.
    pub limits: HttpLimits,
    /// What `GET /version` says.
    pub version: &'static str,
    /// When the server was started. Response ids begin with it, so that they stay unique over
    /// restarts.
    pub started: SystemTime,
    /// What requests without a seed of their own draw theirs from, together with their number:
    /// the same requests in the same order then get the same answers. `None` means the start time.
    pub seed: Option<u64>,
    /// Output of a request that does not say how much it wants; less where the context or the pool
    /// holds less. `None`: what the endpoint's own default is.
    pub output_default: Option<Tokens>,
    /// Between whom the engine's time is shared fairly. The engine must have been told to.
    pub fair_share: FairShare,
    /// How the models' outputs are told apart.
    pub parsers: Parsers,
    /// What becomes of requests with fields nobody knows.
    pub unknown_fields: UnknownFields,
    /// Models of a fleet that no request has used for so long are unloaded.
    pub idle_unload: Option<Duration>,
}

/// Where certificate and key are. Both are read again when the files change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the server's certificate, then those it was signed with.
    pub certificates: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// What becomes of requests with fields nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are answered as if the fields were not there; a response header lists them.
    #[default]
    Report,
    /// They are refused: the first such field is named.
    Refuse,
}

/// Between whom the engine's time is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FairShare {
    /// Nobody: first come, first served.
    #[default]
    Off,
    /// The users that requests name in `user`.
    User,
    /// The API keys.
    Key,
}

/// How outputs are told apart into reasoning, text and tool calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsers {
    /// How models write tool calls.
    pub tools: ParserChoice<ToolFormat>,
    /// How models mark their reasoning.
    pub reasoning: ParserChoice<ReasoningFormat>,
}

/// Which of several formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParserChoice<F> {
    /// The one that the model's chat template shows.
    #[default]
    Detect,
    /// None: what the model writes is text.
    Off,
    /// This one.
    Use(F),
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            served_names: Vec::new(),
            api_keys: Vec::new(),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            tls: None,
            limits: HttpLimits::default(),
            version: env!("CARGO_PKG_VERSION"),
            started: SystemTime::now(),
            seed: None,
            output_default: None,
            fair_share: FairShare::Off,
            parsers: Parsers::default(),
            unknown_fields: UnknownFields::Report,
            idle_unload: None,
        }
    }
}

/// Bounds on what a client can make the server hold. At each of them the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Request line and headers of a request together, in bytes: beyond it 431.
    pub header_bytes_max: usize,
    /// Headers of a request: beyond it 431.
    pub headers_max: usize,
    /// Time the headers may take to arrive, from their first byte on: beyond it 408.
    pub header_time_max: Duration,
    /// Time a connection may be open without a request: then it is closed.
    pub idle_time_max: Duration,
    /// Largest request body: beyond it 413.
    pub body_bytes_max: Bytes,
    /// All bodies being received or tokenised together: beyond it 429.
    pub bodies_bytes_max: Bytes,
    /// Time a body may take to arrive: beyond it 408.
    pub body_time_max: Duration,
    /// Pieces a body may arrive in: beyond it 413.
    pub body_pieces_max: usize,
    /// Open connections: beyond it new ones wait to be accepted.
    pub connections_max: usize,
    /// Time a client may leave an answer unread before its connection is closed and its request
    /// cancelled.
    pub stall_time_max: Duration,
    /// Time a request may wait for its turn: beyond it 429.
    pub queue_time_max: Duration,
    /// Time a request may take: beyond it 504, or an error event on a stream.
    pub request_time_max: Duration,
    /// Time without a step after which an engine with work counts as stalled.
    pub step_time_max: Duration,
    /// Time between saying that the server is not ready and taking nothing new.
    pub drain_delay: Duration,
    /// Time requests may go on after shutdown was asked for.
    pub drain_time_max: Duration,
    /// Silence on a stream after which a comment is sent, so that proxies keep it open.
    pub stream_ping_interval: Duration,
    /// Prompts in one plain completion request.
    pub prompts_max: usize,
    /// Alternatives (`n`) for each prompt.
    pub choices_max: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes_max: 64 << 10,
            headers_max: 100,
            header_time_max: Duration::from_secs(10),
            idle_time_max: Duration::from_secs(75),
            body_bytes_max: Bytes::MIB * 4,
            bodies_bytes_max: Bytes::MIB * 32,
            body_time_max: Duration::from_secs(30),
            body_pieces_max: 1 << 16,
            connections_max: 1024,
            stall_time_max: Duration::from_secs(30),
            queue_time_max: Duration::from_secs(60),
            request_time_max: Duration::from_secs(600),
            step_time_max: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
            drain_time_max: Duration::from_secs(30),
            stream_ping_interval: Duration::from_secs(10),
            prompts_max: 64,
            choices_max: 16,
        }
    }
}
