//! Test support: tiny models from seeds, golden files, naive oracles.
//!
//! For tests only: what cannot be read or written here panics with the reason.

pub mod schema;
pub mod tiny;
