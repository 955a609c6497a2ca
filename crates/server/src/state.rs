//! What every handler shares.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use kvist_base::{Tokens, mix64};
use tokio::sync::Semaphore;

use crate::answer::SCORES_MAX;
use crate::auth::Keys;
use crate::config::{FairShare, HttpLimits, Parsers, ServerConfig, UnknownFields};
use crate::lifecycle::Lifecycle;
use crate::models::Models;
use crate::origin::Origins;
use crate::probes::Throughput;
use crate::store::ResponseStore;

/// Large prompts tokenised at a time. More would take the cores from the engine.
pub(crate) const TOKENISING_MAX: usize = 2;

/// What every handler shares. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Shared>);

/// The inside of [`App`].
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) models: Models,
    pub(crate) limits: HttpLimits,
    pub(crate) version: &'static str,
    pub(crate) keys: Keys,
    pub(crate) origins: Origins,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) output_default: Option<Tokens>,
    pub(crate) fair_share: FairShare,
    pub(crate) parsers: Parsers,
    pub(crate) unknown_fields: UnknownFields,
    /// Bytes of bodies that may still be received, in units of [`BODY_UNIT_BYTES`].
    pub(crate) bodies: Arc<Semaphore>,
    pub(crate) tokenising: Arc<Semaphore>,
    pub(crate) responses: ResponseStore,
    /// Log-probabilities of prompts that may still be held.
    pub(crate) scores: Arc<Semaphore>,
    pub(crate) throughput: Throughput,
    started: SystemTime,
    seed: Option<u64>,
    issued: AtomicU64,
}

/// Bodies are accounted for in pieces of this size.
pub(crate) const BODY_UNIT_BYTES: usize = 1024;

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    pub(crate) fn new(mut models: Models, config: ServerConfig) -> Self {
        models.name_first(config.served_names);
        let unit = BODY_UNIT_BYTES as u64;
        let body_units = usize::try_from(config.limits.bodies_bytes_max.0 / unit)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared {
            models,
            version: config.version,
            keys: Keys::new(&config.api_keys),
            origins: Origins::new(&config.allowed_hosts, &config.cors_origins),
            lifecycle: Lifecycle::default(),
            output_default: config.output_default,
            fair_share: config.fair_share,
            parsers: config.parsers,
            unknown_fields: config.unknown_fields,
            bodies: Arc::new(Semaphore::new(body_units)),
            tokenising: Arc::new(Semaphore::new(TOKENISING_MAX)),
            responses: ResponseStore::default(),
            scores: Arc::new(Semaphore::new(SCORES_MAX)),
            throughput: Throughput::default(),
            started: config.started,
            seed: config.seed,
            issued: AtomicU64::new(0),
            limits: config.limits,
        }))
    }
}

impl Shared {
    /// A ticket for one request.
    pub(crate) fn ticket(&self) -> Ticket {
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation)] // wraps in the year 2554; only has to differ
        let start = since.as_nanos() as u64;
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let seed = mix64(self.seed.unwrap_or(start) ^ mix64(number));
        Ticket {
            start,
            number,
            seed,
        }
    }

    /// When the server was started.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    /// What no other process of this server has.
    pub(crate) fn instance_id(&self) -> String {
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("kvist-{:016x}", since.as_nanos())
    }

    /// When the server was started, in Unix seconds.
    pub(crate) fn started_seconds(&self) -> u64 {
        unix_seconds(self.started)
    }
}

/// A number that no other request of this server, or of one started earlier or later, has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    start: u64,
    number: u64,
    seed: u64,
}

impl Ticket {
    /// An id for a response, such as `chatcmpl-…`.
    pub(crate) fn id(self, prefix: &str) -> String {
        format!("{prefix}-{:016x}{:08x}", self.start, self.number)
    }

    /// A number that no other ticket has, but by a chance of 2^-64.
    pub(crate) fn unique(self) -> u64 {
        mix64(self.start) ^ mix64(self.number)
    }

    /// A seed for a request that names none.
    pub(crate) fn seed(self) -> u64 {
        self.seed
    }
}

/// Longest id a client may give a request.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 128;

/// Whether an id that a client gave can stand in headers, answers and logs.
pub(crate) fn is_sane_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_plain)
}

/// Now, in Unix seconds.
pub(crate) fn now_seconds() -> u64 {
    unix_seconds(SystemTime::now())
}

/// 0 for a clock before 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
