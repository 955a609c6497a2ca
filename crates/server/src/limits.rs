//! Every bound on what a client can make the server do, in one table.
//!
//! The numbers are those the code uses; the table adds what happens beyond them. A bound that is not
//! here, or here without a test, fails `tests/checklist`.

use std::fmt;
use std::time::Duration;

use kvist_base::Bytes;
use kvist_engine::{GenerateSpec, LOGPROB_TOKENS_MAX};

use crate::answer::{REQUEST_SCORES_MAX, SCORES_MAX};
use crate::config::HttpLimits;
use crate::error::MESSAGE_CHARS_MAX;
use crate::state::{REQUEST_ID_BYTES_MAX, TOKENISING_MAX};
use crate::validate::{
    ALLOWED_TOKENS_MAX, BAD_WORDS_MAX, CACHE_SALT_BYTES_MAX, LOGPROBS_MAX, STOP_TOKENS_MAX,
    TOP_LOGPROBS_MAX,
};
use crate::wire::chat::MESSAGES_MAX;
use crate::wire::common::{SCALARS_MAX, SmallObject};
use crate::wire::depth::DEPTH_MAX;
use crate::wire::read::FIELDS_MAX;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is bounded.
    pub name: &'static str,
    /// The bound.
    pub value: String,
    /// What happens beyond it.
    pub beyond: &'static str,
    /// The flag that sets it, if there is one.
    pub flag: Option<&'static str>,
}

/// The engine's part of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Sequences that run at once.
    pub running_max: u64,
    /// Sequences that wait beside them.
    pub waiting_max: u64,
    /// Prompt tokens of those that wait.
    pub waiting_tokens_max: u64,
}

/// The table.
pub fn limits(http: &HttpLimits, engine: EngineLimits) -> Vec<Limit> {
    let mut rows = connection_limits(http);
    rows.extend(time_limits(http));
    rows.extend(body_limits(http));
    rows.extend(request_limits(http));
    rows.extend(queue_limits(engine));
    rows
}

impl fmt::Display for Limit {
    /// A line of columns.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            beyond,
            flag,
        } = self;
        write!(f, "{name:<28} {value:>10}  {beyond:<44}")?;
        write!(f, " {}", flag.unwrap_or("-"))
    }
}

const fn row(name: &'static str, beyond: &'static str) -> Fixed {
    Fixed { name, beyond }
}

/// A row without its number.
struct Fixed {
    name: &'static str,
    beyond: &'static str,
}

impl Fixed {
    fn at(self, value: &dyn fmt::Display) -> Limit {
        Limit {
            name: self.name,
            value: value.to_string(),
            beyond: self.beyond,
            flag: None,
        }
    }

    fn bytes(self, value: usize) -> Limit {
        self.at(&Bytes::of_len(value))
    }

    fn time(self, value: Duration) -> Limit {
        self.at(&format!("{value:?}"))
    }
}

impl Limit {
    fn set_by(self, flag: &'static str) -> Self {
        Self {
            flag: Some(flag),
            ..self
        }
    }
}

fn connection_limits(http: &HttpLimits) -> Vec<Limit> {
    vec![
        row("connections", "further ones wait to be accepted")
            .at(&http.connections_max)
            .set_by("--max-connections"),
        row("request line and headers", "431").bytes(http.header_bytes_max),
        row("headers", "431").at(&http.headers_max),
        row("x-request-id", "replaced by one of ours").bytes(REQUEST_ID_BYTES_MAX),
        row("error message, characters", "cut").at(&MESSAGE_CHARS_MAX),
    ]
}

