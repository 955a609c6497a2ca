//! A pool that grows and shrinks while its blocks are in use.

use kvist_base::{BlockId, Blocks};

#[cfg(any(test, feature = "sim"))]
use super::pool::PlantedBug;
use super::pool::{BlockPool, BlockRecord, BlockState};
use super::table::BlockTable;

/// The content of one block, to be in another one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// The block to read.
    pub from: BlockId,
    /// The block to write, all of it.
    pub to: BlockId,
}

impl BlockPool {
    /// Adds free blocks up to `limit`.
    pub(crate) fn grow(&mut self, limit: Blocks) {
        assert!(limit >= self.limit());
        self.set_limit(limit);
    }

    /// Moves every held or cached block to an id below `limit`, the highest ones last, and takes the
    /// ids above it away. Sources of the copies are beyond the limit and destinations below it, so
    /// their order does not matter. Each table must `follow` before anything else happens.
    pub(crate) fn shrink(&mut self, limit: Blocks) -> Vec<BlockCopy> {
        let counts = self.counts();
        assert!(counts.held + counts.cached <= limit && limit <= counts.total);
        let mut copies = Vec::new();
        for from in (limit.0..counts.total.0).map(BlockId) {
            if self.state(from) == BlockState::Free {
                continue;
            }
            let to = self.free.pop_first();
            let to = BlockId(to.expect("what is in use fits below the limit"));
            assert!(to.0 < limit.0, "the lowest free id is below the limit");
            self.relocate(from, to);
            copies.push(BlockCopy { from, to });
        }
        self.set_limit(limit);
        copies
    }

    fn relocate(&mut self, from: BlockId, to: BlockId) {
        let record = std::mem::take(&mut self.blocks[from.idx()]);
        if record.holders == 0 {
            let replaced = self.cached.insert(record.cached_at, to);
            assert_eq!(replaced, Some(from), "a block to move is held or cached");
        }
        self.index.relocate(from, to);
        self.blocks[to.idx()] = record;
        self.free.insert(from.0);
    }

    fn set_limit(&mut self, limit: Blocks) {
        self.free.resize(limit.0);
        self.blocks.resize(limit.len(), BlockRecord::default());
        self.blocks.shrink_to_fit();
        self.index.resize(limit);
        self.counts();
    }

    /// Renames the blocks of a table that `shrink` has moved. `copies` as it returned them.
    pub(crate) fn follow(&mut self, table: &mut BlockTable, copies: &[BlockCopy]) {
        assert!(copies.is_sorted_by_key(|copy| copy.from));
        for id in table.blocks_mut() {
            if id.idx() < self.blocks.len() {
                continue;
            }
            #[cfg(any(test, feature = "sim"))]
            if self.planted == Some(PlantedBug::ForgetOneTable) {
                self.planted = None;
                return;
            }
            let moved = copies.binary_search_by_key(id, |copy| copy.from);
            *id = copies[moved.expect("a held block beyond the limit has moved")].to;
        }
    }
}
