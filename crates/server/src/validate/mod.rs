//! From what was sent to what was meant: the rules of the API.
//!
//! Wire types go in, [`Call`]s come out; what cannot be meant is refused with its field and limit.
//! Ranges of sampling parameters are the engine's to check, so that they are written down once.

mod anthropic;
mod chat;
mod completion;
mod constraint;
mod extras;
mod memory;
mod ollama;
mod plan;
mod responses;
mod settings;
mod tokens;
mod tools;
mod unsupported;

pub(crate) use anthropic::{counted_messages, messages};
pub(crate) use chat::{TOP_LOGPROBS_MAX, chat};
pub(crate) use completion::{LOGPROBS_MAX, completion};
pub(crate) use extras::{ALLOWED_TOKENS_MAX, BAD_WORDS_MAX, Spelling, Told};
pub(crate) use memory::budget;
pub(crate) use ollama::{OllamaCall, ollama_chat, ollama_generate};
pub(crate) use plan::plan_change;
pub(crate) use responses::{ResponsesCall, responses};
pub(crate) use settings::{CACHE_SALT_BYTES_MAX, STOP_TOKENS_MAX, Settings};
pub(crate) use tokens::{detokenize, tokenize};
pub(crate) use tools::shown_call;

use std::fmt;
use std::ops::RangeInclusive;

use kvist_base::Tokens;
use kvist_engine::{ChatTraits, OutputSpec, Prompt};

use crate::auth::Caller;
use crate::config::{FairShare, HttpLimits, Parsers, UnknownFields};
use crate::error::ApiError;

/// A checked request: every prompt is to be continued `choices` times.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) choices: usize,
    /// Alternatives of each prompt that are answered: the likeliest.
    pub(crate) kept: usize,
    pub(crate) settings: Settings,
    pub(crate) delivery: Delivery,
    pub(crate) echo: Echo,
    pub(crate) told: Told,
    /// What to look for in the output.
    pub(crate) output: OutputSpec,
    /// Whether reasoning is part of the answer.
    pub(crate) reasoning: Reasoning,
    /// Fields that were sent and do nothing here.
    pub(crate) ignored: Vec<String>,
}

/// How the answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// As it is produced.
    Stream(StreamUsage),
}

/// Whether a stream says what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamUsage {
    /// Not at all.
    Omit,
    /// At its end.
    Include,
    /// At its end, and so far in each piece.
    Continuous,
}

/// Whether the answer begins with the prompt, or the part of it that the output goes on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Echo {
    #[default]
    OutputOnly,
    PromptFirst,
}

/// Whether the answer has the model's reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reasoning {
    #[default]
    Show,
    /// It is left out, but counted.
    Hide,
}

/// What the rules depend on beside the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) limits: &'a HttpLimits,
    /// Tokens in the vocabulary.
    pub(crate) vocab_len: usize,
    /// The seed of a request that names none.
    pub(crate) seed: u64,
    /// Now, in Unix seconds: chat templates may write the date.
    pub(crate) now_seconds: u64,
    /// Who sent it.
    pub(crate) caller: Caller,
    /// Between whom the engine's time is shared.
    pub(crate) fair_share: FairShare,
    /// What the model's chat template can write, if it has one.
    pub(crate) traits: Option<&'a ChatTraits>,
    /// How outputs are told apart.
    pub(crate) parsers: Parsers,
    /// Output of a request that does not say how much it wants.
    pub(crate) output_default: Option<Tokens>,
    /// What becomes of requests with fields nobody knows.
    pub(crate) unknown_fields: UnknownFields,
}

fn out_of_range(
    field: impl Into<String>,
    limit: impl Into<String>,
    given: &dyn fmt::Display,
) -> ApiError {
    ApiError::OutOfRange {
        field: field.into(),
        limit: limit.into(),
        given: given.to_string(),
    }
}

/// `given` as an unsigned number, if it is between `min` and `max`.
fn bounded<T>(field: &'static str, given: i64, range: RangeInclusive<T>) -> Result<T, ApiError>
where
    T: TryFrom<i64> + PartialOrd + fmt::Display + Copy,
{
    T::try_from(given)
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| {
            out_of_range(
                field,
                format!("{} to {}", range.start(), range.end()),
                &given,
            )
        })
}
