//! How much of the memory that sequences own is empty: a trace replayed through the real scheduler,
//! with nothing computed, so that every step is seen and lengths are the trace's own.

use std::error::Error;

use kvist_base::{Blocks, SeqId, TokenId, Tokens};
use kvist_sched::{
    Admission, ChunkEnd, Fairness, NewSequence, PromptLogits, Scheduler, SchedulerConfig,
    StepOutcome, StepPlan,
};

use super::Measured;
use super::load::tokens;
use super::report::{Report, Table};
use super::trace::{Lengths, azure};

/// Promised: allocated and empty, on average over all steps.
const PERCENT_MAX: f64 = 1.0;
/// Ids to make prompts of; any vocabulary will do.
const VOCAB_LEN: u32 = 50_000;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Requests of the trace
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Sequences that run at once
    #[arg(long, default_value_t = 64)]
    max_num_seqs: usize,
    /// Tokens of a KV block
    #[arg(long, default_value_t = 16)]
    block_size: u32,
    /// Blocks of the pool
    #[arg(long, default_value_t = 8192)]
    blocks: u32,
}

pub fn measure(arguments: &Arguments) -> Measured {
    let mut rows = azure();
    rows.truncate(arguments.requests as usize);
    let longest = rows.iter().map(|row| row.prompt_len + row.output_len).max();
    let longest = longest.unwrap_or(1);
    let mut scheduler = Scheduler::new(config(arguments, Tokens(longest)))?;
    let steps = replay(&mut scheduler, &rows)?;

    let mut report = Report::new("Allocated and empty KV memory");
    report.setup(format!(
        "{} requests of the Azure conversation trace at their own lengths, all waiting from the beginning; the scheduler kvist serves with, a pool of {} blocks of {} tokens, at most {} sequences at once; steps of at most 512 tokens, nothing computed",
        rows.len(), arguments.blocks, arguments.block_size, arguments.max_num_seqs
    ));
    report.setup(format!(
        "contiguous: one span of {longest} tokens for each running sequence, the longest request there is; average over {} steps",
        steps.len()
    ));
    let mut table = Table::new(["", "paged", "contiguous"]);
    let paged = average(&steps, |step| empty_percent(step.live, step.allocated));
    let contiguous = average(&steps, |step| {
        empty_percent(step.live, step.sequences * u64::from(longest))
    });
    table.row([
        "allocated and empty".to_owned(),
        format!("{paged:.2} %"),
        format!("{contiguous:.1} %"),
    ]);
    report.table(table);
    let mut table = Table::new(["", "figure"]);
    let running = average(&steps, |step| exact(step.sequences));
    let live = average(&steps, |step| exact(step.live));
    let preempted = scheduler.totals().preemptions;
    table.row([
        "sequences running, average".to_owned(),
        format!("{running:.1}"),
    ]);
    table.row(["tokens they hold, average".to_owned(), format!("{live:.0}")]);
    table.row(["preemptions".to_owned(), preempted.to_string()]);
    report.table(table);
    report.promise(
        "allocated and empty",
        (
            format!("less than {PERCENT_MAX} %"),
            format!("{paged:.2} %"),
        ),
        paged < PERCENT_MAX,
    );
    Ok(report)
}

/// Room for every request to wait.
fn config(arguments: &Arguments, model_len_max: Tokens) -> SchedulerConfig {
    SchedulerConfig {
        block_size: Tokens(arguments.block_size),
        blocks_limit: Blocks(arguments.blocks),
        blocks_max: Blocks(arguments.blocks),
        running_max: arguments.max_num_seqs,
        waiting_max: arguments.requests as usize,
        step_tokens_max: Tokens(512),
        chunk_max: None,
        draft_max: Tokens::ZERO,
        model_len_max,
        prefix_caching: true,
        partial_hits: true,
        tier_slots: 0,
        admission: Admission::Optimistic,
        fairness: Fairness::Arrival,
        watermark: Blocks(arguments.blocks / 100),
    }
}

