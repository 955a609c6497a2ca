//! Limits and shapes that make no sense, and files that cannot be read as what they should be.

use std::fmt;

use kvist_base::{Bytes, Tokens};
use thiserror::Error;

/// A limit or a model dimension outside its range. That a model does not fit is not an error but
/// a [`Verdict`](crate::Verdict).
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error("{field} must be {limit}, but is {given}")]
pub struct PlanError {
    /// The limit's name among the flags, or the dimension's in the model file.
    pub field: &'static str,
    /// What is allowed.
    pub limit: PlanLimit,
    /// What was given.
    pub given: Given,
}

/// The values a limit may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanLimit {
    /// `min <= value <= max`.
    Between {
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// At most the context the model was made for.
    ModelContext(u64),
    /// `0 < value <= 1`.
    Fraction,
    /// At least one sequence of the longest length.
    OneSequence {
        /// Its KV.
        needed: Bytes,
        /// Its length.
        len: Tokens,
    },
    /// At least one KV block, of this size.
    OneBlock(Bytes),
    /// A divisor of both numbers of heads.
    Divides {
        /// Query heads.
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
    },
}

impl fmt::Display for PlanLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between { min, max } => write!(f, "between {min} and {max}"),
            Self::ModelContext(max) => write!(f, "at most {max}, the model's own context"),
            Self::Fraction => f.write_str("above 0 and at most 1"),
            Self::OneSequence { needed, len } => {
                write!(f, "at least {needed}, one sequence of {len}")
            }
            Self::Divides { heads, kv_heads } => write!(
                f,
                "a divisor of {heads} heads and of {kv_heads} key and value heads"
            ),
            Self::OneBlock(bytes) => write!(f, "at least {bytes}, one KV block"),
        }
    }
}

/// The refused value, in the type it was given in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Given {
    /// A count or a size in bytes.
    Count(u64),
    /// A size, printed with its unit.
    Size(Bytes),
    /// A real number.
    Number(f64),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => fmt::Display::fmt(count, f),
            Self::Size(bytes) => fmt::Display::fmt(bytes, f),
            Self::Number(number) => fmt::Display::fmt(number, f),
        }
    }
}

impl PlanError {
    pub(crate) fn check(field: &'static str, given: u64, min: u64, max: u64) -> Result<(), Self> {
        if (min..=max).contains(&given) {
            return Ok(());
        }
        Err(Self {
            field,
            limit: PlanLimit::Between { min, max },
            given: Given::Count(given),
        })
    }
}

/// A system file does not hold the number it should.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} should be a number of bytes, but is {given:?}")]
pub struct ProbeError {
    /// The file or the line in it.
    pub field: &'static str,
    /// What was found; empty when the line is missing.
    pub given: String,
}
