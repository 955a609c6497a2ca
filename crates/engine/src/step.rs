//! One step: decide, do, commit. This file is the architecture on one screen.
//!
//! ```text
//! Scheduler::schedule ─► StepPlan ─► pack ─► ForwardBatch ─► Model::forward ─► logits
//!                           │                                                    │
//! Scheduler::commit ◄─ StepOutcome ◄─ Live::take (text, stops, emit) ◄─ Sampler::draw
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kvist_base::{SeqId, Tokens};
use kvist_device::{Device, KvCache};
use kvist_model::{Model, ModelError};
use kvist_sample::Sampler;
use kvist_sched::{ChunkEnd, Scheduler, StepOutcome, StepPlan};
use kvist_text::Tokenizer;

use crate::error::EngineFault;
use crate::keeper::Memory;
use crate::live::{CANCELLED, Live};
use crate::metrics::MetricsSnapshot;
use crate::pack::BatchScratch;
use crate::shared::Shared;
use crate::speculation::Speculator;

/// Everything the engine thread owns.
pub(crate) struct Core {
    pub(crate) scheduler: Scheduler,
    pub(crate) device: Box<dyn Device>,
    pub(crate) model: Box<dyn Model>,
    pub(crate) kv: KvCache,
    pub(crate) sampler: Sampler,
    pub(crate) tokenizer: Arc<dyn Tokenizer>,
    pub(crate) live: BTreeMap<SeqId, Live>,
    pub(crate) batch: BatchScratch,
    pub(crate) speculator: Option<Speculator>,
    pub(crate) memory: Memory,
    /// Steps that the device failed since the last one that it did.
    pub(crate) faults_in_a_row: u32,
    pub(crate) shared: Arc<Shared>,
}

/// Steps the device may fail one after another. A single fault ends the requests of its step; a
/// device that does nothing but fail is of no use to anyone.
const FAULTS_IN_A_ROW_MAX: u32 = 3;

impl Core {
    /// Runs one step; nothing happens when there is nothing to run.
    ///
    /// An error means that device state may be broken: the engine must stop.
    pub(crate) fn step(&mut self) -> Result<(), EngineFault> {
        if let Some(speculator) = &mut self.speculator {
            speculator
                .propose(&mut self.scheduler, (&self.live, &mut self.sampler))
                .map_err(|error| EngineFault::Device(format!("draft model: {error}")))?;
        }
        let plan = self.scheduler.schedule();
        if plan.is_empty() {
            self.scheduler.abandon(plan);
            return Ok(());
        }
        let begun = Instant::now();
        let failed = match self.transfer(&plan) {
            Ok(failed) => failed,
            Err(fault) => {
                self.scheduler.abandon(plan);
                return Err(fault);
            }
        };
        if !failed.is_empty() {
            self.scheduler.abandon_failed_restores(plan, &failed);
            self.settle_tier();
            return Ok(());
        }
        self.begin(&plan, begun);
        self.prepare(&plan);
        let batch = self.batch.pack(&plan, &self.scheduler);
        if let Err(error) = self.model.forward(&mut *self.device, self.kv, &batch) {
            return self.give_up(plan, EngineFault::Device(error.to_string()));
        }
        self.faults_in_a_row = 0;
        self.memory
            .costs
            .computed(plan.token_count().0, begun.elapsed());
        let (outcome, faults) = self.sample(&plan)?;
        if let Some(speculator) = &mut self.speculator {
            speculator.observe((&plan, &outcome), begun.elapsed());
        }
        self.commit(plan, outcome, &faults);
        self.settle_tier();
        self.memory.idle.worked(Instant::now());
        self.report();
        Ok(())
    }

    /// Grammar masks of the rows to come are computed while the model runs.
    fn prepare(&mut self, plan: &StepPlan) {
        for chunk in plan.chunks().iter().filter(|chunk| chunk.wants_logits) {
            let live = self.live.get_mut(&chunk.seq);
            live.expect("a scheduled sequence is live").prepare();
        }
    }

    /// Those whose turn has come wait no longer.
    fn begin(&mut self, plan: &StepPlan, now: Instant) {
        for chunk in plan.chunks() {
            let live = self.live.get_mut(&chunk.seq);
            live.expect("a scheduled sequence is live").begin(now);
        }
    }

    /// Takes back a step that the device failed. Its sequences end with the fault, the others go on:
    /// nothing that such a step wrote counts, so their state is whole.
    fn give_up(&mut self, plan: StepPlan, fault: EngineFault) -> Result<(), EngineFault> {
        let hit: Vec<SeqId> = plan.chunks().iter().map(|chunk| chunk.seq).collect();
        self.scheduler.abandon(plan);
        self.faults_in_a_row += 1;
        if self.faults_in_a_row >= FAULTS_IN_A_ROW_MAX {
            return Err(fault);
        }
        tracing::error!(%fault, sequences = hit.len(), "a step failed; its sequences end");
        for seq in hit {
            let ended = self.scheduler.cancel(seq);
            ended.expect("a planned sequence is scheduled");
            let live = self.live.remove(&seq).expect("a planned sequence is live");
            let Self {
                shared, scheduler, ..
            } = self;
            shared.update_metrics(|metrics| {
                live.fail(fault.clone(), metrics);
                gauges(scheduler, metrics);
            });
        }
        self.settle_tier();
        self.report();
        Ok(())
    }

