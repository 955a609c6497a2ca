//! A fake device: it computes nothing and forgets nothing.

use std::ops::Range;

use kvist_base::{BlockId, SeqId, TokenId};

use super::model::Tag;
use super::report::Rule;
use crate::kv::{BlockCopy, BlockState};
use crate::plan::StepPlan;
use crate::scheduler::Scheduler;
use crate::sequence::SequenceView;

/// Every slot of the pool, with the content last written to it.
#[derive(Debug)]
pub(super) struct FakeDevice {
    block_size: usize,
    /// `None`: nothing a reader could use.
    slots: Vec<Option<Tag>>,
}

impl FakeDevice {
    pub(super) fn new(block_size: usize, blocks_max: usize) -> Self {
        Self {
            block_size,
            slots: vec![None; block_size * blocks_max],
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
        self.scrub(scheduler, plan)?;
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

    /// Carries out a plan; returns the content at the end of each chunk. Chunks may run in any order,
    /// so what they read must be there before the first write and after the last.
    pub(super) fn run(&mut self, scheduler: &Scheduler, plan: &StepPlan) -> Result<Vec<Tag>, Rule> {
        self.copy(plan.copies());
        self.scrub(scheduler, plan)?;
        for chunk in plan.chunks() {
            self.read(scheduler, chunk.seq, chunk.start.len())?;
        }
        let mut ends = Vec::new();
        for chunk in plan.chunks() {
            let sequence = scheduler.live(chunk.seq);
            let tags = tags(sequence.cache_root, &sequence.tokens);
            let span = chunk.start.len()..chunk.end.len();
            for (position, tag) in span.clone().zip(&tags[span]) {
                let slot = self.slot(chunk.seq, &sequence.view(), position)?;
                if self.slots[slot].is_some() {
                    return Err(Rule::WrittenTwice {
                        slot,
                        seq: chunk.seq,
                    });
                }
                self.slots[slot] = Some(*tag);
            }
            ends.push(tags[chunk.end.len() - 1]);
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
        let tags = tags(cache_root, tokens);
        let expected = tags[(tags.len() - 1) / self.block_size * self.block_size..]
            .iter()
            .copied()
            .map(Some);
        let start = self.range(block).start;
        let found = &self.slots[start..start + expected.len()];
        found.iter().copied().eq(expected)
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
