//! The budget is a cap: four times more clients than the server has places for, at the lengths of a
//! real service. And it is elastic: what they needed is given back when they are gone.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Measured;
use super::load::{Tally, closed_loop, trace_ask};
use super::memory::{Cgroup, CgroupCounts, Series, await_rss, high_water};
use super::report::{Report, Size, Table};
use super::service::{Launch, Metrics, Plan, Service};
use super::trace::azure_within;

/// Sequences that run at once and requests that wait, and clients for each of these places.
const RUNNING: usize = 32;
const WAITING: usize = 32;
const CLIENTS_PER_PLACE: usize = 4;
/// How long after the load memory may take to be given back.
const GIVE_BACK: Duration = Duration::from_secs(15);
/// What may be held over the plan for an idle server.
const IDLE_PERCENT: u64 = 2;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model file
    model: PathBuf,
    /// Seconds of load on each server; its last requests are answered after them
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Budgets: sizes such as 1GiB, or shares of the machine's memory such as 0.15
    #[arg(long, value_delimiter = ',', default_values = ["0.15", "1GiB"])]
    budgets: Vec<String>,
    /// Run each server in a control group whose limit is its budget
    #[arg(long)]
    cgroup: bool,
    /// Divide all lengths, for a shorter run: the trace then fits this part of the context
    #[arg(long, default_value_t = 1)]
    divisor: u64,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    let mut report = Report::new("The budget under overload, and what is given back");
    let clients = CLIENTS_PER_PLACE * (RUNNING + WAITING);
    report.setup(format!(
        "{clients} clients for {} s, each asking again when answered (after 429: 1 s later); room for {RUNNING} running and {WAITING} waiting",
        arguments.seconds
    ));
    report.setup("memory sampled every 50 ms from the start of the process; the high-water mark is the kernel's");
    let mut table = Table::new(["", "figure"]);
    for budget in &arguments.budgets {
        let run = overload(binary, arguments, budget)?;
        describe(&mut table, budget, &run);
        judge(&mut report, budget, &run);
    }
    report.table(table);
    Ok(report)
}

/// What one server did.
struct Overloaded {
    plan: Plan,
    factor: f64,
    seconds: f64,
    tally: Tally,
    series: Series,
    high_water: u64,
    given_back: Option<Duration>,
    idle_limit: u64,
    idle_rss: u64,
    free: u64,
    /// Blocks of the server's pool.
    total: u64,
    metrics: Metrics,
    cgroup: Option<CgroupCounts>,
}

fn overload(
    binary: &Path,
    arguments: &Arguments,
    budget: &str,
) -> Result<Overloaded, Box<dyn Error>> {
    let flag = match budget.parse::<f64>() {
        Ok(_) => "--gpu-memory-utilization",
        Err(_) => "--memory",
    };
    let (running, waiting) = (RUNNING.to_string(), WAITING.to_string());
    let flags = [flag, budget, "--max-num-seqs", &running];
    let mut launch =
        Launch::new(binary, &arguments.model, &flags).serving(&["--max-waiting", &waiting]);
    let plan = launch.plan()?;
    let group = arguments
        .cgroup
        .then(|| Cgroup::new(plan.budget))
        .transpose()?;
    // A share would be one of the group's limit: inside, the budget is given in bytes.
    let bytes = plan.budget.to_string();
    if group.is_some() {
        launch.flags.splice(..2, ["--memory".to_owned(), bytes]);
        launch.cgroup = group.as_ref();
    }
    let mut service = launch.start()?;
    let (rows, factor) = azure_within(plan.model_len / arguments.divisor.max(1));
    let begun = Instant::now();
    let until = begun + Duration::from_secs(arguments.seconds);
    let source = |idx| (Instant::now() < until).then(|| trace_ask(&rows, plan.vocab_len, idx));
    let tally = closed_loop(
        service.http,
        CLIENTS_PER_PLACE * (RUNNING + WAITING),
        &source,
    );
    let seconds = begun.elapsed().as_secs_f64();
    refuse_end(&mut service, &tally)?;

    let idle_limit = plan.idle() + plan.idle() * IDLE_PERCENT / 100;
    let idle_since = Instant::now();
    let given_back = await_rss(service.pid(), idle_limit, GIVE_BACK);
    let rest = GIVE_BACK.saturating_sub(idle_since.elapsed());
    let total = service.metrics()?.blocks_total()?;
    let free = service.await_free(total, rest)?;
    let series = service.take_series();
    Ok(Overloaded {
        idle_rss: super::memory::ProcessMemory::of(service.pid())?.rss,
        high_water: high_water(service.pid())?,
        metrics: service.metrics()?,
        cgroup: group.as_ref().map(Cgroup::counts).transpose()?,
        plan,
        factor,
        seconds,
        tally,
        series,
        given_back,
        idle_limit,
        free,
        total,
    })
}

