//! The draft model: a second, smaller one with the same vocabulary that guesses what the served model
//! will say. Its weights, KV pool and step memory are its own, and lines of the plan; it computes on
//! the engine thread and the threads of the served model's device, in turn with it.
//!
//! It follows the sequences that decode. What it has computed of one is a prefix of what is known and
//! guessed, and never more than that: a guess that was not drawn cuts the prefix off behind what agrees,
//! and what the served model did not have to compute (a prefix hit) or computed while it was not asked
//! is caught up with before it guesses. Blocks of a sequence that ended or gave way go back at once.

mod blocks;
mod error;
mod file;
mod follow;
mod vocabulary;

pub use error::DraftError;
pub use file::draft_shape;

pub(crate) use file::DraftFile;
pub(crate) use follow::{Drafter, Followed};
