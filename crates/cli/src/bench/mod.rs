//! `kvist bench`: how fast a model runs through the whole engine.
//!
//! | test | what runs | what is timed |
//! |---|---|---|
//! | `ppN` | one prompt of N tokens, one token of output | from submission to that token |
//! | `tgN @ B` | B sequences of N output tokens after one token of prompt | from when all B produce to when the first ends |
//! | `... dD` | the same behind D tokens of context, different ones for each sequence | the same: the context is there already |
//!
//! Prompts are pseudo-random tokens, never the same twice, and nothing but a context is computed
//! before it is timed. Contexts are prefixes that an earlier request left in the cache. One run of
//! each test goes uncounted unless `--no-warmup` counts it. What the machine gives at best is measured before and after.

mod measure;
mod report;
mod test;

use std::num::NonZeroUsize;

use kvist_base::{Bytes, Tokens};
use kvist_engine::plan::{Limits, Machine};
use kvist_engine::{Ceilings, CpuOptions, EngineHandle, EngineOptions, Isa, plan_file};

use crate::args::{BenchArgs, ContextLen};
use crate::environment::Environment;
use crate::error::{CliError, output_error};
use crate::exit::Exit;
use crate::model_ref;
use crate::session;
use crate::terminal::{print, say};

use measure::Workload;
use report::{Report, Streamed, TestResult};
use test::{Test, Work};

pub(crate) fn run(args: &BenchArgs, environment: &Environment) -> Result<Exit, CliError> {
    let tests = Test::all(args)?;
    let path = model_ref::resolve(&args.model, environment)?;
    let machine = session::machine()?;
    let limits = limits(args, &tests, &machine)?;
    let work = Work::new(&plan_file(&path, &machine, &limits)?.shape, &limits);
    let options = EngineOptions {
        limits,
        // Contexts are the only prefixes that come twice.
        prefix_caching: tests.iter().any(|test| test.depth > Tokens(0)),
        kv_idle_release: None,
        isa: args.compute.isa(environment)?,
        ..EngineOptions::default()
    };
    let cpu = CpuOptions {
        threads: NonZeroUsize::new(options.limits.threads as usize).unwrap_or(NonZeroUsize::MIN),
        isa: options.isa.unwrap_or_else(Isa::detect),
    };
    let before = ceilings(cpu)?;
    let engine = session::load(&path, &machine, &options)?;
    let handle = engine.handle();
    for test in &tests {
        check_room(test, &handle)?;
    }
    let results = measure(args, &tests, &handle)?;
    let metrics = handle.metrics();
    session::shut_down(engine)?;
    let report = Report {
        info: handle.info(),
        work,
        ceilings: before.max(ceilings(cpu)?),
        streamed: Streamed {
            step: handle.info().plan.offload.bytes,
            bytes: Bytes(metrics.weights_streamed_bytes),
            seconds: metrics.weights_streamed_seconds,
        },
        results: &results,
    };
    let text = if args.json {
        format!("{:#}\n", report.to_json())
    } else {
        report.to_string()
    };
    print(&text).map_err(|error| output_error(&error))?;
    Ok(Exit::Ok)
}

fn ceilings(cpu: CpuOptions) -> Result<Ceilings, CliError> {
    Ceilings::measure(cpu).map_err(|error| {
        CliError::new(
            Exit::Other,
            "what the machine gives at best cannot be measured",
        )
        .because(error.to_string())
    })
}

fn measure(
    args: &BenchArgs,
    tests: &[Test],
    engine: &EngineHandle,
) -> Result<Vec<TestResult>, CliError> {
    let runtime = session::runtime()?;
    let mut workload = Workload::new(engine.info().vocab_len);
    let mut results = Vec::with_capacity(tests.len());
    for test in tests {
        say(&format!("{} x {}", test.name(), args.repetitions));
        if !args.no_warmup {
            runtime.block_on(workload.rate(test, engine))?;
        }
        let mut rates = Vec::with_capacity(args.repetitions as usize);
        for _ in 0..args.repetitions {
            rates.push(runtime.block_on(workload.rate(test, engine))?);
        }
        results.push(TestResult::new(*test, rates));
    }
    Ok(results)
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

    #[test]
    fn the_engine_is_as_large_as_the_largest_test() {
        let Command::Bench(args) =
            Cli::parse_for_test("kvist bench -p 100 -n 300 --batch 2,8 --depth 0,50")
        else {
            panic!("not a benchmark")
        };
        let machine = Machine {
            mem_total: Bytes::GIB,
            mem_available: Bytes::GIB,
            cgroup_limit: None,
            cgroup_used: None,
            cores: 2,
        };
        let limits = limits(&args, &Test::all(&args).unwrap(), &machine).unwrap();
        assert_eq!(
            (limits.model_len, limits.running_max),
            (Some(Tokens(350)), 8)
        );
    }
}
