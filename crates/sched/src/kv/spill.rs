//! Between the pool and its second tier.

use kvist_base::{BlockId, Blocks, TokenId};

use super::chain::ChainHash;
use super::hit::PrefixHit;
use super::index::{ContentId, FullBlock, Parent};
use super::pool::BlockPool;
#[cfg(any(test, feature = "sim"))]
use super::pool::PlantedBug;
use super::tier::{Spill, TierSlot};

impl BlockPool {
    /// A cached block is about to lose its content: the tier takes it in, if there is one. Tails are
    /// not worth a slot.
    pub(super) fn spill(&mut self, id: BlockId) {
        let Some(tier) = &mut self.tier else { return };
        let Some(named) = self.index.named(id) else {
            return;
        };
        if let Some(slot) = tier.take_in(&named) {
            // A content that was to go there in this plan has had to make way.
            self.spills.insert(slot, id);
        }
    }

    /// What is to be written to the tier since this was last called, each slot once.
    pub(crate) fn take_spills(&mut self) -> Vec<Spill> {
        let spills = std::mem::take(&mut self.spills);
        let spills = spills
            .into_iter()
            .map(|(slot, block)| Spill { block, slot });
        let spills: Vec<Spill> = spills.collect();
        self.spill_count += spills.len() as u64;
        spills
    }

    /// Contents that were given a slot since the pool was made.
    pub(crate) fn spill_count(&self) -> u64 {
        self.spill_count
    }

    /// Slots whose content was lost since the pool was made.
    pub(crate) fn lost_slot_count(&self) -> u64 {
        self.lost_slot_count
    }

    /// The slots that go on where a hit ends, block by block. `chain` and `tokens` are of all blocks.
    pub(crate) fn restorable(
        &self,
        root: u64,
        hit: &PrefixHit,
        chain: &[ChainHash],
        tokens: &[TokenId],
    ) -> Vec<TierSlot> {
        let (Some(tier), Some(mut parent)) = (&self.tier, self.parent_after(root, hit)) else {
            return Vec::new();
        };
        let blocks = chain
            .iter()
            .zip(tokens.chunks_exact(self.block_size().len()));
        let mut slots = Vec::new();
        for (&hash, tokens) in blocks.skip(hit.blocks.len()) {
            let full = FullBlock {
                root,
                hash,
                parent,
                tokens,
            };
            let Some(slot) = self.find_slot(&full) else {
                break;
            };
            slots.push(slot);
            parent = Parent::Content(tier.record(slot).content);
        }
        slots
    }

    fn find_slot(&self, full: &FullBlock<'_>) -> Option<TierSlot> {
        let tier = self.tier.as_ref()?;
        #[cfg(any(test, feature = "sim"))]
        if self.planted == Some(PlantedBug::RestoreForeignParent) {
            return tier.find_any_parent(full);
        }
        tier.find(full)
    }

    /// What names a content that becomes indexed: the tier's name if it has it.
    pub(super) fn name(&mut self, full: &FullBlock<'_>) -> ContentId {
        let tier = self.tier.as_ref();
        let known = tier.and_then(|tier| Some(tier.record(tier.find(full)?).content));
        known.unwrap_or_else(|| self.new_content())
    }

    /// Keeps slots as they are until `unpin_slots`. The last one counts as used first.
    pub(super) fn pin_slots(&mut self, slots: &[TierSlot]) {
        for slot in slots.iter().rev() {
            let tier = self.tier.as_mut();
            tier.expect("its slots were found").pin(*slot);
        }
    }

    pub(crate) fn unpin_slots(&mut self) {
        if let Some(tier) = &mut self.tier {
            tier.unpin_all();
        }
    }

    /// Forgets what is in a slot.
    pub(crate) fn lose_slot(&mut self, slot: TierSlot) {
        let tier = self.tier.as_mut().expect("only a tier has slots");
        self.lost_slot_count += u64::from(tier.forget(slot));
    }

    /// Forgets every content that no table holds, in the pool and in the tier.
    pub(crate) fn forget_all(&mut self) {
        // Without a tier nothing is spilled.
        let mut tier = self.tier.take();
        self.drop_cached(Blocks::ZERO);
        if let Some(tier) = &mut tier {
            tier.forget_all();
        }
        self.tier = tier;
    }

    /// Root and tokens of the prefix that ends in a slot, for checking; `None` if nothing is in the
    /// slot, or what comes before is lost.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn slot_prefix(&self, slot: TierSlot) -> Option<(u64, Vec<TokenId>)> {
        let tier = self.tier.as_ref()?;
        let slot = tier.slots().find(|other| *other == slot)?;
        let record = tier.record(slot);
        let (root, mut tokens) = match record.parent {
            Parent::Root(root) => (root, Vec::new()),
            Parent::Content(parent) => {
                let is_parent = |slot: &TierSlot| tier.record(*slot).content == parent;
                let in_tier = tier.slots().find(is_parent);
                let above = in_tier.and_then(|slot| self.slot_prefix(slot));
                above.or_else(|| self.index.prefix_of(self.index.block_of(parent)?))?
            }
        };
        tokens.extend(tier.tokens_of(slot));
        assert_eq!(root, record.root);
        Some((root, tokens))
    }

    /// Slots with content, for checking.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn used_slots(&self) -> Vec<TierSlot> {
        let tier = self.tier.iter();
        tier.flat_map(super::tier::Tier::slots).collect()
    }
}