/// What running sequences own after one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    sequences: u64,
    /// Positions in their blocks.
    allocated: u64,
    /// Positions with a token in them.
    live: u64,
}

/// Runs all requests to their end.
fn replay(scheduler: &mut Scheduler, rows: &[Lengths]) -> Result<Vec<Step>, Box<dyn Error>> {
    for (idx, row) in (0u64..).zip(rows) {
        let prompt = tokens(idx, row.prompt_len as usize, VOCAB_LEN);
        scheduler.admit(NewSequence {
            id: SeqId(idx),
            prompt: prompt.into_iter().map(TokenId).collect(),
            output_max: Tokens(row.output_len),
            cache_root: 0,
            priority: 0,
            tenant: 0,
            prompt_logits: PromptLogits::Last,
        })?;
    }
    let mut live: Vec<SeqId> = (0..rows.len() as u64).map(SeqId).collect();
    let mut steps = Vec::new();
    while scheduler.has_work() {
        let plan = scheduler.schedule();
        if plan.is_empty() {
            return Err("the scheduler has work and does none of it".into());
        }
        let outcome = outcome(&plan);
        scheduler.commit(plan, outcome);
        live.retain(|id| scheduler.sequence(*id).is_some());
        steps.push(look(scheduler, &live));
    }
    // A step that ends all that ran owns nothing that could be empty.
    steps.retain(|step| step.allocated > 0);
    Ok(steps)
}

/// Every sampled token is the same: only lengths matter here. The scheduler ends what is long
/// enough.
fn outcome(plan: &StepPlan) -> StepOutcome {
    let chunks = plan.chunks().iter().map(|chunk| match chunk.wants_logits {
        true => ChunkEnd::Sampled(TokenId(0)).into(),
        false => ChunkEnd::Advanced.into(),
    });
    StepOutcome {
        chunks: chunks.collect(),
    }
}

fn look(scheduler: &Scheduler, live: &[SeqId]) -> Step {
    let mut step = Step {
        sequences: 0,
        allocated: 0,
        live: 0,
    };
    let block_size = u64::from(scheduler.config().block_size.0);
    for view in live.iter().filter_map(|id| scheduler.sequence(*id)) {
        if !view.block_table.is_empty() {
            step.sequences += 1;
            step.allocated += view.block_table.len() as u64 * block_size;
            step.live += u64::from(view.computed_len.0);
        }
    }
    step
}

fn average(steps: &[Step], what: impl Fn(&Step) -> f64) -> f64 {
    steps.iter().map(what).sum::<f64>() / exact(steps.len() as u64)
}

fn empty_percent(live: u64, allocated: u64) -> f64 {
    100.0 - 100.0 * exact(live) / exact(allocated)
}

#[allow(clippy::cast_precision_loss)] // tokens of a pool
fn exact(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_lone_request_leaves_the_rest_of_its_last_block_empty() {
        let arguments = Arguments {
            requests: 1,
            max_num_seqs: 2,
            block_size: 16,
            blocks: 64,
        };
        let mut scheduler = Scheduler::new(config(&arguments, Tokens(100))).expect("good limits");
        let row = Lengths {
            at: Duration::ZERO,
            prompt_len: 15,
            output_len: 4,
        };
        let steps = replay(&mut scheduler, &[row]).expect("it fits");
        let step = |live, allocated| Step {
            sequences: 1,
            allocated,
            live,
        };
        // The last step ends the request, and with it nothing is owned.
        assert_eq!(steps, [step(15, 16), step(16, 16), step(17, 32)]);
        let empty = average(&steps, |step| empty_percent(step.live, step.allocated));
        let by_hand = 100.0 * (1.0 / 16.0 + 0.0 + 15.0 / 32.0) / 3.0;
        assert!((empty - by_hand).abs() < 1e-9, "{empty}");
    }
}
