//! The plan is the truth: `kvist plan`'s sum beside the most memory the server ever held, with the
//! KV pool full, every place in the batch taken, and steps as long as they get.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::Measured;
use super::load::{Ask, Tally, closed_loop, tokens};
use super::memory::high_water;
use super::report::{Report, Size, Table, difference_percent};
use super::service::{Launch, Plan, Service};

/// Promised: planned and measured differ by no more than this.
const PERCENT_MAX: f64 = 2.0;
/// A load that left more of the pool free than this did not fill it.
const FREE_PERCENT_MAX: u64 = 1;
/// Sequences that run at once.
const RUNNING: u64 = 16;
/// The server's default.
const BLOCK_SIZE: u64 = 16;
const STEP_TOKENS: u64 = 512;
/// Weight bytes times prompt tokens that two cores get through in a minute, or so.
const MINUTE: u64 = 5_800_000_000_000;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Model files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Tokens of the largest KV pool; the others are a half and three quarters [default: about a minute
    /// of computing]
    #[arg(long)]
    tokens: Option<u64>,
}

pub fn measure(binary: &Path, arguments: &Arguments) -> Measured {
    let mut report = Report::new("Planned and measured memory, everything full");
    report.setup(format!(
        "{RUNNING} clients fill {RUNNING} places and the whole KV pool twice over; prompts make steps of {STEP_TOKENS} tokens"
    ));
    report.setup(
        "own: PSS less clean pages of files, the most of samples 50 ms apart, loading included",
    );
    report.setup("planned: the plan's sum less lines that are in the model file's pages; without speculation and structured outputs");
    let mut table = Table::new([
        "model",
        "budget",
        "planned",
        "own",
        "difference",
        "peak RSS",
        "blocks",
        "least free",
        "most running",
    ]);
    for model in &arguments.models {
        let least = launch(binary, model, 1 << 20).plan()?;
        let most = arguments
            .tokens
            .unwrap_or(MINUTE / least.weight_bytes.max(1));
        for quarters in [2, 3, 4] {
            let pool = (most / 4 * quarters).max(2 * RUNNING * BLOCK_SIZE) * least.bytes_per_token;
            // One part in a hundred more for what describes the pool.
            let budget = least.base() + pool + pool / 100;
            let filled = fill(&launch(binary, model, budget))?;
            add(&mut report, &mut table, (model, &filled));
        }
    }
    report.table(table);
    Ok(report)
}

fn launch<'a>(binary: &'a Path, model: &'a Path, budget: u64) -> Launch<'a> {
    let (budget, running) = (budget.to_string(), RUNNING.to_string());
    Launch::new(
        binary,
        model,
        &[
            "--memory",
            &budget,
            "--max-num-seqs",
            &running,
            // Indices of drafts fill with what texts repeat, and these repeat nothing.
            "--speculative",
            "off",
            // Nor does anybody ask for a form.
            "--no-structured-outputs",
        ],
    )
}

/// What one server held when it was full.
struct Filled {
    plan: Plan,
    own: u64,
    rss: u64,
    fullest: Fullest,
    tally: Tally,
}

fn fill(launch: &Launch) -> Result<Filled, Box<dyn std::error::Error>> {
    let plan = launch.plan()?;
    if !plan.fits {
        return Err(format!(
            "{} does not fit {}",
            launch.model.display(),
            Size(plan.budget)
        )
        .into());
    }
    let mut service = launch.start()?;
    let is_over = AtomicBool::new(false);
    let (tally, fullest) = thread::scope(|scope| {
        let watch = scope.spawn(|| Fullest::watch(&service, &is_over));
        let source = |idx| (idx < 2 * RUNNING).then(|| ask(&plan, idx));
        let running = usize::try_from(RUNNING).expect("a few");
        let tally = closed_loop(service.http, running, &source);
        is_over.store(true, Ordering::Relaxed);
        (tally, watch.join().expect("the watcher does not panic"))
    });
    let rss = high_water(service.pid())?;
    let own = service.take_series().peak(|memory| memory.own());
    Ok(Filled {
        plan,
        own,
        rss,
        fullest,
        tally,
    })
}

