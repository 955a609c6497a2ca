//! JSON forms of the shared quantities: plain numbers.

use std::fmt::Display;

use kvist_base::{Blocks, Bytes, Tokens};
use serde::Serializer;

pub(crate) fn bytes<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(value.0)
}

pub(crate) fn tokens<S: Serializer>(value: &Tokens, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(value.0)
}

pub(crate) fn blocks<S: Serializer>(value: &Blocks, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(value.0)
}

/// As its `Display` text.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
