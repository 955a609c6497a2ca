//! A limit that moves while sequences run.

use kvist_base::{Blocks, SeqId};

use crate::config::ResizeError;
use crate::kv::{BlockCopy, Spill};
use crate::scheduler::Scheduler;

/// What a resize did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resized {
    /// Contents to write to the second tier, before anything is copied.
    pub spills: Vec<Spill>,
    /// Blocks that have moved. The device must copy them before the next plan is made; their order
    /// does not matter.
    pub copies: Vec<BlockCopy>,
    /// Cached blocks that had to go.
    pub dropped_cached: Blocks,
    /// Sequences that lost their blocks, the last in rank first. They wait again, and keep every token.
    pub preempted: Vec<SeqId>,
}

impl Scheduler {
    /// Changes the number of blocks. A larger pool is there at once. For a smaller one, sequences
    /// are preempted, from the last in rank, only while the held blocks would not fit; then cached blocks
    /// are dropped, least recently used first, only while the rest would not fit; what is left
    /// beyond the limit moves to free ids below it. No block is held or cached beyond the limit
    /// when this returns. The watermark stays the share of the pool that it
    /// was at the start. Only between steps.
    ///
    /// # Errors
    /// The limit is zero or larger than `blocks_max`, or a live sequence could never end under it.
    /// Nothing is changed then.
    pub fn resize(&mut self, limit: Blocks) -> Result<Resized, ResizeError> {
        assert!(!self.plan_is_out, "resize during a step");
        self.check_limit(limit)?;
        if limit >= self.pool.limit() {
            self.pool.grow(limit);
            return Ok(Resized::default());
        }
        let mut preempted = Vec::new();
        while self.pool.counts().held > limit {
            let last = self.running.last().expect("running sequences hold them");
            assert_ne!(
                self.running.first(),
                Some(last),
                "alone, a live sequence fits"
            );
            self.take_back(last);
            preempted.push(last);
        }
        let keep = limit - self.pool.counts().held;
        let dropped_cached = self.pool.drop_cached(keep);
        let copies = self.pool.shrink(limit);
        for sequence in self.sequences.values_mut() {
            self.pool.follow(&mut sequence.table, &copies);
        }
        self.totals.moved_blocks += copies.len() as u64;
        self.check_sums();
        Ok(Resized {
            spills: self.pool.take_spills(),
            copies,
            dropped_cached,
            preempted,
        })
    }

    fn check_limit(&self, limit: Blocks) -> Result<(), ResizeError> {
        if limit.is_empty() {
            return Err(ResizeError::Zero);
        }
        if limit > self.config.blocks_max {
            return Err(ResizeError::TooLarge {
                limit: self.config.blocks_max,
                given: limit,
            });
        }
        let block_size = self.config.block_size;
        let sequences = self.sequences.values();
        let largest = sequences.max_by_key(|sequence| sequence.blocks_needed(block_size));
        match largest {
            Some(sequence) if sequence.blocks_needed(block_size) > limit => {
                Err(ResizeError::LiveSequence {
                    id: sequence.id,
                    needed: sequence.blocks_needed(block_size),
                    given: limit,
                })
            }
            _ => Ok(()),
        }
    }
}
