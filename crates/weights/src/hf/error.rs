//! Why a model folder was refused.

use std::io;
use std::path::PathBuf;

/// A file of a model folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named in each message
pub enum HfError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },

    /// A file, or a header in one, above its limit.
    #[error("{path}: {what}: {given} is above the limit of {limit}")]
    TooLarge {
        path: PathBuf,
        what: String,
        limit: u64,
        given: u64,
    },

    /// JSON that is damaged, or not of the form it should have.
    #[error("{path}: {what} cannot be read: {source}")]
    Json {
        path: PathBuf,
        what: &'static str,
        source: serde_json::Error,
    },

    /// The file ends before what it announces.
    #[error("{path}: {what} takes {needed} bytes, {given} are there")]
    Truncated {
        path: PathBuf,
        what: &'static str,
        needed: u64,
        given: u64,
    },

    /// A tensor whose description contradicts itself or its file.
    #[error("{path}: tensor {tensor:?}: {why}")]
    BadTensor {
        path: PathBuf,
        tensor: String,
        why: String,
    },

    /// A file name in an index that leads out of the folder.
    #[error("{path}: {given:?} is not the name of a safetensors file in this folder")]
    BadFileName { path: PathBuf, given: String },
}