/// A server that is gone has broken every promise; there is nothing left to measure.
fn refuse_end(service: &mut Service, tally: &Tally) -> Result<(), Box<dyn Error>> {
    match service.ended() {
        None => Ok(()),
        Some(status) => Err(format!(
            "the server ended under load: {status}; before that: {}",
            tally.summary()
        )
        .into()),
    }
}

fn describe(table: &mut Table, budget: &str, run: &Overloaded) {
    let peak = |what: fn(&super::memory::ProcessMemory) -> u64| Size(run.series.peak(what));
    let given_back = match run.given_back {
        Some(time) => format!("{:.1} s after the load", time.as_secs_f64()),
        None => "never".to_owned(),
    };
    #[allow(clippy::cast_precision_loss)] // a rate
    let rate = run.tally.output_tokens as f64 / run.seconds;
    let mut rows = vec![
        ("budget", Size(run.plan.budget).to_string()),
        ("planned", Size(run.plan.total).to_string()),
        ("peak RSS", peak(|memory| memory.rss).to_string()),
        ("peak PSS", peak(|memory| memory.pss).to_string()),
        (
            "peak of own memory",
            peak(|memory| memory.own()).to_string(),
        ),
        ("high-water mark of RSS", Size(run.high_water).to_string()),
        ("samples", run.series.count().to_string()),
        ("lengths of the trace times", format!("{:.3}", run.factor)),
        ("seconds", format!("{:.0}", run.seconds)),
        ("requests", run.tally.total().to_string()),
        ("answers", run.tally.summary()),
        ("time to a whole answer", run.tally.latency()),
        ("output tokens a second", format!("{rate:.1}")),
        ("idle plan", Size(run.plan.idle()).to_string()),
        ("RSS when idle", Size(run.idle_rss).to_string()),
        ("at the idle plan", given_back),
    ];
    if let Ok(preemptions) = run.metrics.count("vllm:num_preemptions_total", "") {
        rows.push(("preemptions", preemptions.to_string()));
    }
    if let Some(counts) = run.cgroup {
        rows.push(("control group: peak", Size(counts.peak).to_string()));
        rows.push(("control group: limit met", counts.limit_met.to_string()));
    }
    for (what, figure) in rows {
        table.row([format!("{budget}: {what}"), figure]);
    }
    for what in &run.tally.told {
        table.row([format!("{budget}: went wrong"), what.clone()]);
    }
}

fn judge(report: &mut Report, budget: &str, run: &Overloaded) {
    let rss = run.series.peak(|memory| memory.rss);
    report.promise_bytes(format!("{budget}: RSS, sampled"), (run.plan.budget, rss));
    let others = run.tally.others(&[200, 400, 429]);
    let is_answered = others == 0 && run.tally.count(200) > 0;
    report.promise(
        format!("{budget}: every request is answered"),
        ("200, 400 or 429", run.tally.summary()),
        is_answered,
    );
    let faults = run
        .metrics
        .count("vllm:request_success_total", "finished_reason=\"error\"");
    let found = faults
        .as_ref()
        .map_or_else(ToString::to_string, u64::to_string);
    let has_none = faults.is_ok_and(|count| count == 0);
    report.promise(
        format!("{budget}: engine faults"),
        ("none", found),
        has_none,
    );
    let promised = format!("{} within {} s", Size(run.idle_limit), GIVE_BACK.as_secs());
    report.promise(
        format!("{budget}: RSS when idle, at most the idle plan and {IDLE_PERCENT} %"),
        (promised, Size(run.idle_rss)),
        run.given_back.is_some(),
    );
    report.promise(
        format!("{budget}: free blocks when idle"),
        (format!("{}, all of them", run.total), run.free),
        run.free == run.total,
    );
    if let Some(counts) = run.cgroup {
        report.promise(
            format!("{budget}: killed for want of memory"),
            ("never", counts.killed),
            counts.killed == 0,
        );
    }
}
