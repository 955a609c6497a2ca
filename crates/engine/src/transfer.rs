//! Blocks on the move: spilled to the tier, restored from it, copied within the pool.

use std::time::{Duration, Instant};

use kvist_sched::{BlockCopy, Spill, StepPlan, TierCosts, TierSlot};

use crate::control::Patience;
use crate::error::EngineFault;
use crate::step::Core;
use crate::tier::Congested;

impl Core {
    /// Does what a plan asks for before its forward pass. Slots that did not hold what they should
    /// are returned: the plan cannot be carried out then.
    pub(crate) fn transfer(&mut self, plan: &StepPlan) -> Result<Vec<TierSlot>, EngineFault> {
        self.spill(plan.spills(), Patience::Drop)?;
        let failed = self.restore(plan)?;
        self.copy(plan.copies())?;
        Ok(failed)
    }

    /// Copies blocks within the pool.
    pub(crate) fn copy(&mut self, copies: &[BlockCopy]) -> Result<(), EngineFault> {
        copies
            .iter()
            .try_for_each(|copy| self.device.kv_copy(self.kv, copy.from, copy.to))
            .map_err(|error| EngineFault::Device(error.to_string()))
    }

    /// Sends blocks to the tier; those for which there is no buffer are lost to it.
    pub(crate) fn spill(
        &mut self,
        spills: &[Spill],
        patience: Patience,
    ) -> Result<(), EngineFault> {
        let Some(tier) = &mut self.memory.tier else {
            assert!(spills.is_empty(), "without a tier nothing is spilled");
            return Ok(());
        };
        for spill in spills {
            if patience == Patience::Wait {
                tier.wait_for_room();
            }
            let read = |out: &mut [u8]| self.device.kv_read(self.kv, spill.block, out);
            let sent = tier
                .put(spill.slot.0, read)
                .map_err(|error| EngineFault::Device(error.to_string()))?;
            if sent == Err(Congested) {
                self.memory.congested.push(spill.slot);
            }
        }
        Ok(())
    }

    fn restore(&mut self, plan: &StepPlan) -> Result<Vec<TierSlot>, EngineFault> {
        let mut failed = Vec::new();
        let Some(tier) = &mut self.memory.tier else {
            assert!(
                plan.restores().is_empty(),
                "without a tier nothing is restored"
            );
            return Ok(failed);
        };
        let begun = Instant::now();
        for restore in plan.restores() {
            match tier.get(restore.slot.0, &mut self.memory.block) {
                Ok(()) => self
                    .device
                    .kv_load(self.kv, restore.block, &self.memory.block)
                    .map_err(|error| EngineFault::Device(error.to_string()))?,
                Err(fault) => {
                    tracing::warn!(%fault, "a KV block is computed again");
                    tier.forget(restore.slot.0);
                    failed.push(restore.slot);
                }
            }
        }
        if !plan.restores().is_empty() {
            let each = begun.elapsed() / narrow(plan.restores().len());
            self.memory.costs.restored(each);
        }
        Ok(failed)
    }

    /// Tells the scheduler what never reached the disk, and what things cost lately. Between steps.
    pub(crate) fn settle_tier(&mut self) {
        let Some(tier) = &mut self.memory.tier else {
            return;
        };
        let lost = tier.take_lost().into_iter().map(TierSlot);
        for slot in lost.chain(self.memory.congested.drain(..)) {
            self.scheduler.lose_slot(slot);
        }
        if let Some(costs) = self.memory.costs.known() {
            self.scheduler.set_tier_costs(costs);
        }
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What restoring a block and computing a token took, as moving averages: whether the tier pays
/// depends on disk and model, and both change with load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    restore: Option<u64>,
    compute: Option<u64>,
}

/// Part of a new measurement in the average: one in eight.
const WEIGHT: u64 = 8;

impl Costs {
    pub(crate) fn restored(&mut self, block: Duration) {
        average(&mut self.restore, block);
    }

    /// A step of `tokens` rows took `time`.
    pub(crate) fn computed(&mut self, tokens: u32, time: Duration) {
        if tokens > 0 {
            average(&mut self.compute, time / tokens);
        }
    }

    /// `None` until a restore has been measured: the scheduler's own assumption holds till then.
    pub(crate) fn known(self) -> Option<TierCosts> {
        Some(TierCosts {
            restore_ns_per_block: self.restore?,
            compute_ns_per_token: self.compute?,
        })
    }
}

fn average(value: &mut Option<u64>, sample: Duration) {
    let sample = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX);
    *value = Some(match *value {
        None => sample,
        Some(before) => before - before / WEIGHT + sample / WEIGHT,
    });
}