    /// Tokens for each chunk that reached the end of what is known; a fault of numbers or of a
    /// grammar ends its own sequence and no other.
    fn sample(
        &mut self,
        plan: &StepPlan,
    ) -> Result<(StepOutcome, BTreeMap<SeqId, EngineFault>), EngineFault> {
        let Self {
            scheduler,
            device,
            model,
            sampler,
            tokenizer,
            live,
            ..
        } = self;
        let logits = device
            .read_f32(model.logits())
            .map_err(|error| EngineFault::Device(ModelError::from(error).to_string()))?;
        // Embedding tables may be padded beyond the vocabulary: padding is never a token.
        let vocab_len = tokenizer.vocab_len();
        let mut rows = logits
            .chunks_exact(model.config().vocab_len)
            .map(|row| &row[..vocab_len]);
        let mut faults = BTreeMap::new();
        let chunks = plan.chunks().iter().map(|chunk| {
            if chunk.logit_count().is_empty() {
                return ChunkEnd::Advanced.into();
            }
            let view = scheduler
                .sequence(chunk.seq)
                .expect("a scheduled sequence is known");
            let live = live
                .get_mut(&chunk.seq)
                .expect("a scheduled sequence is live");
            let mut rows = rows.by_ref().take(chunk.logit_count().len());
            let following = view.tokens[chunk.logits_from.len() + 1..].iter().copied();
            let scored = rows.by_ref().take(chunk.scored_count().len());
            let (outcome, fault) = match live.score(scored.zip(following), sampler) {
                Err(fault) => (CANCELLED.into(), Some(fault)),
                Ok(()) if !chunk.wants_logits => (ChunkEnd::Advanced.into(), None),
                Ok(()) => live.draw(&mut rows, view.draft, (sampler, &**tokenizer)),
            };
            faults.extend(fault.map(|fault| (chunk.seq, fault)));
            // Rows behind a draft token that was not drawn say nothing.
            rows.for_each(drop);
            outcome
        });
        let chunks = chunks.collect();
        Ok((StepOutcome { chunks }, faults))
    }

    fn commit(
        &mut self,
        plan: StepPlan,
        outcome: StepOutcome,
        faults: &BTreeMap<SeqId, EngineFault>,
    ) {
        let now = Instant::now();
        let computed = plan.token_count();
        let sampled: Vec<(SeqId, Tokens)> = plan
            .chunks()
            .iter()
            .zip(&outcome.chunks)
            .map(|(chunk, outcome)| (chunk.seq, outcome.token_count()))
            .filter(|(_, count)| !count.is_empty())
            .collect();
        let streamed = self.device.stream_stats();
        let finished = self.scheduler.commit(plan, outcome);
        let Self {
            live,
            shared,
            scheduler,
            ..
        } = self;
        shared.update_metrics(|metrics| {
            metrics.steps += 1;
            metrics.weights_streamed_bytes = streamed.bytes_read.0;
            metrics.weights_streamed_seconds = streamed.read_time.as_secs_f64();
            metrics.computed_tokens += u64::from(computed.0);
            metrics.step_tokens.observe(f64::from(computed.0));
            metrics.corrupted += faults.len() as u64;
            for (seq, count) in &sampled {
                metrics.output_tokens += u64::from(count.0);
                live.get_mut(seq)
                    .expect("a sampled sequence is live")
                    .clock(now, *count, metrics);
            }
            for end in &finished {
                let live = live.remove(&end.id).expect("a finished sequence was live");
                match faults.get(&end.id) {
                    Some(fault) => live.fail(fault.clone(), metrics),
                    None => live.finish(end, metrics),
                }
            }
            gauges(scheduler, metrics);
        });
    }
}

/// The scheduler's counts as of now.
pub(crate) fn gauges(scheduler: &Scheduler, metrics: &mut MetricsSnapshot) {
    let pool = scheduler.pool_counts();
    let totals = scheduler.totals();
    metrics.running = scheduler.running_count();
    metrics.waiting = scheduler.waiting_count();
    metrics.blocks_free = pool.free.0;
    metrics.blocks_held = pool.held.0;
    metrics.blocks_cached = pool.cached.0;
    metrics.blocks_total = pool.total.0;
    metrics.preemptions = totals.preemptions;
    metrics.prefix_query_tokens = totals.prefix_query_tokens;
    metrics.prefix_hit_tokens = totals.prefix_hit_tokens;
    metrics.spilled_blocks = totals.spilled_blocks;
    metrics.restored_blocks = totals.restored_blocks;
    metrics.drafted_tokens = totals.drafted_tokens;
    metrics.accepted_draft_tokens = totals.accepted_tokens;
}
