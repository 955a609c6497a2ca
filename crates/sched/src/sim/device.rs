//! A fake device: it computes nothing and forgets nothing.

use std::ops::Range;

use kvist_base::{BlockId, SeqId, TokenId};

use super::model::Tag;
use super::report::Rule;
use crate::config::SchedulerConfig;
use crate::kv::{BlockCopy, BlockState, Restore, Spill, TierSlot};
use crate::plan::StepPlan;
use crate::scheduler::Scheduler;
use crate::sequence::SequenceView;

/// Every slot of the pool, with the content last written to it.
#[derive(Debug)]
pub(super) struct FakeDevice {
    block_size: usize,
    /// `None`: nothing a reader could use.
    slots: Vec<Option<Tag>>,
    /// What was last written to each slot of the second tier.
    tier: Vec<Vec<Option<Tag>>>,
}

impl FakeDevice {
    pub(super) fn new(config: &SchedulerConfig) -> Self {
        let block_size = config.block_size.len();
        Self {
            block_size,
            slots: vec![None; block_size * config.blocks_max.len()],
            tier: vec![vec![None; block_size]; config.tier_slots as usize],
        }
    }

    fn slot(&self, seq: SeqId, view: &SequenceView<'_>, position: usize) -> Result<usize, Rule> {
        let block = view.block_table.get(position / self.block_size);
        let block = block.ok_or(Rule::NoBlock { seq, position })?;
        Ok(block.idx() * self.block_size + position % self.block_size)
    }

    /// Forgets what nobody may read: free blocks, and what sequences of the plan have yet to compute.
    /// A scheduler that takes stale content for its own, or writes over another's, is then found
    /// out even where the content would happen to be right.
    fn scrub(&mut self, scheduler: &Scheduler, plan: &StepPlan) -> Result<(), Rule> {
        self.scrub_free(scheduler);
        for chunk in plan.chunks() {
            let view = scheduler.live(chunk.seq).view();
            let end = view.block_table.len() * self.block_size;
            for position in chunk.start.len()..end.max(chunk.end.len()) {
                let slot = self.slot(chunk.seq, &view, position)?;
                self.slots[slot] = None;
            }
        }
        Ok(())
    }

    /// A plan that failed somewhere: nothing it was to write can be relied on.
    pub(super) fn fail(&mut self, scheduler: &Scheduler, plan: &StepPlan) -> Result<(), Rule> {
        for spill in plan.spills() {
            self.damage(spill.slot);
        }
        self.fail_after_spills(scheduler, plan)
    }

    /// As `fail`, once the spills were carried out.
    pub(super) fn fail_after_spills(
        &mut self,
        scheduler: &Scheduler,
        plan: &StepPlan,
    ) -> Result<(), Rule> {
        self.scrub(scheduler, plan)?;
        for restore in plan.restores() {
            let to = self.range(restore.block);
            self.slots[to].fill(None);
        }
        for copy in plan.copies() {
            let to = self.range(copy.to);
            self.slots[to].fill(None);
        }
        Ok(())
    }

    /// Forgets free blocks, and those beyond the limit.
    pub(super) fn scrub_free(&mut self, scheduler: &Scheduler) {
        let limit = scheduler.blocks_limit();
        for idx in 0..scheduler.config.blocks_max.0 {
            if idx >= limit.0 || scheduler.pool.state(BlockId(idx)) == BlockState::Free {
                let range = self.range(BlockId(idx));
                self.slots[range].fill(None);
            }
        }
    }

    /// Writes blocks to the second tier.
    pub(super) fn spill(&mut self, spills: &[Spill]) {
        for spill in spills {
            let block = &self.slots[self.range(spill.block)];
            self.tier[spill.slot.0 as usize].copy_from_slice(block);
        }
    }

    fn restore(&mut self, restores: &[Restore]) {
        for restore in restores {
            let to = self.range(restore.block);
            self.slots[to].copy_from_slice(&self.tier[restore.slot.0 as usize]);
        }
    }

