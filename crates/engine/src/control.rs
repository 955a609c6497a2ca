//! What callers may change while the engine runs, the budget and the cache, and what they may look at.

use std::sync::mpsc::SyncSender;

use kvist_base::{Blocks, Bytes};
use kvist_plan::BudgetTooSmall;
use kvist_sched::{CacheInUse, ResizeError};

use crate::error::EngineFault;
use crate::map::BlockMap;
use crate::memory::BudgetError;
use crate::speculation::Speculator;
use crate::step::Core;

/// A change or a look asked for by a caller who waits for the reply. A caller who has gone is no fault.
pub(crate) enum Control {
    SetBudget {
        budget: Bytes,
        reply: SyncSender<Result<(), BudgetError>>,
    },
    ReleaseKv {
        reply: SyncSender<Bytes>,
    },
    ResetPrefixCache {
        reply: SyncSender<Result<(), CacheInUse>>,
    },
    Map {
        reply: SyncSender<BlockMap>,
    },
}

impl Core {
    /// Carries out a change, and replies once everyone can see it.
    pub(crate) fn control(&mut self, control: Control) -> Result<(), EngineFault> {
        match control {
            Control::SetBudget { budget, reply } => {
                let result = self.set_budget(budget)?;
                self.report();
                let _ = reply.send(result);
            }
            Control::ReleaseKv { reply } => {
                let bytes = self.release_kv()?;
                self.report();
                let _ = reply.send(bytes);
            }
            Control::ResetPrefixCache { reply } => {
                let result = self.scheduler.reset_prefix_cache();
                self.give_back();
                self.report();
                let _ = reply.send(result);
            }
            Control::Map { reply } => {
                let _ = reply.send(self.map());
            }
        }
        Ok(())
    }

    /// Plans again with `budget` and makes the pool what the plan says. A shrinking pool drops
    /// cached blocks, moves the others together, and preempts only what then has no place.
    fn set_budget(&mut self, budget: Bytes) -> Result<Result<(), BudgetError>, EngineFault> {
        let plan = match self.memory.plan.replan(budget) {
            Ok(plan) => plan,
            Err(BudgetTooSmall { needed, given }) => {
                return Ok(Err(BudgetError::TooSmall { needed, given }));
            }
        };
        let limit = plan.kv.blocks.min(self.memory.blocks_max);
        let resized = match self.scheduler.resize(limit) {
            Ok(resized) => resized,
            Err(error) => return Ok(Err(self.busy(&error, budget))),
        };
        self.spill(&resized.spills, Patience::Wait)?;
        self.copy(&resized.copies)?;
        self.give_back();
        self.report();
        self.adopt(plan);
        self.shared.set_blocks_limit(limit);
        let preempted = resized.preempted.len();
        tracing::info!(%budget, blocks = limit.0, preempted, "budget changed");
        Ok(Ok(()))
    }

    /// A refused resize in the caller's terms: the budget at which it would not have been.
    fn busy(&self, error: &ResizeError, given: Bytes) -> BudgetError {
        let blocks = match *error {
            ResizeError::LiveSequence { needed, .. } => needed,
            // The plan gives at least one block and the caller no more than there are ids for.
            ResizeError::Zero | ResizeError::TooLarge { .. } => Blocks(1),
        };
        let needed = self.memory.plan.budget_for(blocks);
        BudgetError::Busy { needed, given }
    }

    /// Drops what is only cached and gives back all memory that no sequence holds.
    pub(crate) fn release_kv(&mut self) -> Result<Bytes, EngineFault> {
        let dropped = self.scheduler.drop_cached(Blocks::ZERO);
        self.spill(&dropped.spills, Patience::Wait)?;
        self.settle_tier();
        if let Some(tier) = &mut self.memory.tier {
            tier.flush();
            tier.trim();
        }
        Ok(self.give_back())
    }

    /// Returns the memory of free blocks, and of all beyond the limit, to the system.
    pub(crate) fn give_back(&mut self) -> Bytes {
        let Self {
            device,
            scheduler,
            kv,
            memory,
            speculator,
            ..
        } = self;
        let of_drafts = speculator.as_mut().map(Speculator::give_back);
        let beyond = scheduler.pool_counts().total.0..memory.blocks_max.0;
        // First what is beyond: a page that a free run shares with it goes back with the run.
        let runs = [beyond].into_iter().chain(scheduler.free_runs());
        let own = runs.map(|run| device.kv_release(*kv, run));
        own.chain(of_drafts).sum()
    }
}

/// Whether to wait for a buffer when all are on their way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Between steps, when nothing is urgent.
    Wait,
    /// Within a step: what finds no buffer is not kept.
    Drop,
}
