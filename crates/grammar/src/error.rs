//! What can be wrong with a constraint, and with a sequence under one.

use thiserror::Error;

/// A constraint that is not taken: the client's mistake.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConstraintError {
    /// The engine was started without the memory for it.
    #[error("this server was started without structured outputs")]
    Off,
    /// Beyond a bound.
    #[error("{what} must be at most {limit}, but is {given}")]
    TooLarge {
        /// What is counted, with its unit.
        what: &'static str,
        /// The bound.
        limit: usize,
        /// What was given.
        given: usize,
    },
    /// Nothing where something is needed.
    #[error("{what} must not be empty")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// It is not of its own language, asks for what cannot be had, or is too complex.
    #[error("the {what} cannot be used: {reason}")]
    Invalid {
        /// Schema, regular expression or grammar.
        what: &'static str,
        /// Why, with the place where that is known.
        reason: String,
    },
    /// Compiling takes too long.
    #[error("the {what} takes longer than {limit_seconds} s to compile: simplify it")]
    TooSlow {
        /// Schema, regular expression or grammar.
        what: &'static str,
        /// The bound.
        limit_seconds: u64,
    },
}

/// Why a sequence cannot go on under its grammar. It ends that request and no other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GrammarFault {
    /// The grammar is not complete, and no token of the vocabulary continues it.
    #[error("no token of the vocabulary continues the output as its grammar demands")]
    NothingAllowed,
    /// A limit on the work for one token was reached.
    #[error("the grammar is too complex at this place of the output: {0}")]
    TooComplex(String),
}