fn time_limits(http: &HttpLimits) -> Vec<Limit> {
    vec![
        row("time for headers, TLS", "408 and closed").time(http.header_time_max),
        row("time for a body", "408 and closed").time(http.body_time_max),
        row("time of an idle connection", "closed")
            .time(http.idle_time_max)
            .set_by("--keep-alive"),
        row(
            "time an answer is not read",
            "closed, the request is cancelled",
        )
        .time(http.stall_time_max),
        row("time in the queue", "429 with Retry-After")
            .time(http.queue_time_max)
            .set_by("--queue-timeout"),
        row("time of a request", "504, or an error event on a stream")
            .time(http.request_time_max)
            .set_by("--request-timeout"),
        row("silence on a stream", "a comment is sent").time(http.stream_ping_interval),
        row("time of a step", "/health answers 503")
            .time(http.step_time_max)
            .set_by("--step-timeout"),
        row("time of leaving", "new work gets 503")
            .time(http.drain_delay)
            .set_by("--drain-delay"),
        row("time of draining", "what runs ends with an error")
            .time(http.drain_time_max)
            .set_by("--drain-timeout"),
    ]
}

fn body_limits(http: &HttpLimits) -> Vec<Limit> {
    vec![
        row("body", "413")
            .at(&http.body_bytes_max)
            .set_by("--max-body-size"),
        row("bodies being received", "429 with Retry-After").at(&http.bodies_bytes_max),
        row("pieces of a body", "413").at(&http.body_pieces_max),
        row("JSON depth", "400 with line and column").at(&DEPTH_MAX),
        row("fields of an object", "400").at(&FIELDS_MAX),
        row("items of a list", "400").at(&SCALARS_MAX),
        row("messages, parts of one", "400").at(&MESSAGES_MAX),
        row("chat_template_kwargs", "400").bytes(SmallObject::BYTES_MAX),
    ]
}

fn request_limits(http: &HttpLimits) -> Vec<Limit> {
    vec![
        row("prompts", "400").at(&http.prompts_max),
        row("n", "400").at(&http.choices_max),
        row("prompt and output together", "400 with both numbers")
            .at(&"the context")
            .set_by("--max-model-len"),
        row("stop strings", "400").at(&GenerateSpec::STOPS_MAX),
        row("stop strings together", "400").bytes(GenerateSpec::STOPS_BYTES_MAX),
        row("stop_token_ids", "400").at(&STOP_TOKENS_MAX),
        row("logit_bias", "400").at(&GenerateSpec::LOGIT_BIAS_MAX),
        row("logprobs", "400").at(&LOGPROBS_MAX),
        row("top_logprobs", "400").at(&TOP_LOGPROBS_MAX),
        row("bad_words", "400").at(&BAD_WORDS_MAX),
        row("allowed_token_ids", "400").at(&ALLOWED_TOKENS_MAX),
        row("logprob_token_ids", "400").at(&LOGPROB_TOKENS_MAX),
        row("log-probabilities of prompts", "400 with both numbers").at(&REQUEST_SCORES_MAX),
        row("those of all requests", "429 with Retry-After").at(&SCORES_MAX),
        row("cache_salt", "400").bytes(CACHE_SALT_BYTES_MAX),
    ]
}

fn queue_limits(engine: EngineLimits) -> Vec<Limit> {
    vec![
        row("running sequences", "further ones wait")
            .at(&engine.running_max)
            .set_by("--max-num-seqs"),
        row("waiting sequences", "429 with Retry-After")
            .at(&engine.waiting_max)
            .set_by("--max-waiting"),
        row("tokens of waiting prompts", "429 with Retry-After")
            .at(&engine.waiting_tokens_max)
            .set_by("--max-waiting-tokens"),
        row("prompts tokenised at once", "further ones wait").at(&TOKENISING_MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_columns_hold_them() {
        let engine = EngineLimits {
            running_max: 64,
            waiting_max: 256,
            waiting_tokens_max: 1 << 20,
        };
        let rows = limits(&HttpLimits::default(), engine);
        let mut names: Vec<_> = rows.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            assert!(row.name.len() <= 28 && row.beyond.len() <= 44, "{row}");
            assert!(row.value.len() <= 11, "{row}");
        }
    }
}
