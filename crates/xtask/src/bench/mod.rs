//! `cargo xtask bench memory`: each promise about memory, measured on a running server.
//!
//! A measurement starts `kvist serve` on a free port, loads it with clients of its own, watches the
//! process through `/proc`, and prints what it found beside what was promised. A promise that was
//! not kept is a failure of the command.

mod load;
mod memory;
mod mooncake;
mod overload;
mod plan;
mod report;
mod resize;
mod service;
mod shared_prefix;
mod soak;
mod stream;
mod trace;

use std::error::Error;
use std::path::PathBuf;

use crate::command::{Run, release_binary};
use crate::machine::load_average;
use crate::{Outcome, root};

use report::{Report, publish};

/// What a measurement ends with.
type Measured = Result<Report, Box<dyn Error>>;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// What kvist promises about memory
    Memory(MemoryArguments),
}

#[derive(Debug, clap::Args)]
struct MemoryArguments {
    #[command(subcommand)]
    what: What,
    /// Write the figures as JSON, too
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this kvist instead of building one
    #[arg(long, global = true, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The plan's sum beside the measured peak, everything full
    Plan(plan::Arguments),
    /// The budget under four times the load there is room for, and what is given back after it
    Overload(overload::Arguments),
    /// The budget of a running server, halved and restored under load
    Resize(resize::Arguments),
    /// Many clients with one prefix, beside llama-server
    SharedPrefix(shared_prefix::Arguments),
    /// A trace whose prompts share beginnings: prefix hits beside the ideal, and what they save
    Mooncake(mooncake::Arguments),
    /// A model larger than its budget, its weights streamed
    Stream(stream::Arguments),
    /// Growth of the idle server over hours of use
    Soak(soak::Arguments),
}

pub fn run(arguments: &Arguments) -> Outcome {
    let Subject::Memory(arguments) = &arguments.subject;
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize()?,
        None => release_binary()?,
    };
    let mut reports = vec![match &arguments.what {
        What::Plan(arguments) => plan::measure(&binary, arguments)?,
        What::Overload(arguments) => overload::measure(&binary, arguments)?,
        What::Resize(arguments) => resize::measure(&binary, arguments)?,
        What::SharedPrefix(arguments) => shared_prefix::measure(&binary, arguments)?,
        What::Mooncake(arguments) => mooncake::measure(&binary, arguments)?,
        What::Stream(arguments) => stream::measure(&binary, arguments)?,
        What::Soak(arguments) => soak::measure(&binary, arguments)?,
    }];
    for report in &mut reports {
        report.setup(circumstances());
    }
    publish(&reports, arguments.json.as_deref())
}

/// Where and of what a report is.
fn circumstances() -> String {
    let commit = Run::new("git")
        .args(["-C".as_ref(), root().as_os_str()])
        .args(["describe", "--always", "--dirty"])
        .output();
    let commit = commit.unwrap_or_else(|_| "an unknown commit".to_owned());
    let threads = crate::peer::threads();
    format!(
        "kvist at {}; {threads} threads; load average {:.1} at the end",
        commit.trim(),
        load_average()
    )
}
