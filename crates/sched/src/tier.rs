//! The doors of the second tier.

use crate::kv::{TierEntry, TierEntryError, TierSlot};
use crate::scheduler::{Scheduler, TierCosts};

/// The root whose entries are worth keeping: others stand for adapters and salts of one run.
const LASTING_ROOT: u64 = 0;

impl Scheduler {
    /// From now on blocks are restored only if that is cheaper than to compute them.
    pub fn set_tier_costs(&mut self, costs: TierCosts) {
        self.tier_costs = Some(costs);
    }

    /// Forgets what is in a slot, because it could not be written or read. Only between steps.
    ///
    /// # Panics
    /// There is no such slot.
    pub fn lose_slot(&mut self, slot: TierSlot) {
        assert!(!self.plan_is_out, "lose_slot during a step");
        self.pool.lose_slot(slot);
    }

    /// What is in the second tier with all that comes before it, for sequences of cache root 0; least
    /// recently used first. Blocks that are cached are not in the tier: `drop_cached` puts them
    /// there.
    pub fn tier_entries(&self) -> impl Iterator<Item = TierEntry> {
        self.pool.tier_entries(LASTING_ROOT).into_iter()
    }

    /// Takes in what `tier_entries` gave at another time; the contents are in their slots again.
    /// Before the first sequence is admitted.
    ///
    /// # Errors
    /// The entries do not fit this tier or each other. Nothing is changed then.
    ///
    /// # Panics
    /// Something was admitted or restored before.
    pub fn restore_tier(&mut self, entries: &[TierEntry]) -> Result<(), TierEntryError> {
        assert_eq!(self.arrival_count, 0, "restore_tier after an admission");
        let hasher = self.hasher.ok_or(TierEntryError::NoTier)?;
        self.pool.restore_tier(&hasher, entries)
    }
}
