//! Stories with literal block ids, one for each rule.

mod cache;
mod draft;
mod fairness;
mod limits;
mod order;
mod partial;
mod resize;
mod scored;
mod tier;
mod together;

use kvist_base::{Blocks, FinishReason, SeqId, TokenId, Tokens};

use crate::*;

/// Roomy limits; a test narrows the one it is about.
fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: Tokens(4),
        blocks_limit: Blocks(16),
        blocks_max: Blocks(20_000),
        running_max: 8,
        waiting_max: 8,
        step_tokens_max: Tokens(64),
        chunk_max: None,
        draft_max: Tokens(16),
        model_len_max: Tokens(64),
        prefix_caching: true,
        partial_hits: false,
        tier_slots: 0,
        admission: Admission::Optimistic,
        fairness: Fairness::Arrival,
        watermark: Blocks(0),
    }
}

fn scheduler(config: SchedulerConfig) -> Scheduler {
    Scheduler::new(config).unwrap()
}

/// A prompt of `len` tokens that shares no block with a prompt of another `kind`.
fn sequence(id: u64, kind: u32, len: u32) -> NewSequence {
    NewSequence {
        id: SeqId(id),
        prompt: (0..len).map(|n| TokenId(kind * 1000 + n)).collect(),
        output_max: Tokens(16),
        prompt_logits: PromptLogits::Last,
        cache_root: 0,
        priority: 0,
        tenant: 0,
    }
}

/// Commits a plan; every chunk that wants a token gets a new one.
fn commit(scheduler: &mut Scheduler, plan: StepPlan) -> Vec<FinishedSequence> {
    let outcome = |chunk: &Chunk| {
        if chunk.wants_logits {
            let id = u32::try_from(chunk.seq.0).unwrap();
            ChunkEnd::Sampled(TokenId(900_000 + 1000 * id + chunk.end.0)).into()
        } else {
            ChunkEnd::Advanced.into()
        }
    };
    let chunks = plan.chunks().iter().map(outcome).collect();
    scheduler.commit(plan, StepOutcome { chunks })
}

/// One step; returns `(sequence, start, end)` of its chunks.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, u32, u32)> {
    let plan = scheduler.schedule();
    let spans = spans(&plan);
    commit(scheduler, plan);
    spans
}

fn spans(plan: &StepPlan) -> Vec<(u64, u32, u32)> {
    plan.chunks()
        .iter()
        .map(|chunk| (chunk.seq.0, chunk.start.0, chunk.end.0))
        .collect()
}

fn table(scheduler: &Scheduler, id: u64) -> Vec<u32> {
    scheduler
        .sequence(SeqId(id))
        .unwrap()
        .block_table
        .iter()
        .map(|block| block.0)
        .collect()
}

/// Free, held and cached blocks.
fn counts(scheduler: &Scheduler) -> (u32, u32, u32) {
    let counts = scheduler.pool_counts();
    (counts.free.0, counts.held.0, counts.cached.0)
}

fn stop() -> ChunkOutcome {
    ChunkEnd::Finished {
        token: None,
        reason: FinishReason::Stop,
    }
    .into()
}

/// A kind of its own for each sequence.
fn kind(id: u64) -> u32 {
    u32::try_from(id).unwrap()
}
