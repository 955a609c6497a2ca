//! `kvist bench`: how fast a model runs through the whole engine.
//!
//! | test | what runs | what is timed |
//! |---|---|---|
//! | `ppN` | one prompt of N tokens, one token of output | from submission to that token |
//! | `tgN` | B sequences of N output tokens after one token of prompt | from when all B produce to when the first ends |
//!
//! Prompts are pseudo-random tokens, never the same twice, and prefix caching is off: nothing is
//! computed before it is timed. One run of each test goes uncounted.

mod measure;
mod report;

use std::path::Path;

use kvist_base::{Bytes, Tokens};
use kvist_engine::plan::{Limits, Machine, WeightKind};
use kvist_engine::{EngineHandle, EngineOptions, plan_file};

use crate::args::{BenchArgs, ContextLen};
use crate::environment::Environment;
use crate::error::{CliError, output_error};
use crate::exit::Exit;
use crate::model_ref;
use crate::session;
use crate::terminal::{print, say};

use measure::{DECODE_PROMPT, Workload};
use report::{Report, Streamed, TestResult};

pub(crate) fn run(args: &BenchArgs, environment: &Environment) -> Result<Exit, CliError> {
    let tests = tests(args)?;
    let path = model_ref::resolve(&args.model, environment)?;
    let machine = session::machine()?;
    let limits = limits(args, &tests, &machine)?;
    let weights_read = weights_read(&path, &machine, &limits)?;
    let options = EngineOptions {
        limits,
        prefix_caching: false,
        isa: args.compute.isa(environment)?,
        ..EngineOptions::default()
    };
    let engine = session::load(&path, &machine, &options)?;
    let handle = engine.handle();
    for test in &tests {
        check_room(test, &handle)?;
    }

    let runtime = session::runtime()?;
    let mut workload = Workload::new(handle.info().vocab_len);
    let mut results = Vec::with_capacity(tests.len());
    for test in &tests {
        say(&format!("{} x {}", test.name(), args.repetitions));
        runtime.block_on(workload.rate(test, &handle))?;
        let mut rates = Vec::with_capacity(args.repetitions as usize);
        for _ in 0..args.repetitions {
            rates.push(runtime.block_on(workload.rate(test, &handle))?);
        }
        results.push(TestResult::new(*test, rates));
    }
    let metrics = handle.metrics();
    let streamed = Streamed {
        step: handle.info().plan.offload.bytes,
        bytes: Bytes(metrics.weights_streamed_bytes),
        seconds: metrics.weights_streamed_seconds,
    };
    let report = Report {
        info: handle.info(),
        weights_read,
        streamed,
        results: &results,
    };
    let text = if args.json {
        format!("{:#}\n", report.to_json())
    } else {
        report.to_string()
    };
    print(&text).map_err(|error| output_error(&error))?;
    session::shut_down(engine)?;
    Ok(Exit::Ok)
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Prefill { prompt: Tokens },
    Decode { output: Tokens, batch: u32 },
}

impl Test {
    fn name(&self) -> String {
        match self {
            Self::Prefill { prompt } => format!("pp{}", prompt.0),
            Self::Decode { output, batch: 1 } => format!("tg{}", output.0),
            Self::Decode { output, batch } => format!("tg{} @ {batch}", output.0),
        }
    }

    fn batch(&self) -> u32 {
        match self {
            Self::Prefill { .. } => 1,
            Self::Decode { batch, .. } => *batch,
        }
    }

    /// Length a sequence of the test reaches.
    fn model_len(&self) -> Tokens {
        match self {
            Self::Prefill { prompt } => Tokens(prompt.0.saturating_add(1)),
            Self::Decode { output, .. } => Tokens(output.0.saturating_add(DECODE_PROMPT.0)),
        }
    }
}