/// A request that together with its like needs a block more each than the pool has for them: it
/// runs out for certain. Outputs are long enough for all prompts to be computed meanwhile.
fn ask(plan: &Plan, idx: u64) -> Ask {
    let len = ((plan.blocks.div_ceil(RUNNING) + 1) * BLOCK_SIZE).min(plan.model_len);
    let steps = (len * RUNNING).div_ceil(STEP_TOKENS - RUNNING);
    let output_len = (steps + 32).min(len / 2);
    let as_len = |len: u64| u32::try_from(len).expect("shorter than a context");
    let prompt_len = as_len(len - output_len) as usize;
    Ask::new(tokens(idx, prompt_len, plan.vocab_len), as_len(output_len))
}

/// How full the server was at its fullest.
#[derive(Clone, Copy, Debug)]
struct Fullest {
    free_min: u64,
    running_max: u64,
}

impl Fullest {
    fn watch(service: &Service, is_over: &AtomicBool) -> Self {
        let mut fullest = Self {
            free_min: u64::MAX,
            running_max: 0,
        };
        while !is_over.load(Ordering::Relaxed) {
            // A page that cannot be had now can be had the next time; none at all shows as unfilled.
            if let Ok(metrics) = service.metrics() {
                let free = metrics.blocks("free").unwrap_or(u64::MAX);
                let running = metrics.count("vllm:num_requests_running", "").unwrap_or(0);
                fullest.free_min = fullest.free_min.min(free);
                fullest.running_max = fullest.running_max.max(running);
            }
            thread::sleep(Duration::from_millis(100));
        }
        fullest
    }
}

fn add(report: &mut Report, table: &mut Table, (model, filled): (&Path, &Filled)) {
    let Filled {
        plan,
        own,
        rss,
        fullest,
        tally,
    } = filled;
    let name = model
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let percent = difference_percent(*own, plan.own());
    table.row([
        name.clone(),
        Size(plan.budget).to_string(),
        Size(plan.own()).to_string(),
        Size(*own).to_string(),
        format!("{percent:+.1} %"),
        Size(*rss).to_string(),
        plan.blocks.to_string(),
        fullest.free_min.to_string(),
        fullest.running_max.to_string(),
    ]);
    let case = format!("{name} at {}", Size(plan.budget));
    let found = format!("{percent:+.1} %");
    let is_close = percent.abs() <= PERCENT_MAX;
    let promised = format!("within {PERCENT_MAX} %");
    report.promise(
        format!("{case}: planned is measured"),
        (promised, found),
        is_close,
    );
    let is_full =
        fullest.free_min * 100 <= plan.blocks * FREE_PERCENT_MAX && fullest.running_max >= RUNNING;
    let found = format!("{} free, {} running", fullest.free_min, fullest.running_max);
    let promised = format!("at most {FREE_PERCENT_MAX} % of blocks free, {RUNNING} running");
    report.promise(
        format!("{case}: the load filled it"),
        (promised, found),
        is_full,
    );
    let is_answered = tally.others(&[200]) == 0;
    report.promise(
        format!("{case}: answers"),
        ("all 200", tally.summary()),
        is_answered,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(blocks: u64, model_len: u64) -> Plan {
        Plan {
            total: 0,
            mapped: 0,
            kv_pool: 0,
            kv_tables: 0,
            budget: 0,
            block_bytes: 0,
            blocks,
            bytes_per_token: 0,
            model_len,
            weight_bytes: 0,
            vocab_len: 49152,
            fits: true,
        }
    }

    #[test]
    fn as_many_requests_as_run_at_once_need_more_than_the_pool_and_fit_alone() {
        for blocks in [32, 100, 1260, 5000] {
            let ask = ask(&plan(blocks, 8192), 3);
            let len = ask.prompt.len() as u64 + u64::from(ask.output_len);
            assert!(len * RUNNING > blocks * BLOCK_SIZE, "{blocks} blocks");
            assert!(len <= blocks * BLOCK_SIZE, "{blocks} blocks");
        }
        let short = ask(&plan(5000, 512), 0);
        assert_eq!(short.prompt.len() + short.output_len as usize, 512);
    }
}
