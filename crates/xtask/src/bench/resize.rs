//! The budget of a running server is halved and restored, again and again, under load.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Measured;
use super::load::{Tally, closed_loop, trace_ask};
use super::memory::{ProcessMemory, await_rss};
use super::report::{Report, Size, Table};
use super::service::{Launch, Service};
use super::trace::azure_within;

/// Promised: memory follows a smaller budget within this.
const FOLLOW: Duration = Duration::from_secs(5);
/// How long the smaller budget is kept.
const HALVED: Duration = Duration::from_secs(8);
/// How long the load may take to need more than the smaller budget.
const FILL: Duration = Duration::from_secs(120);
const CLIENTS: usize = 16;
/// Requests of the longest kind that the smaller pool has room for.
const LONGEST_AT_ONCE: u64 = 4;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A model file
    model: PathBuf,
    /// Times the budget is halved and restored
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Tokens of the KV pool under the smaller budget
    #[arg(long, default_value_t = 8192)]
    tokens: u64,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    // The longest request decides how small a budget can become: a pool holds at least that one.
    let model_len = arguments.tokens / LONGEST_AT_ONCE;
    let launch = |budget: u64| {
        let (budget, model_len) = (budget.to_string(), model_len.to_string());
        let flags = ["--memory", &budget, "--max-model-len", &model_len];
        Launch::new(binary, &arguments.model, &flags)
    };
    let least = launch(1 << 20).plan()?;
    let pool = arguments.tokens * least.bytes_per_token;
    let half = least.base() + pool + pool / 50;
    let (rows, factor) = azure_within(model_len);
    let launch = launch(2 * half);
    let vocab_len = launch.plan()?.vocab_len;
    let service = launch.start()?;

    let is_over = AtomicBool::new(false);
    let source = |idx| {
        let goes_on = !is_over.load(Ordering::Relaxed);
        goes_on.then(|| trace_ask(&rows, vocab_len, idx))
    };
    let (tally, rounds) = thread::scope(|scope| {
        let load = scope.spawn(|| closed_loop(service.http, CLIENTS, &source));
        let rounds = (0..arguments.rounds)
            .map(|_| round(&service, half))
            .collect::<Vec<_>>();
        is_over.store(true, Ordering::Relaxed);
        (load.join().expect("no client panics"), rounds)
    });

    let mut report = Report::new("The budget of a running server, halved and restored under load");
    report.setup(format!(
        "{CLIENTS} clients in a closed loop, lengths of the Azure trace times {factor:.3}; {} and {}",
        Size(2 * half),
        Size(half)
    ));
    let mut table = Table::new([
        "round",
        "halved: answer",
        "RSS before",
        "RSS under the budget after",
        "restored: answer",
    ]);
    for (idx, round) in rounds.iter().enumerate() {
        table.row(round.cells(idx + 1));
    }
    report.table(table);
    judge(&mut report, half, (&rounds, &tally));
    Ok(report)
}

fn judge(report: &mut Report, half: u64, (rounds, tally): (&[Round], &Tally)) {
    let followed = rounds
        .iter()
        .filter(|round| round.followed.is_some())
        .count();
    let promised = format!(
        "{} s after each of {} changes",
        FOLLOW.as_secs(),
        rounds.len()
    );
    report.promise(
        "RSS at most the smaller budget",
        (promised, format!("after {followed}")),
        followed == rounds.len(),
    );
    let held_more = rounds.iter().filter(|round| round.before > half).count();
    let promised = format!("before each of {} changes", rounds.len());
    report.promise(
        "the load needed more than the smaller budget",
        (promised, format!("before {held_more}")),
        held_more == rounds.len(),
    );
    let refused: Vec<&str> = rounds.iter().flat_map(Round::refusals).collect();
    let found = refused.first().map_or("all", |what| *what);
    report.promise("changes are accepted", ("all", found), refused.is_empty());
    let is_whole = tally.others(&[200]) == 0 && tally.count(200) > 0;
    let found = format!("{}; {}", tally.summary(), tally.latency());
    report.promise("no request fails", ("all 200", found), is_whole);
}

/// The smaller budget and the larger one again.
struct Round {
    before: u64,
    halved: Result<Duration, String>,
    followed: Option<Duration>,
    restored: Result<Duration, String>,
}

fn round(service: &Service, half: u64) -> Round {
    let before = await_more(service, half);
    let begun = Instant::now();
    let halved = change(service, half);
    let rest = FOLLOW.saturating_sub(begun.elapsed());
    let followed = await_rss(service.pid(), half, rest).map(|_| begun.elapsed());
    thread::sleep(HALVED);
    Round {
        before,
        halved,
        followed,
        restored: change(service, 2 * half),
    }
}

/// Waits until more than `bytes` are resident, or for long enough, and says how many are.
fn await_more(service: &Service, bytes: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let rss = ProcessMemory::of(service.pid()).map_or(0, |memory| memory.rss);
        if rss > bytes || begun.elapsed() > FILL {
            return rss;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// How long the server took to accept, or what it said.
fn change(service: &Service, budget: u64) -> Result<Duration, String> {
    let begun = Instant::now();
    match service.set_budget(budget) {
        Ok(_) => Ok(begun.elapsed()),
        Err(error) => Err(error.to_string()),
    }
}

impl Round {
    fn refusals(&self) -> impl Iterator<Item = &str> {
        let changes = [&self.halved, &self.restored].into_iter();
        changes.filter_map(|change| change.as_ref().err().map(String::as_str))
    }

    fn cells(&self, number: usize) -> [String; 5] {
        let time = |change: &Result<Duration, String>| match change {
            Ok(time) => format!("{:.3} s", time.as_secs_f64()),
            Err(_) => "refused".to_owned(),
        };
        let followed = match self.followed {
            Some(time) => format!("{:.2} s", time.as_secs_f64()),
            None => format!("not in {} s", FOLLOW.as_secs()),
        };
        let before = Size(self.before).to_string();
        [
            number.to_string(),
            time(&self.halved),
            before,
            followed,
            time(&self.restored),
        ]
    }
}
