//! The API over a real engine with a tiny model, in process: no sockets but where sockets are the
//! point.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod anthropic;
mod chat;
mod completions;
mod extras;
mod lifecycle;
mod map;
mod memory;
mod metrics;
mod models;
mod ollama;
mod operations;
mod page;
mod probes;
mod refusals;
mod responses;
mod sampling;
mod streams;
mod structured;
mod support;
mod tools;
