//! The checklist of docs/checklist.md: hostile and unlucky clients over real sockets, and after each
//! of them the proof that nothing is left behind.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[allow(dead_code)] // shared with tests/api
#[path = "../api/support.rs"]
mod support;

mod auth;
mod faults;
mod json;
mod life;
mod list;
mod table;
mod transport;
mod wire;
