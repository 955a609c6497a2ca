//! What an output must look like, compiled to the tokens that may come next.
//!
//! | step | type |
//! |---|---|
//! | what a request asks for | [`Constraint`] |
//! | a vocabulary's bytes, prepared once a model | [`Compiler`] |
//! | a constraint, compiled for it and shared by requests | [`Grammar`], kept in a [`Cache`] |
//! | where one sequence is in it | [`GrammarState`] |
//!
//! Parsing and masks are llguidance's; see ADR 0015 for why, and for what is bounded how. A state is
//! a function of the constraint and of the tokens it was advanced by: states share nothing that
//! one of them changes, so neither neighbours nor earlier requests can move a limit for it.

mod cache;
mod compile;
mod constraint;
mod error;
mod lark;
mod limits;
mod state;
mod vocab;

pub use cache::Cache;
pub use compile::{Compiler, Grammar};
pub use constraint::{Constraint, TaggedJson, TaggedValue};
pub use error::{ConstraintError, GrammarFault};
pub use limits::{
    ALTERNATIVES_MAX, CHOICE_BYTES_MAX, CHOICES_MAX, LARK_BYTES_MAX, LARK_RULES_MAX,
    REGEX_BYTES_MAX, SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, TAGGED_BYTES_MAX,
};
pub use state::{GrammarState, Progress};
pub use vocab::{TokenRole, Vocabulary};
