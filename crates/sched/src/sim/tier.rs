//! The second tier, seen from outside.

use kvist_base::mix64;

use super::report::Rule;
use super::world::World;
use crate::kv::TierSlot;
use crate::plan::StepPlan;

impl World {
    pub(super) fn lose_slot(&mut self, slot: TierSlot) {
        if slot.0 < self.scheduler.config().tier_slots {
            let before = self.scheduler.totals().lost_slots;
            self.scheduler.lose_slot(slot);
            self.report.lost_slots += self.scheduler.totals().lost_slots - before;
            self.device.damage(slot);
        }
    }

    /// A step of which some of the restores fail.
    pub(super) fn step_damaged(&mut self, which: u64) -> Result<(), Rule> {
        let plan = self.plan()?;
        let failed = damaged(&plan, which);
        if failed.is_empty() {
            return self.carry_out(plan, None);
        }
        self.report.failed_restores += failed.len() as u64;
        self.device.spill(plan.spills());
        for slot in &failed {
            self.device.damage(*slot);
        }
        self.device.fail_after_spills(&self.scheduler, &plan)?;
        self.scheduler.abandon_failed_restores(plan, &failed);
        self.device.scrub_free(&self.scheduler);
        Ok(())
    }

    /// Spills, restores and copies can be carried out in this order, and within each in any.
    pub(super) fn check_moves(&self, plan: &StepPlan) -> Result<(), Rule> {
        let pool = &self.scheduler.pool;
        let bad = |block| Err(Rule::BadMove { block });
        for (idx, spill) in plan.spills().iter().enumerate() {
            let others = &plan.spills()[..idx];
            let is_known = spill.slot.0 < self.scheduler.config().tier_slots;
            if !is_known || others.iter().any(|other| other.slot == spill.slot) {
                return bad(spill.block);
            }
        }
        let restored = plan.restores().iter().map(|restore| restore.block);
        let copied = plan.copies().iter().map(|copy| copy.to);
        let mut written = Vec::new();
        for block in restored.chain(copied) {
            let is_own = pool.holders(block) == 1 && pool.indexed_prefix(block).is_none();
            if !is_own || written.contains(&block) {
                return bad(block);
            }
            written.push(block);
        }
        for copy in plan.copies() {
            if written.contains(&copy.from) || pool.indexed_prefix(copy.from).is_none() {
                return bad(copy.from);
            }
        }
        Ok(())
    }

    /// What the tier says it has is there, and nothing is without what comes before it, unless
    /// that was lost.
    pub(super) fn check_tier(&self) -> Result<(), Rule> {
        let pool = &self.scheduler.pool;
        for slot in pool.used_slots() {
            match pool.slot_prefix(slot) {
                Some((cache_root, tokens)) if !self.device.tier_has(slot, cache_root, &tokens) => {
                    return Err(Rule::BadSlot { slot: slot.0 });
                }
                None if self.has_whole_hashes && pool.lost_slot_count() == 0 => {
                    return Err(Rule::OrphanedSlot { slot: slot.0 });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Some of the slots that a plan restores from, at least one if there are any.
fn damaged(plan: &StepPlan, which: u64) -> Vec<TierSlot> {
    let mut slots: Vec<TierSlot> = plan.restores().iter().map(|restore| restore.slot).collect();
    slots.sort();
    slots.dedup();
    let is_hit = |slot: &TierSlot| mix64(which ^ u64::from(slot.0)) & 1 == 1;
    match slots.iter().any(is_hit) {
        true => slots.retain(is_hit),
        false => slots.truncate(1),
    }
    slots
}
