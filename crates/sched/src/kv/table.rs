//! A sequence's blocks, in order.

use kvist_base::{BlockId, Blocks};

/// The blocks of one sequence: position `p` lives in `blocks()[p / block_size]`.
///
/// Each entry is one hold on a block. It is not `Clone`, and only `BlockPool` adds and removes
/// entries, so that every hold is given back exactly once; dropping a table that still holds
/// blocks is a leak, and asserted.
#[must_use = "a table goes back to its pool"]
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    pub(crate) fn count(&self) -> Blocks {
        Blocks(u32::try_from(self.blocks.len()).expect("a table holds no more than the pool has"))
    }

    /// Lets go of the blocks without giving them back: for when their pool ends too.
    pub(crate) fn discard(self) {
        drop(self.into_blocks());
    }

    pub(super) fn push(&mut self, id: BlockId) {
        self.blocks.push(id);
    }

    pub(super) fn pop(&mut self) -> Option<BlockId> {
        self.blocks.pop()
    }

    pub(super) fn replace(&mut self, block_idx: usize, id: BlockId) -> BlockId {
        std::mem::replace(&mut self.blocks[block_idx], id)
    }

    pub(super) fn blocks_mut(&mut self) -> &mut [BlockId] {
        &mut self.blocks
    }

    pub(super) fn into_blocks(mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.blocks)
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        debug_assert!(
            self.blocks.is_empty() || std::thread::panicking(),
            "a block table was dropped with blocks in it"
        );
    }
}
