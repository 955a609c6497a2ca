//! Why a model file was refused. Each error names the file, the thing in it, the limit and what
//! was given, so that whoever starts the server can act on it.

use std::io;
use std::path::PathBuf;

/// A model file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named in each message
pub enum WeightsError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },

    /// A file was written to after it was opened: what was read from it may be neither the old
    /// model nor the new one.
    #[error("{path}: the file was changed while it was open; replace models by renaming")]
    Changed { path: PathBuf },

    /// A directory, pipe or device: only regular files can be mapped.
    #[error("{path}: not a regular file but a {found}")]
    NotRegularFile { path: PathBuf, found: &'static str },

    /// Something else under a model's name; `found` says what it looks like.
    #[error("{path}: not a GGUF model: {found}")]
    NotGguf { path: PathBuf, found: String },

    /// A GGUF file written for a big-endian machine.
    #[error("{path}: a big-endian GGUF file; convert the model to little-endian")]
    BigEndian { path: PathBuf },

    /// A GGUF version this reader does not know.
    #[error("{path}: GGUF version {given} is not supported (supported: 2 and 3)")]
    UnsupportedVersion { path: PathBuf, given: u32 },

    /// The file ends inside its header.
    #[error("{path}: the file is cut off or damaged: {what} takes {needed} bytes, {left} are left")]
    Truncated {
        path: PathBuf,
        what: String,
        needed: u64,
        left: u64,
    },

    /// A count above its limit.
    #[error("{path}: {what}: {given} is above the limit of {limit}")]
    TooMany {
        path: PathBuf,
        what: String,
        limit: u64,
        given: u64,
    },

    /// A length above its limit.
    #[error("{path}: {what}: {given} bytes are above the limit of {limit}")]
    TooLong {
        path: PathBuf,
        what: String,
        limit: u64,
        given: u64,
    },

    /// Text that is not UTF-8.
    #[error("{path}: {what} is not valid UTF-8 (at its byte {at})")]
    NotUtf8 {
        path: PathBuf,
        what: String,
        at: usize,
    },

    /// A truth value other than 0 and 1.
    #[error("{path}: {what}: a bool is 0 or 1, not {given}")]
    BadBool {
        path: PathBuf,
        what: String,
        given: u8,
    },

    /// A metadata value type outside the format.
    #[error("{path}: key {key:?}: unknown value type {given} (known: 0 to 12)")]
    UnknownValueType {
        path: PathBuf,
        key: String,
        given: u32,
    },

    /// `general.alignment` is not a power of two in range.
    #[error("{path}: general.alignment is {given}; it must be a power of two up to {limit}")]
    BadAlignment {
        path: PathBuf,
        limit: u32,
        given: u32,
    },

    /// A tensor shape that cannot be: no dimensions, too many, zero, or a size that overflows.
    #[error("{path}: tensor {tensor:?}: shape {dims:?}: {problem}")]
    BadDims {
        path: PathBuf,
        tensor: String,
        dims: Vec<u64>,
        problem: &'static str,
    },

    /// A row that is not whole quant blocks.
    #[error(
        "{path}: tensor {tensor:?}: rows of {given} weights are not whole {ggml_type} blocks \
         of {block_weights}"
    )]
    PartialBlock {
        path: PathBuf,
        tensor: String,
        ggml_type: &'static str,
        block_weights: usize,
        given: u64,
    },

    /// A tensor's bytes are not all in the file.
    #[error(
        "{path}: tensor {tensor:?} ends at byte {end}, but the file ends at {file_len}: \
         {} bytes are missing (is the download complete?)", end.saturating_sub(*file_len)
    )]
    OffsetOutOfFile {
        path: PathBuf,
        tensor: String,
        end: u64,
        file_len: u64,
    },

    /// A tensor's offset is not a multiple of the file's alignment.
    #[error("{path}: tensor {tensor:?}: offset {offset} is not a multiple of {alignment}")]
    Misaligned {
        path: PathBuf,
        tensor: String,
        offset: u64,
        alignment: u32,
    },

    /// Two tensors claim the same bytes.
    #[error("{path}: tensors {tensor:?} and {other:?} overlap")]
    Overlap {
        path: PathBuf,
        tensor: String,
        other: String,
    },

    /// A key or a tensor name that occurs twice.
    #[error("{path}: {what} {name:?} occurs twice")]
    Duplicate {
        path: PathBuf,
        what: &'static str,
        name: String,
    },

    /// A ggml type id whose layout is not known.
    #[error("{path}: tensor {tensor:?}: ggml type {given} is {problem}")]
    UnknownType {
        path: PathBuf,
        tensor: String,
        given: u32,
        problem: &'static str,
    },

    /// A known ggml type that kvist cannot compute with.
    #[error("{path}: tensor {tensor:?}: type {given} is not supported (supported: {supported})")]
    UnsupportedType {
        path: PathBuf,
        tensor: String,
        given: &'static str,
        supported: String,
    },

    /// A key the model needs.
    #[error("{path}: key {key:?} is missing ({expected} expected)")]
    MissingKey {
        path: PathBuf,
        key: String,
        expected: &'static str,
    },

    /// A key with a value of another type.
    #[error("{path}: key {key:?}: {expected} expected, {found} found")]
    WrongType {
        path: PathBuf,
        key: String,
        expected: &'static str,
        found: String,
    },

    /// An integer that does not fit what it counts.
    #[error("{path}: key {key:?}: {given} is not a {expected}")]
    OutOfRange {
        path: PathBuf,
        key: String,
        expected: &'static str,
        given: i128,
    },

    /// A part of a split model is not there.
    #[error("{path}: part {part} of {count} of a split model is missing")]
    MissingSplit {
        path: PathBuf,
        part: u64,
        count: u64,
    },

    /// The parts of a split model do not agree.
    #[error("{path}: {what}: {given} found, {expected} expected")]
    SplitMismatch {
        path: PathBuf,
        what: &'static str,
        expected: String,
        given: String,
    },
}
