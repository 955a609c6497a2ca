//! Commit: what a step did becomes what is known and computed.

use kvist_base::{FinishReason, SeqId};

#[cfg(any(test, feature = "sim"))]
use crate::kv::PlantedBug;
use crate::kv::{BlockPool, FullBlock, Indexed, Parent, TierSlot};
use crate::plan::{Chunk, ChunkEnd, ChunkOutcome, StepOutcome, StepPlan};
use crate::scheduler::Scheduler;
use crate::sequence::{FinishedSequence, Sequence, SequenceState};

impl Scheduler {
    /// Takes in what the step did: computed spans, new tokens, ends. Blocks that became full are
    /// indexed, those of finished sequences given back.
    ///
    /// A sequence whose sampled token reaches its `output_max` or the model's length ends here, with
    /// `FinishReason::Length`. Returns what ended, in the plan's order.
    ///
    /// # Panics
    /// The plan is not the latest one of this scheduler, or the outcome does not match it.
    pub fn commit(&mut self, plan: StepPlan, outcome: StepOutcome) -> Vec<FinishedSequence> {
        assert_eq!(
            plan.chunks.len(),
            outcome.chunks.len(),
            "one outcome for each chunk"
        );
        self.take_in(&plan);
        self.totals.copied_blocks += plan.copies.len() as u64;
        self.totals.restored_blocks += plan.restores.len() as u64;
        for begun in &plan.begun {
            self.totals.copied_tokens += u64::from(begun.copied_len.0);
            self.totals.restored_tokens += u64::from(begun.restored_len.0);
        }
        let mut finished = Vec::new();
        for (chunk, outcome) in plan.chunks.iter().zip(outcome.chunks) {
            finished.extend(self.commit_chunk(chunk, outcome));
        }
        self.check_sums();
        self.keep_spare(plan);
        finished
    }

    /// Takes back a plan that was not carried out, or not to its end: nothing of it counts as
    /// computed, and what it was to spill is lost. Its sequences keep their blocks and get the same
    /// spans again; those that began with content the step was to put in place wait again instead.
    ///
    /// # Panics
    /// The plan is not the latest one of this scheduler.
    pub fn abandon(&mut self, plan: StepPlan) {
        for spill in &plan.spills {
            self.pool.lose_slot(spill.slot);
        }
        self.undo(plan);
    }

    /// Takes back a plan whose spills were carried out, and of whose restores these could not be:
    /// the content of their slots is forgotten. Sequences that began with restored or copied content
    /// wait again, and find what is left.
    ///
    /// # Panics
    /// The plan is not the latest one of this scheduler, or does not restore one of the slots.
    pub fn abandon_failed_restores(&mut self, plan: StepPlan, failed: &[TierSlot]) {
        for slot in failed {
            assert!(plan.restores.iter().any(|restore| restore.slot == *slot));
            self.pool.lose_slot(*slot);
        }
        self.undo(plan);
    }

    fn undo(&mut self, plan: StepPlan) {
        self.take_in(&plan);
        for chunk in &plan.chunks {
            assert_eq!(self.live(chunk.seq).computed_len, chunk.start);
            self.forget_draft(chunk);
        }
        for begun in &plan.begun {
            self.undo_begin(begun);
        }
        self.check_sums();
        self.keep_spare(plan);
    }

    fn take_in(&mut self, plan: &StepPlan) {
        assert_eq!(
            plan.step, self.step,
            "a plan of another step, or of another scheduler"
        );
        assert_eq!(
            self.plan_is_out,
            !plan.is_empty(),
            "a plan is given back once"
        );
        self.plan_is_out = false;
    }

    fn keep_spare(&mut self, plan: StepPlan) {
        self.spare_chunks = plan.chunks;
        self.spare_chunks.clear();
    }

