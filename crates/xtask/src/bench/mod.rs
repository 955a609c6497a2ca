//! `cargo xtask bench`: what kvist promises, measured.
//!
//! `race` and its neighbours hold `kvist bench` against other engines' programs. Of `memory`, a
//! measurement starts `kvist serve` on a free port, loads it with clients of its own, watches the
//! process through `/proc`, and prints what it found beside what was promised. A promise that was
//! not kept is a failure of the command.

mod grammar;
mod growth;
mod load;
mod memory;
mod mooncake;
mod overload;
mod plan;
mod quants;
mod race;
mod report;
mod resize;
mod service;
mod shared_prefix;
mod soak;
mod speculation;
mod start;
mod stream;
mod trace;
mod waste;

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Parser;

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
    /// Speed beside another engine on the same files, runs interleaved
    Race(race::Arguments),
    /// Speed of both engines over the length of prompts and contexts
    Growth(growth::Arguments),
    /// Seconds to the first token, and until a server is ready
    Start(start::Arguments),
    /// A race and perplexities of other encodings of a model, made by llama.cpp
    Quants(quants::Arguments),
    /// Decoding with speculation beside decoding without
    Speculation(speculation::Arguments),
    /// Outputs under JSON schemas: their form, and the time of masks
    Grammar(grammar::Arguments),
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
    /// KV memory that sequences own and do not fill, beside contiguous spans
    Waste(waste::Arguments),
    /// All of these in turn, each as it is by default: an hour or two
    All(AllArguments),
}

#[derive(Debug, clap::Args)]
struct AllArguments {
    /// A small model file, for what takes many requests
    #[arg(long)]
    small: PathBuf,
    /// A model file to hold against llama-server
    #[arg(long)]
    medium: PathBuf,
    /// A model file that does not fit 3 GB
    #[arg(long)]
    large: PathBuf,
    /// A directory with llama.cpp's programs [default: installed below target/]
    #[arg(long)]
    peer_dir: Option<PathBuf>,
    /// Also run `overload` and `stream` in control groups
    #[arg(long)]
    cgroup: bool,
}

impl AllArguments {
    /// The command line of each measurement.
    fn command_lines(&self) -> Vec<Vec<OsString>> {
        let line = |what: &str, rest: &[&dyn AsRef<OsStr>]| {
            let words = rest.iter().map(|word| word.as_ref().to_owned());
            std::iter::once(OsString::from(what)).chain(words).collect()
        };
        let Self {
            small,
            medium,
            large,
            ..
        } = self;
        let mut lines: Vec<Vec<OsString>> = vec![
            line("waste", &[]),
            line("plan", &[small, medium, large]),
            line("overload", &[small]),
            line("resize", &[small]),
            line("shared-prefix", &[medium]),
            line("mooncake", &[small]),
            line("stream", &[large]),
            line("soak", &[small]),
        ];
        if let Some(dir) = &self.peer_dir {
            lines[4].extend(["--peer-dir".into(), dir.into()]);
        }
        if self.cgroup {
            lines.push(line("overload", &[small, &"--cgroup"]));
            lines.push(line("stream", &[large, &"--cgroup"]));
        }
        lines
    }
}

/// The command line of one measurement.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true)]
struct One {
    #[command(subcommand)]
    what: What,
}

pub fn run(arguments: &Arguments) -> Outcome {
    match &arguments.subject {
        Subject::Memory(arguments) => memory(arguments),
        Subject::Race(arguments) => race::run(arguments),
        Subject::Growth(arguments) => publish_all(vec![growth::measure(arguments)?]),
        Subject::Start(arguments) => publish_all(vec![start::measure(arguments)?]),
        Subject::Speculation(arguments) => {
            let report = speculation::measure(&release_binary()?, arguments)?;
            publish_all(vec![report])
        }
        Subject::Grammar(arguments) => publish_all(vec![grammar::measure(arguments)?]),
        Subject::Quants(arguments) => publish_all(quants::measure(arguments)?),
    }
}

/// Prints reports that say where they were made.
fn publish_all(mut reports: Vec<Report>) -> Outcome {
    for report in &mut reports {
        report.setup(circumstances());
    }
    publish(&reports, None)
}

fn memory(arguments: &MemoryArguments) -> Outcome {
    let binary = || match &arguments.binary {
        Some(binary) => Ok(binary.canonicalize()?),
        None => release_binary(),
    };
    let mut reports = match &arguments.what {
        What::All(all) => measure_all(&binary()?, all)?,
        // Of the scheduler alone: nothing has to be built.
        What::Waste(arguments) => vec![waste::measure(arguments)?],
        what => vec![measure(&binary()?, what)?],
    };
    for report in &mut reports {
        report.setup(circumstances());
    }
    publish(&reports, arguments.json.as_deref())
}

fn measure(binary: &Path, what: &What) -> Measured {
    match what {
        What::Plan(arguments) => plan::measure(binary, arguments),
        What::Overload(arguments) => overload::measure(binary, arguments),
        What::Resize(arguments) => resize::measure(binary, arguments),
        What::SharedPrefix(arguments) => shared_prefix::measure(binary, arguments),
        What::Mooncake(arguments) => mooncake::measure(binary, arguments),
        What::Stream(arguments) => stream::measure(binary, arguments),
        What::Soak(arguments) => soak::measure(binary, arguments),
        What::Waste(arguments) => waste::measure(arguments),
        What::All(_) => Err("all is not one measurement".into()),
    }
}

/// One after the other. A measurement that fails does not keep the next from being made.
fn measure_all(binary: &Path, all: &AllArguments) -> Result<Vec<Report>, Box<dyn Error>> {
    let measure = |line: Vec<OsString>| {
        let words: Vec<String> = line.iter().map(|word| word.display().to_string()).collect();
        let title = words.join(" ");
        eprintln!("bench memory {title}");
        let One { what } = One::try_parse_from(line)?;
        let failed = |error: Box<dyn Error>| Report::failed(title, &*error);
        Ok(measure(binary, &what).unwrap_or_else(failed))
    };
    all.command_lines().into_iter().map(measure).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_command_lines_that_parse() {
        let all = AllArguments {
            small: "s.gguf".into(),
            medium: "m.gguf".into(),
            large: "l.gguf".into(),
            peer_dir: Some("bin".into()),
            cgroup: true,
        };
        let lines = all.command_lines();
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[4], ["shared-prefix", "m.gguf", "--peer-dir", "bin"]);
        for line in lines {
            One::try_parse_from(&line).expect("a measurement");
        }
    }
}
