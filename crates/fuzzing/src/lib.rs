//! Fuzz targets: what must hold for any bytes, and a driver that makes some.
//!
//! A target is a function that panics when its property does not hold. `cargo fuzz` calls it from
//! `fuzz/`, guided by coverage; `cargo xtask fuzz` calls it through [`drive`], on a stable toolchain
//! and repeatable by seed; the tests do so briefly, and begin with every seed file.

mod drive;
mod mutate;
mod targets;

pub use drive::{Finding, Report, Until, drive};
pub use targets::{TARGETS, Target, find};