fn tests(args: &BenchArgs) -> Result<Vec<Test>, CliError> {
    if args.output_tokens == 1 {
        return Err(CliError::new(Exit::Usage, "-n 1 measures nothing")
            .because("a rate needs the time between two tokens at least")
            .fix("-n 128")
            .fix("-n 0    to leave the test out"));
    }
    if args.batch.contains(&0) {
        return Err(CliError::new(Exit::Usage, "--batch 0 measures nothing").fix("--batch 1"));
    }
    let prefill = Test::Prefill {
        prompt: Tokens(args.prompt_tokens),
    };
    let decode = |&batch: &u32| Test::Decode {
        output: Tokens(args.output_tokens),
        batch,
    };
    let prefill = (args.prompt_tokens > 0).then_some(prefill);
    let decodes = args
        .batch
        .iter()
        .filter(|_| args.output_tokens > 0)
        .map(decode);
    Ok(prefill.into_iter().chain(decodes).collect())
}

/// No more than the tests need, so that a large model leaves room for its batch.
fn limits(args: &BenchArgs, tests: &[Test], machine: &Machine) -> Result<Limits, CliError> {
    let limits = args.memory.limits_for_one(machine)?;
    let longest = tests.iter().map(Test::model_len).max();
    let model_len = match args.memory.max_model_len {
        ContextLen::Auto => longest,
        ContextLen::Tokens(len) => Some(len),
    };
    let running_max = tests.iter().map(Test::batch).max().unwrap_or(1);
    Ok(Limits {
        model_len,
        running_max,
        ..limits
    })
}

/// Bytes of weights one step reads, however many sequences it serves. Mapped tables are looked
/// up, not read through.
fn weights_read(path: &Path, machine: &Machine, limits: &Limits) -> Result<Bytes, CliError> {
    let shape = plan_file(path, machine, limits)?.shape;
    let resident = shape
        .weights
        .iter()
        .filter(|line| line.kind == WeightKind::Resident);
    Ok(resident.map(|line| line.bytes).sum())
}

/// A batch that does not fit as a whole would be measured with preemptions in it.
fn check_room(test: &Test, engine: &EngineHandle) -> Result<(), CliError> {
    let plan = &engine.info().plan;
    let (kv, block_size) = (&plan.kv, session::block_size(plan));
    let needed = u64::from(test.model_len().div_ceil(block_size).0) * u64::from(test.batch());
    if needed <= u64::from(kv.blocks.0) {
        return Ok(());
    }
    let what = format!(
        "{} does not fit: {needed} KV blocks needed, {} there",
        test.name(),
        kv.blocks.0
    );
    Err(CliError::new(Exit::DoesNotFit, what)
        .fix("a smaller batch: --batch 1")
        .fix("fewer tokens: -n 32")
        .fix("more memory: --memory SIZE"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &str) -> BenchArgs {
        match Cli::parse_for_test(line) {
            Command::Bench(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_tests() {
        let names = |line: &str| -> Vec<String> {
            tests(&parse(line))
                .unwrap()
                .iter()
                .map(Test::name)
                .collect()
        };
        assert_eq!(
            names("kvist bench"),
            ["pp512", "tg128", "tg128 @ 4", "tg128 @ 16"]
        );
        assert_eq!(names("kvist bench -p 0 -n 8 --batch 2"), ["tg8 @ 2"]);
        assert_eq!(names("kvist bench -p 7 -n 0"), ["pp7"]);
        for bad in ["kvist bench -n 1", "kvist bench --batch 1,0"] {
            assert_eq!(tests(&parse(bad)).unwrap_err().exit, Exit::Usage);
        }
    }

    #[test]
    fn the_engine_is_as_large_as_the_largest_test() {
        let args = parse("kvist bench -p 100 -n 300 --batch 2,8");
        let machine = Machine {
            mem_total: Bytes::GIB,
            mem_available: Bytes::GIB,
            cgroup_limit: None,
            cgroup_used: None,
            cores: 2,
        };
        let limits = limits(&args, &tests(&args).unwrap(), &machine).unwrap();
        assert_eq!(
            (limits.model_len, limits.running_max),
            (Some(Tokens(301)), 8)
        );
    }
}
