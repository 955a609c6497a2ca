//! The JSON of the OpenAI API: what it looks like, not what it means.
//!
//! Request types have only optional fields and no rules; [`validate`](crate::validate) has the
//! rules.

pub(crate) mod anthropic;
pub(crate) mod chat;
pub(crate) mod common;
pub(crate) mod completion;
pub(crate) mod constraint;
pub(crate) mod depth;
pub(crate) mod error;
pub(crate) mod extras;
pub(crate) mod map;
pub(crate) mod memory;
pub(crate) mod models;
pub(crate) mod ollama;
pub(crate) mod plan;
pub(crate) mod read;
pub(crate) mod responses;
pub(crate) mod tokens;
pub(crate) mod tools;
