//! Nothing grows: hours of mixed requests, some of which are left or wrong, and the memory of the
//! idle server between them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::Measured;
use super::load::{Ask, Tally, closed_loop, tokens, trace_ask};
use super::memory::ProcessMemory;
use super::report::{Report, Size, Table};
use super::service::{Launch, Plan, Service};
use super::trace::{Lengths, azure_within};
use crate::stats::{median, slope};

/// Promised: growth of the idle server.
const MIB_PER_HOUR_MAX: f64 = 1.0;
/// Longest request. Moderate, so that a phase has many.
const LONGEST: u64 = 1024;
const CLIENTS: usize = 8;
/// How long a pause waits for memory to be given back.
const GIVE_BACK: Duration = Duration::from_secs(20);
/// Every so many requests one is left early, and one is wrong.
const LEFT_EVERY: u64 = 7;
const WRONG_EVERY: u64 = 11;
/// Least points a slope is made of.
const POINTS_MIN: usize = 3;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model file
    model: PathBuf,
    /// Minutes in all
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Minutes before the first point counts
    #[arg(long, default_value_t = 10.0)]
    warm_up: f64,
    /// Seconds of load between two points
    #[arg(long, default_value_t = 100)]
    seconds: u64,
    /// The budget
    #[arg(long, default_value = "1GiB")]
    memory: String,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    let launch = Launch::new(binary, &arguments.model, &["--memory", &arguments.memory]);
    let plan = launch.plan()?;
    let (rows, factor) = azure_within(plan.model_len.min(LONGEST));
    let mut service = launch.start()?;
    let begun = Instant::now();
    let mut phases = Vec::new();
    let mut first = 0;
    while begun.elapsed().as_secs_f64() < arguments.minutes * 60.0 {
        let until = Instant::now() + Duration::from_secs(arguments.seconds);
        let source = |idx| (Instant::now() < until).then(|| ask(&rows, &plan, first + idx));
        let tally = closed_loop(service.http, CLIENTS, &source);
        if let Some(status) = service.ended() {
            return Err(format!("the server ended: {status}").into());
        }
        first += tally.total();
        let (rss, free) = pause(&service, &plan)?;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        phases.push(Phase {
            minutes,
            rss,
            free,
            tally,
        });
    }
    report(arguments, &plan, (factor, &phases))
}

/// One load and the pause after it.
struct Phase {
    minutes: f64,
    rss: f64,
    free: u64,
    tally: Tally,
}

fn ask(rows: &[Lengths], plan: &Plan, idx: u64) -> Ask {
    let mut ask = trace_ask(rows, plan.vocab_len, idx);
    if idx % WRONG_EVERY == WRONG_EVERY - 1 {
        // No such token.
        ask.prompt = tokens(idx, 8, plan.vocab_len);
        ask.prompt.push(plan.vocab_len);
    } else if idx % LEFT_EVERY == LEFT_EVERY - 1 {
        ask.leave_after = Some(2);
        ask.output_len = ask.output_len.max(16);
    }
    ask
}

/// Waits for memory to be given back; RSS in bytes, the median of a second, and free blocks then.
fn pause(service: &Service, plan: &Plan) -> Result<(f64, u64), Box<dyn Error>> {
    let free = service.await_free(plan.blocks, GIVE_BACK)?;
    // What was given back takes a moment to leave the page table.
    thread::sleep(Duration::from_secs(2));
    let mut samples = Vec::new();
    for _ in 0..20 {
        #[allow(clippy::cast_precision_loss)] // pages
        samples.push(ProcessMemory::of(service.pid())?.rss as f64);
        thread::sleep(Duration::from_millis(50));
    }
    Ok((median(&samples), free))
}

fn report(arguments: &Arguments, plan: &Plan, (factor, phases): (f64, &[Phase])) -> Measured {
    let mut report = Report::new("Memory of the idle server over time");
    report.setup(format!(
        "{CLIENTS} clients for {} s, then a pause until all blocks are free, and so on for {} min; lengths of the Azure trace times {factor:.3}; one request in {LEFT_EVERY} left by its client, one in {WRONG_EVERY} wrong",
        arguments.seconds, arguments.minutes
    ));
    report.setup(format!(
        "points: median RSS of one second in each pause, those after {} min count",
        arguments.warm_up
    ));
    let mut table = Table::new(["minute", "idle RSS", "free blocks", "answers"]);
    for phase in phases {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it was whole pages
        let rss = Size(phase.rss as u64);
        table.row([
            format!("{:.1}", phase.minutes),
            rss.to_string(),
            format!("{} of {}", phase.free, plan.blocks),
            phase.tally.summary(),
        ]);
    }
    report.table(table);
    let points: Vec<(f64, f64)> = phases
        .iter()
        .filter(|phase| phase.minutes >= arguments.warm_up)
        .map(|phase| (phase.minutes / 60.0, phase.rss / f64::from(1 << 20)))
        .collect();
    if points.len() < POINTS_MIN {
        return Err(format!(
            "{report}\n{} points after the warm-up, at least {POINTS_MIN} needed: more --minutes",
            points.len()
        )
        .into());
    }
    let growth = slope(&points);
    let promised = format!("less than {MIB_PER_HOUR_MAX} MiB an hour");
    report.promise(
        "growth of idle RSS",
        (promised, format!("{growth:+.2} MiB an hour")),
        growth < MIB_PER_HOUR_MAX,
    );
    let lost = phases
        .iter()
        .map(|phase| plan.blocks.saturating_sub(phase.free))
        .max()
        .unwrap_or(0);
    report.promise("blocks not free in a pause", ("none", lost), lost == 0);
    let others: u64 = phases
        .iter()
        .map(|phase| phase.tally.others(&[200, 400, 429]))
        .sum();
    report.promise("requests not answered", ("none", others), others == 0);
    Ok(report)
}
