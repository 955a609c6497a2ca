//! The API over a real engine with a tiny model, in process: no sockets but where sockets are the
//! point.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod chat;
mod completions;
mod lifecycle;
mod map;
mod memory;
mod models;
mod operations;
mod page;
mod refusals;
mod sampling;
mod streams;
mod structured;
mod support;
