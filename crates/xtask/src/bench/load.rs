//! Clients: what they ask for, and what became of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvist_base::mix64;
use serde_json::{Value, json};

use super::trace::Lengths;
use crate::http::{Connection, Request, Server};
use crate::stats::{median, percentile};

const COMPLETIONS: &str = "/v1/completions";
/// A client's thread keeps little on its stack.
const STACK_BYTES: usize = 256 << 10;
/// How long a client waits after 429, as `Retry-After` asks.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a client whose connection broke waits before it tries another.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// Broken requests that are told in full.
const TOLD_MAX: usize = 5;
/// Ids below are where vocabularies keep control tokens and single bytes.
const FIRST_PLAIN_TOKEN: u32 = 1000;

/// A prompt, and how many tokens to produce. Greedy, and not ended by the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub prompt: Vec<u32>,
    pub output_len: u32,
    /// Leave after so many pieces of the answer.
    pub leave_after: Option<usize>,
}

impl Ask {
    /// A prompt that is read to its end.
    pub fn new(prompt: Vec<u32>, output_len: u32) -> Self {
        Self {
            prompt,
            output_len,
            leave_after: None,
        }
    }

    fn body(&self, is_stream: bool) -> String {
        json!({
            "prompt": self.prompt,
            "max_tokens": self.output_len,
            "temperature": 0,
            "ignore_eos": true,
            "stream": is_stream,
        })
        .to_string()
    }
}

/// Token ids that look random and are the same in every run: `seed` names the sequence. None is a
/// control token.
pub fn tokens(seed: u64, len: usize, vocab_len: u32) -> Vec<u32> {
    // Control tokens stand at the end of some vocabularies, too.
    let plain = u64::from((vocab_len / 2).saturating_sub(FIRST_PLAIN_TOKEN).max(1));
    let token = |idx: u64| {
        let word = mix64(mix64(seed).wrapping_add(idx.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        #[allow(clippy::cast_possible_truncation)] // less than a vocabulary
        let offset = (word % plain) as u32;
        FIRST_PLAIN_TOKEN + offset
    };
    (0..len as u64).map(token).collect()
}

/// The `idx`th request with the lengths of a trace, which is begun again at its end; its tokens are
/// its own.
pub fn trace_ask(rows: &[Lengths], vocab_len: u32, idx: u64) -> Ask {
    #[allow(clippy::cast_possible_truncation)] // less than there are rows
    let row = rows[(idx % rows.len() as u64) as usize];
    Ask::new(
        tokens(idx, row.prompt_len as usize, vocab_len),
        row.output_len,
    )
}

/// What became of the requests of a load.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, or with half of one.
    pub broken: u64,
    /// Requests the client left on purpose.
    pub left: u64,
    /// The first few of what went wrong, statuses of 500 and above included.
    pub told: Vec<String>,
    /// Output tokens of whole answers.
    pub output_tokens: u64,
    /// Seconds to the first token, of streamed answers.
    pub ttft: Vec<f64>,
    /// Seconds to the end of an answer with status 200.
    pub seconds: Vec<f64>,
}

impl Tally {
    /// Answers with this status.
    pub fn count(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Requests in all.
    pub fn total(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.broken + self.left
    }

    /// Requests that ended in none of these statuses.
    pub fn others(&self, statuses: &[u16]) -> u64 {
        let good: u64 = statuses.iter().map(|status| self.count(*status)).sum();
        self.total() - self.left - good
    }

    /// Statuses with their counts, for a report.
    pub fn summary(&self) -> String {
        let mut parts: Vec<String> = self
            .statuses
            .iter()
            .map(|(status, count)| format!("{count} x {status}"))
            .collect();
        for (count, what) in [
            (self.left, "left by the client"),
            (self.broken, "broken off"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        parts.join(", ")
    }

    /// Median and 90th percentile of the time an answer took.
    pub fn latency(&self) -> String {
        let (p50, p90) = (median(&self.seconds), percentile(&self.seconds, 90));
        format!("p50 {p50:.2} s, p90 {p90:.2} s")
    }

    fn tell(&mut self, what: String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(what);
        }
    }

    fn merge(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.broken += other.broken;
        self.left += other.left;
        self.output_tokens += other.output_tokens;
        other.told.into_iter().for_each(|what| self.tell(what));
        self.ttft.extend(other.ttft);
        self.seconds.extend(other.seconds);
    }
}

/// One client with its connection.
struct Client {
    server: Server,
    connection: Option<Connection>,
    tally: Tally,
}

impl Client {
    fn new(server: Server) -> Self {
        Self {
            server,
            connection: None,
            tally: Tally::default(),
        }
    }

    /// Asks, waits for the end of the answer, counts it.
    fn ask(&mut self, ask: &Ask, is_stream: bool) {
        let begun = Instant::now();
        let exchanged = if is_stream || ask.leave_after.is_some() {
            self.stream(ask, begun)
        } else {
            self.exchange(ask)
        };
        match exchanged {
            Ok(Some(status)) => {
                *self.tally.statuses.entry(status).or_default() += 1;
                if status == 200 {
                    self.tally.seconds.push(begun.elapsed().as_secs_f64());
                }
                if status == 429 {
                    thread::sleep(RETRY_AFTER);
                }
            }
            Ok(None) => self.tally.left += 1,
            Err(error) => {
                self.tally.broken += 1;
                self.tally.tell(error.to_string());
                self.connection = None;
                thread::sleep(RECONNECT_AFTER);
            }
        }
    }

    fn connection(&mut self) -> io::Result<Connection> {
        match self.connection.take() {
            Some(connection) if !connection.ends() => Ok(connection),
            _ => self.server.connect(),
        }
    }

    fn exchange(&mut self, ask: &Ask) -> io::Result<Option<u16>> {
        let mut connection = self.connection()?;
        let answer = connection.ask(&post(&ask.body(false)))?;
        self.connection = Some(connection);
        if answer.status == 200 {
            let json: Value = serde_json::from_str(&answer.body)?;
            let produced = json["usage"]["completion_tokens"].as_u64();
            self.tally.output_tokens +=
                produced.ok_or_else(|| io::Error::other("an answer without usage"))?;
        } else if answer.status >= 500 {
            self.tally.tell(answer.body);
        }
        Ok(Some(answer.status))
    }

    /// `None` when the client left before the end, as asked.
    fn stream(&mut self, ask: &Ask, begun: Instant) -> io::Result<Option<u16>> {
        let mut connection = self.connection()?;
        let body = ask.body(true);
        let (status, body) = connection.begin(&post(&body))?;
        let mut events = 0usize;
        let mut ttft = None;
        let mut is_whole = false;
        let mut failure = None;
        let read = body.events(|data| {
            is_whole |= data == "[DONE]";
            if is_failure(data) {
                failure.get_or_insert_with(|| data.to_owned());
            }
            events += 1;
            ttft.get_or_insert_with(|| begun.elapsed().as_secs_f64());
            ask.leave_after.is_none_or(|count| events < count)
        })?;
        if !read {
            return Ok(None);
        }
        if status == 200 {
            if let Some(failure) = failure {
                return Err(io::Error::other(failure));
            }
            if !is_whole {
                return Err(io::Error::other("a stream without its end"));
            }
            self.tally.ttft.extend(ttft);
            self.tally.output_tokens += u64::from(ask.output_len);
        }
        self.connection = Some(connection);
        Ok(Some(status))
    }
}

/// Whether an event tells of a failure. (The word alone may be what the model says.)
fn is_failure(data: &str) -> bool {
    data.contains("\"error\"")
        && serde_json::from_str::<Value>(data).is_ok_and(|event| event.get("error").is_some())
}

fn post(body: &str) -> Request<'_> {
    Request {
        method: "POST",
        path: COMPLETIONS,
        body,
    }
}

/// What clients ask for next, by the number of the request; `None` when they are done.
pub type Source<'a> = dyn Fn(u64) -> Option<Ask> + Sync + 'a;

/// `clients` clients at once, each asking again as soon as it has its answer, until `source` ends.
pub fn closed_loop(server: Server, clients: usize, source: &Source) -> Tally {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..clients {
            let run = || {
                let mut client = Client::new(server);
                while let Some(ask) = source(next.fetch_add(1, Ordering::Relaxed)) {
                    client.ask(&ask, false);
                }
                merge(&total, client.tally);
            };
            thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, run)
                .expect("a thread for each client");
        }
    });
    total.into_inner().expect("no client panics")
}