    fn commit_chunk(&mut self, chunk: &Chunk, outcome: ChunkOutcome) -> Option<FinishedSequence> {
        let hasher = self.hasher;
        let sequence = self.live_mut(chunk.seq);
        assert_eq!(sequence.state, SequenceState::Running);
        assert_eq!(sequence.computed_len, chunk.start);
        assert_eq!(chunk.wants_logits, chunk.end == sequence.known_len());
        self.accept_draft(chunk, outcome.accepted);
        let sequence = self.live_mut(chunk.seq);
        if chunk.logits_from < chunk.end {
            let scored_len = chunk.end.min(sequence.prompt_len);
            sequence.logits_len = sequence.logits_len.max(scored_len);
        }
        let reason = match outcome.end {
            ChunkEnd::Advanced => {
                assert!(!chunk.wants_logits, "a token must be sampled");
                None
            }
            ChunkEnd::Sampled(token) => {
                assert!(chunk.wants_logits, "there was nothing to sample from");
                sequence.push_token(token, hasher.as_ref());
                (sequence.known_len() == sequence.len_max).then_some(FinishReason::Length)
            }
            ChunkEnd::Finished { token, reason } => {
                assert!(
                    chunk.wants_logits || token.is_none(),
                    "there was nothing to sample from"
                );
                if let Some(token) = token {
                    sequence.push_token(token, hasher.as_ref());
                }
                Some(reason)
            }
        };
        self.charge(chunk, outcome.token_count());
        self.index_computed(chunk);
        reason.map(|reason| self.finish(chunk.seq, reason))
    }

    /// Indexes the blocks that this chunk completed.
    fn index_computed(&mut self, chunk: &Chunk) {
        if self.hasher.is_none() {
            return;
        }
        let block_size = self.config.block_size.len();
        let sequence = self
            .sequences
            .get_mut(&chunk.seq)
            .expect("plans name live sequences");
        let full_count = sequence.computed_len.len() / block_size;
        #[cfg(any(test, feature = "sim"))]
        let full_count = if self.pool.planted == Some(PlantedBug::IndexRejected)
            && sequence.computed_len < chunk.end + chunk.draft_len
        {
            sequence.tokens.len() / block_size
        } else {
            full_count
        };
        assert!(sequence.indexed_count <= full_count);
        assert!(full_count <= sequence.chain.len());
        for block_idx in sequence.indexed_count..full_count {
            let start = block_idx * block_size;
            let full = FullBlock {
                root: sequence.cache_root,
                hash: sequence.chain[block_idx],
                parent: parent_at(&self.pool, sequence, block_idx),
                tokens: &sequence.tokens[start..start + block_size],
            };
            match self.pool.index(&mut sequence.table, block_idx, &full) {
                Indexed::Added => {}
                Indexed::Merged => self.totals.merged_blocks += 1,
                Indexed::Collided => {
                    // Later blocks have no indexed parent. The next chunk tries again: the other
                    // content may be evicted by then.
                    self.totals.hash_collisions += 1;
                    break;
                }
            }
            sequence.indexed_count += 1;
        }
    }

    /// Indexes what is computed of a running sequence's last block, which it is about to give back.
    pub(crate) fn index_tail(&mut self, id: SeqId) {
        if self.hasher.is_none() || !self.config.partial_hits {
            return;
        }
        let block_size = self.config.block_size.len();
        let sequence = self
            .sequences
            .get(&id)
            .expect("only live sequences give back");
        let computed_len = sequence.computed_len.len();
        let full_count = computed_len / block_size;
        let is_chained = sequence.indexed_count == full_count;
        let tokens = &sequence.tokens[full_count * block_size..computed_len];
        if is_chained && !tokens.is_empty() {
            let parent = parent_at(&self.pool, sequence, full_count);
            let block = sequence.table.blocks()[full_count];
            self.pool.index_tail(block, parent, tokens);
        }
    }
}

/// What comes before a block of a sequence, all of it indexed.
pub(crate) fn parent_at(pool: &BlockPool, sequence: &Sequence, block_idx: usize) -> Parent {
    match block_idx.checked_sub(1) {
        None => Parent::Root(sequence.cache_root),
        Some(before) => {
            let content = pool.content_of(sequence.table.blocks()[before]);
            Parent::Content(content.expect("blocks are indexed in order"))
        }
    }
}
