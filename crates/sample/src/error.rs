//! What can be wrong with a request's parameters, and with a row of logits.

use std::fmt;

use thiserror::Error;

/// A sampling parameter outside its range: the client's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error("{field} must be {limit}, but is {given}")]
pub struct ParamError {
    /// The parameter's name on the wire.
    pub field: &'static str,
    /// What is allowed.
    pub limit: ParamLimit,
    /// What was asked for.
    pub given: Given,
}

/// The values a parameter may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamLimit {
    /// `min <= value <= max`.
    Between {
        /// Smallest value allowed.
        min: f32,
        /// Largest value allowed.
        max: f32,
    },
    /// `0 < value <= max`.
    PositiveUpTo {
        /// Largest value allowed.
        max: f32,
    },
    /// At most so many entries.
    EntriesMax(u64),
    /// A token id below the length of the vocabulary.
    TokenBelow(u64),
    /// Allowed tokens of which at least one is never masked by anything else.
    SomeLeft,
}

impl fmt::Display for ParamLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between { min, max } => write!(f, "between {min} and {max}"),
            Self::PositiveUpTo { max } => write!(f, "above 0 and at most {max}"),
            Self::EntriesMax(max) => write!(f, "at most {max}"),
            Self::TokenBelow(vocab_len) => write!(f, "a token id below {vocab_len}"),
            Self::SomeLeft => f.write_str(
                "such that bad_words and min_tokens leave at least one of the tokens to draw",
            ),
        }
    }
}

/// The refused value, in the type it was given in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Given {
    /// A real number.
    Number(f32),
    /// A count or a token id.
    Count(u64),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => fmt::Display::fmt(number, f),
            Self::Count(count) => fmt::Display::fmt(count, f),
        }
    }
}

/// A row no token can be drawn from. The sequence's state is left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum SampleFault {
    /// The model wrote NaN or +infinity.
    #[error("logit {index} is {value}")]
    NonFinite {
        /// Index of the first such logit.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// Every token is masked.
    #[error("every token of the vocabulary is masked")]
    NothingAllowed,
}