/// One client for each request, at its time after the beginning. Answers are streamed.
pub fn open_loop(server: Server, arrivals: &[(Duration, Ask)]) -> Tally {
    let begun = Instant::now();
    let total = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for (at, ask) in arrivals {
            thread::sleep(at.saturating_sub(begun.elapsed()));
            let run = || {
                let mut client = Client::new(server);
                client.ask(ask, true);
                merge(&total, client.tally);
            };
            thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, run)
                .expect("a thread for each client");
        }
    });
    total.into_inner().expect("no client panics")
}

fn merge(total: &Mutex<Tally>, tally: Tally) {
    total.lock().expect("no client panics").merge(tally);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_may_say_error() {
        assert!(is_failure(r#"{"error":{"message":"no"}}"#));
        assert!(!is_failure(r#"{"choices":[{"text":"error"}]}"#));
        assert!(!is_failure("[DONE]"));
    }

    #[test]
    fn tokens_are_plain_and_the_same_every_time() {
        let first = tokens(7, 100, 49152);
        assert_eq!(first, tokens(7, 100, 49152));
        assert_eq!(first[..50], tokens(7, 50, 49152));
        assert_ne!(first, tokens(8, 100, 49152));
        assert!(first.iter().all(|id| (1000..24576).contains(id)));
    }

    #[test]
    fn every_request_is_in_one_count() {
        let mut tally = Tally {
            statuses: BTreeMap::from([(200, 5), (429, 2), (500, 1)]),
            broken: 1,
            left: 1,
            ..Tally::default()
        };
        assert_eq!(tally.total(), 10);
        assert_eq!(tally.others(&[200, 400, 429]), 2);
        tally.merge(Tally {
            statuses: BTreeMap::from([(200, 1)]),
            seconds: vec![2.0],
            ..Tally::default()
        });
        let summary = "6 x 200, 2 x 429, 1 x 500, 1 left by the client, 1 broken off";
        assert_eq!(tally.summary(), summary);
        assert_eq!(tally.latency(), "p50 2.00 s, p90 2.00 s");
    }
}
