//! Developer commands: `cargo xtask help` lists them.

mod bench;
mod command;
mod compare;
mod fixtures;
mod http;
mod machine;
mod oracle;
mod peer;
mod perplexity;
mod stats;
mod tidy;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use command::Run;

/// What a command ends with. Developers read these messages; no program matches on them.
type Outcome = Result<(), Box<dyn Error>>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands for kvist")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must pass: what `.ci/run` does
    Ci,
    /// The kernels' tests on an emulated Arm CPU: what `.ci/neon` does
    Neon,
    /// The web page in a browser, served by the real binary: what `.ci/page` does
    Page(PageArguments),
    /// House rules a program can check: edges, unsafe code, sizes, words, documents
    Tidy,
    /// Simulate random histories of the scheduler and report what they covered
    Sim(SimArguments),
    /// Throw bytes at one fuzz target, or at all of them, and report the first that break it
    Fuzz(FuzzArguments),
    /// Compare greedy output with llama.cpp, token by token, on one model file
    Oracle(oracle::Arguments),
    /// Compare the perplexity of a text with llama.cpp's
    Perplexity(perplexity::Arguments),
    /// Recompute the tiny models' golden outputs with an independent implementation
    Fixtures(fixtures::Arguments),
    /// Measure what kvist promises: `bench memory` for everything about memory, `bench race` for
    /// speed beside other engines
    Bench(bench::Arguments),
    /// Complete a model file that ends early: real header, real weights as far as they go, and
    /// random ones of their size behind
    Synth(SynthArguments),
}

#[derive(clap::Args)]
struct PageArguments {
    /// The model to serve; without one, the default model
    model: Option<PathBuf>,
}

#[derive(clap::Args)]
struct SynthArguments {
    /// A GGUF file whose header is whole
    header: PathBuf,
    /// Where to write the model; must not exist
    out: PathBuf,
}

#[derive(clap::Args)]
struct FuzzArguments {
    /// A target of `crates/fuzzing`, or all
    target: String,
    /// How long to try each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same seed makes the same inputs
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(clap::Args)]
struct SimArguments {
    /// Histories to simulate
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first: u64,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Ci => Run::new("bash").args([".ci/run"]).in_root().check(),
        Task::Neon => Run::new("bash").args([".ci/neon"]).in_root().check(),
        Task::Page(arguments) => page(&arguments),
        Task::Tidy => tidy(),
        Task::Sim(arguments) => sim(&arguments),
        Task::Fuzz(arguments) => fuzz(&arguments),
        Task::Oracle(arguments) => oracle::run(&arguments),
        Task::Perplexity(arguments) => perplexity::run(&arguments),
        Task::Fixtures(arguments) => fixtures::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Synth(arguments) => synth(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tidy() -> Outcome {
    let findings = tidy::check(&root())?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: no findings");
            Ok(())
        }
        count => Err(format!("{count} findings").into()),
    }
}

fn page(arguments: &PageArguments) -> Outcome {
    let model = arguments.model.iter().map(std::path::absolute);
    let model: Vec<PathBuf> = model.collect::<Result<_, _>>()?;
    let script = Run::new("bash").args([".ci/page"]);
    script.args(model).in_root().check()
}

/// The simulator is a feature of `sched` that no product enables, so it is reached by an example,
/// whose dependencies may differ from this program's.
fn sim(arguments: &SimArguments) -> Outcome {
    let SimArguments { seeds, first } = arguments;
    example("sim")
        .args([first.to_string(), seeds.to_string()])
        .check()
}

/// The targets need most rooms, which this program is built without.
fn fuzz(arguments: &FuzzArguments) -> Outcome {
    let FuzzArguments {
        target,
        seconds,
        seed,
    } = arguments;
    let run = ["run", "--quiet", "--package", "kvist-fuzzing"];
    Run::cargo()
        .args(run)
        .args(["--example", "drive", "--"])
        .args([target.clone(), seconds.to_string(), seed.to_string()])
        .check()
}

/// Quantising takes the kernels, which this program is built without.
fn synth(arguments: &SynthArguments) -> Outcome {
    let paths = [&arguments.header, &arguments.out];
    let absolute = paths.map(std::path::absolute);
    let [header, out] = absolute;
    example("synth").args([header?, out?]).check()
}

/// One of our examples, built and about to be run from the workspace's root.
fn example(name: &str) -> Run {
    Run::cargo().args([
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--example",
        name,
        "--",
    ])
}

/// The directory of the workspace this program was built in.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("xtask lives two levels below the root")
        .to_owned()
}
