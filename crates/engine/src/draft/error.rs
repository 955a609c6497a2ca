//! Why a model cannot draft for another.

use std::path::PathBuf;

use thiserror::Error;

use crate::load::{ErrorClass, LoadError};

/// Why a model cannot draft for another.
#[derive(Debug, Error)]
pub enum DraftError {
    /// It cannot be served itself.
    #[error("the draft model {}: {source}", path.display())]
    Model {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<LoadError>,
    },
    /// The two cut text into tokens by different rules.
    #[error(
        "the model's vocabulary is of kind {served}, the draft model's of kind {draft}: they must be the same"
    )]
    Kind {
        /// The served model's.
        served: String,
        /// The draft model's.
        draft: String,
    },
    /// The first token that differs.
    #[error(
        "token {token} is {served:?} in the model and {draft:?} in the draft model: their vocabularies must be the same"
    )]
    Token {
        /// Its id.
        token: usize,
        /// What it is to the served model.
        served: String,
        /// What it is to the draft model.
        draft: String,
    },
    /// The first token that only one has and that may be in use.
    #[error(
        "token {token}, {text:?}, is in the vocabulary of the {owner} only: they must be the same"
    )]
    Extra {
        /// Its id.
        token: usize,
        /// What it is.
        text: String,
        /// Whose it is.
        owner: &'static str,
    },
    /// Drafts are not wanted.
    #[error("a draft model is of no use without speculation, which is off")]
    SpeculationOff,
}

impl DraftError {
    /// Who must act.
    pub(crate) fn class(&self) -> ErrorClass {
        match self {
            Self::Model { source, .. } => source.class(),
            _ => ErrorClass::Config,
        }
    }
}
