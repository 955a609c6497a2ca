//! Resizes, seen from outside.

use kvist_base::{Blocks, Tokens};

use super::report::Rule;
use super::world::World;
use crate::config::ResizeError;
use crate::resize::Resized;
use crate::scheduler::Dropped;

impl World {
    /// Resizes the pool; its copies are carried out at once.
    pub(super) fn resize(&mut self, limit: Blocks) -> Result<(), Rule> {
        let wrong = |what| Err(Rule::BadResize { limit, what });
        let old = self.scheduler.blocks_limit();
        let before = self.scheduler.pool_counts();
        let running: Vec<_> = self.scheduler.running.iter().collect();
        let result = self.scheduler.resize(limit);
        let resized = match (result, self.resize_refusal(limit)) {
            (Err(given), Some(expected)) if given == expected => {
                match given {
                    ResizeError::LiveSequence { .. } => self.report.resizes_refused_for_live += 1,
                    _ => self.report.resizes_refused += 1,
                }
                return Ok(());
            }
            (Ok(resized), None) => resized,
            _ => return wrong("the refusal"),
        };
        if self.scheduler.blocks_limit() != limit {
            return wrong("another limit");
        }
        self.report.grown += u64::from(limit > old);
        self.report.shrunk += u64::from(limit < old);
        self.has_shrunk |= limit < old;
        for seq in &resized.preempted {
            let client = self.clients.get_mut(seq);
            client
                .expect("preempted sequences are live")
                .preempted_count += 1;
        }
        let mut expected = running.iter().rev();
        if !resized
            .preempted
            .iter()
            .eq(expected.by_ref().take(resized.preempted.len()))
        {
            return wrong("who was preempted");
        }
        if !resized.preempted.is_empty() && (before.held <= limit || expected.next().is_none()) {
            return wrong("a preemption without need");
        }
        if !resized.dropped_cached.is_empty() && before.held + before.cached <= limit {
            return wrong("a drop without need");
        }
        self.move_blocks(limit, &resized)
    }

    fn move_blocks(&mut self, limit: Blocks, resized: &Resized) -> Result<(), Rule> {
        let what = "a copy to or from a wrong place";
        for copy in &resized.copies {
            if copy.from.0 < limit.0 || copy.to.0 >= limit.0 {
                return Err(Rule::BadResize { limit, what });
            }
            self.report.moved_shared_blocks += u64::from(self.scheduler.pool.holders(copy.to) > 1);
        }
        self.report.spilled_by_resize += resized.spills.len() as u64;
        self.device.spill(&resized.spills);
        self.device.copy(&resized.copies);
        self.device.scrub_free(&self.scheduler);
        self.report.preempted_by_resize += resized.preempted.len() as u64;
        self.report.dropped_by_resize += u64::from(resized.dropped_cached.0);
        Ok(())
    }

    /// Why a limit must be refused, worked out from what clients asked for.
    fn resize_refusal(&self, limit: Blocks) -> Option<ResizeError> {
        let config = self.scheduler.config();
        if limit == Blocks(0) {
            return Some(ResizeError::Zero);
        }
        if limit > config.blocks_max {
            return Some(ResizeError::TooLarge {
                limit: config.blocks_max,
                given: limit,
            });
        }
        let needs = self.clients.iter().map(|(id, client)| {
            let needed = (client.len_max - Tokens(1)).div_ceil(config.block_size);
            (needed, *id)
        });
        let (needed, id) = needs.max()?;
        (needed > limit).then_some(ResizeError::LiveSequence {
            id,
            needed,
            given: limit,
        })
    }

    pub(super) fn drop_cached(&mut self, keep: Blocks) -> Result<(), Rule> {
        let before = self.scheduler.pool_counts();
        let Dropped { blocks, spills } = self.scheduler.drop_cached(keep);
        self.report.spilled_by_drop += spills.len() as u64;
        self.device.spill(&spills);
        let after = self.scheduler.pool_counts();
        if blocks != before.cached.saturating_sub(keep) || after.cached != before.cached.min(keep) {
            return Err(Rule::BadDrop { blocks });
        }
        if !after.held.is_empty() {
            self.report.dropped_while_held += u64::from(blocks.0);
        }
        Ok(())
    }
}