    /// What is in a slot of the second tier cannot be read any more.
    pub(super) fn damage(&mut self, slot: TierSlot) {
        self.tier[slot.0 as usize].fill(None);
    }

    /// Copies whole blocks, in the order given.
    pub(super) fn copy(&mut self, copies: &[BlockCopy]) {
        for copy in copies {
            let (from, to) = (self.range(copy.from), self.range(copy.to));
            self.slots.copy_within(from, to.start);
        }
    }

    fn range(&self, block: BlockId) -> Range<usize> {
        let start = block.idx() * self.block_size;
        start..start + self.block_size
    }

    /// Carries out a plan; returns the content at each chunk's last known token and after each token of
    /// its draft. Chunks may run in any order, so what they read must be there before the first write
    /// and after the last.
    pub(super) fn run(
        &mut self,
        scheduler: &Scheduler,
        plan: &StepPlan,
    ) -> Result<Vec<Vec<Tag>>, Rule> {
        self.spill(plan.spills());
        self.restore(plan.restores());
        self.copy(plan.copies());
        self.scrub(scheduler, plan)?;
        for chunk in plan.chunks() {
            self.read(scheduler, chunk.seq, chunk.start.len())?;
        }
        let mut ends = Vec::new();
        for chunk in plan.chunks() {
            let sequence = scheduler.live(chunk.seq);
            let view = sequence.view();
            let written = [view.tokens, view.draft].concat();
            let tags = tags(sequence.cache_root, &written);
            let span = chunk.start.len()..(chunk.start + chunk.token_count()).len();
            for (position, tag) in span.clone().zip(&tags[span.clone()]) {
                let slot = self.slot(chunk.seq, &view, position)?;
                if self.slots[slot].is_some() {
                    return Err(Rule::WrittenTwice {
                        slot,
                        seq: chunk.seq,
                    });
                }
                self.slots[slot] = Some(*tag);
            }
            ends.push(tags[chunk.end.len() - 1..span.end].to_vec());
        }
        for chunk in plan.chunks() {
            self.read(scheduler, chunk.seq, chunk.end.len())?;
        }
        Ok(ends)
    }

    /// Reads the first `len` positions of a sequence through its table.
    pub(super) fn read(&self, scheduler: &Scheduler, seq: SeqId, len: usize) -> Result<(), Rule> {
        let sequence = scheduler.live(seq);
        let view = sequence.view();
        let tags = tags(sequence.cache_root, &sequence.tokens);
        for (position, expected) in tags.into_iter().enumerate().take(len) {
            let slot = self.slot(seq, &view, position)?;
            let found = match self.slots[slot] {
                Some(tag) if tag == expected => continue,
                Some(_) => "another history",
                None => "nothing written",
            };
            return Err(Rule::BadRead {
                seq,
                position,
                slot,
                found,
            });
        }
        Ok(())
    }

    /// Whether a block has the content that ends `tokens`; it may be a tail.
    pub(super) fn has(&self, block: BlockId, cache_root: u64, tokens: &[TokenId]) -> bool {
        self.is_end(&self.slots[self.range(block)], cache_root, tokens)
    }

    /// Whether a slot of the second tier has the content that ends `tokens`.
    pub(super) fn tier_has(&self, slot: TierSlot, cache_root: u64, tokens: &[TokenId]) -> bool {
        self.is_end(&self.tier[slot.0 as usize], cache_root, tokens)
    }

    fn is_end(&self, found: &[Option<Tag>], cache_root: u64, tokens: &[TokenId]) -> bool {
        let tags = tags(cache_root, tokens);
        let start = (tags.len() - 1) / self.block_size * self.block_size;
        let expected = tags[start..].iter().copied().map(Some);
        found[..expected.len()].iter().copied().eq(expected)
    }
}

fn tags(cache_root: u64, tokens: &[TokenId]) -> Vec<Tag> {
    let mut tag = Tag::root(cache_root);
    let mut next = |token: &TokenId| {
        tag = tag.then(*token);
        tag
    };
    tokens.iter().map(&mut next).collect()
}
