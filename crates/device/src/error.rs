//! Why a device refused.

use kvist_base::{Bytes, QuantFormat};
use thiserror::Error;

use crate::SourceError;

/// Why a device refused. `OutOfMemory`, `BadWeight`, `Unreadable` and `Threads` can be caused from
/// outside; the others are faults of the code that built the operations.
#[derive(Debug, Error)]
#[allow(missing_docs)] // the messages are the documentation
pub enum DeviceError {
    #[error("{label}: the system refused {wanted}")]
    OutOfMemory { label: &'static str, wanted: Bytes },
    #[error(
        "a {format} weight of {rows} x {cols} needs {expected:?} bytes, but {given} were given"
    )]
    BadWeight {
        format: QuantFormat,
        rows: usize,
        cols: usize,
        expected: Option<usize>,
        given: usize,
    },
    #[error("{op}: buffer {buf} has {have} elements, {needed} are needed")]
    TooShort {
        op: &'static str,
        buf: u32,
        have: usize,
        needed: usize,
    },
    #[error("{op}: buffer {buf} holds another element type, or is both read and written")]
    WrongBuffer { op: &'static str, buf: u32 },
    #[error("{op}: {what} is {given}, the limit is {limit}")]
    OutOfRange {
        op: &'static str,
        what: &'static str,
        limit: usize,
        given: usize,
    },
    #[error("{op}: the weight was kept as a table of the file and is not a matrix")]
    NotAMatrix { op: &'static str },
    #[error("{op}: the weight is streamed for products and is not a table")]
    NotATable { op: &'static str },
    #[error("a weight cannot be read: {0}")]
    Unreadable(#[source] SourceError),
    #[error("the thread that reads weights ahead has ended")]
    ReadAheadEnded,
    #[error("worker threads cannot be started: {0}")]
    Threads(#[source] std::io::Error),
}
