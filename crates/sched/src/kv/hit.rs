//! What a sequence finds of itself.

use kvist_base::{BlockId, Blocks, Tokens};

use super::tier::TierSlot;

/// Indexed blocks that hold the beginning of a sequence.
#[derive(Debug, Default)]
pub(crate) struct PrefixHit {
    /// Whole blocks, to be shared.
    pub(crate) blocks: Vec<BlockId>,
    /// What comes next in the second tier, to be restored.
    pub(crate) slots: Vec<TierSlot>,
    /// A part of one more block, to be copied; only where there is nothing to restore.
    pub(crate) tail: Option<Tail>,
}

/// The beginning of an indexed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) block: BlockId,
    /// At least one, and less than a block.
    pub(crate) len: Tokens,
}

impl PrefixHit {
    /// Drops blocks from the end until at most `count_max` are left; says whether any were.
    pub(crate) fn shorten(&mut self, count_max: usize) -> bool {
        let is_longer = self.blocks.len() > count_max;
        self.blocks.truncate(count_max);
        is_longer
    }

    /// Tokens in the slots to restore.
    pub(crate) fn slots_len(&self, block_size: Tokens) -> Tokens {
        let count = u32::try_from(self.slots.len()).expect("a hit is shorter than its sequence");
        let len = Blocks(count).capacity(block_size);
        len.expect("a hit is hardly longer than its sequence")
    }

    /// Blocks to share.
    pub(crate) fn count(&self) -> Blocks {
        Blocks(u32::try_from(self.blocks.len()).expect("a hit holds no more than the pool has"))
    }
}
