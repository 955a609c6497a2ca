//! Blocks of the draft model's KV pool: each is free or in one table.

use kvist_base::{BlockId, Blocks, Tokens};

/// The owner of all blocks. Nothing is shared and nothing cached: content is only of use to the
/// sequence it is of.
#[derive(Debug)]
pub(super) struct BlockStack {
    block_size: Tokens,
    /// The next one given is the last.
    free: Vec<BlockId>,
    total: Blocks,
}

/// The blocks of one sequence, in order. Filled and emptied by [`BlockStack`] alone.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<BlockId>);

impl Table {
    /// A table that grows to `blocks` without asking for memory.
    pub(super) fn with_capacity(blocks: Blocks) -> Self {
        Self(Vec::with_capacity(blocks.len()))
    }

    pub(super) fn blocks(&self) -> &[BlockId] {
        &self.0
    }
}

impl BlockStack {
    pub(super) fn new(total: Blocks, block_size: Tokens) -> Self {
        Self {
            block_size,
            free: (0..total.0).rev().map(BlockId).collect(),
            total,
        }
    }

    /// Gives a table the blocks for `len` tokens; false, and nothing is changed, when there are too few.
    pub(super) fn extend(&mut self, table: &mut Table, len: Tokens) -> bool {
        let wanted = len.div_ceil(self.block_size).len();
        let missing = wanted.saturating_sub(table.0.len());
        let Some(left) = self.free.len().checked_sub(missing) else {
            return false;
        };
        table.0.extend(self.free.drain(left..).rev());
        true
    }

    /// Empties a table; it keeps its own memory.
    pub(super) fn take_back(&mut self, table: &mut Table) {
        self.free.append(&mut table.0);
        assert!(
            self.free.len() <= self.total.len(),
            "a block came back twice"
        );
    }

    pub(super) fn free(&self) -> Blocks {
        Blocks(u32::try_from(self.free.len()).expect("no more than there are blocks"))
    }

    pub(super) fn total(&self) -> Blocks {
        self.total
    }

    /// The maximal runs of free ids, ascending. The list is put in order for it, lowest ids first given.
    pub(super) fn free_runs(&mut self) -> Vec<std::ops::Range<u32>> {
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
        for id in self.free.iter().rev() {
            match runs.last_mut() {
                Some(run) if run.end == id.0 => run.end += 1,
                _ => runs.push(id.0..id.0 + 1),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(table: &Table) -> Vec<u32> {
        table.blocks().iter().map(|id| id.0).collect()
    }

    #[test]
    fn every_block_is_free_or_in_one_table() {
        let mut blocks = BlockStack::new(Blocks(5), Tokens(4));
        let (mut a, mut b) = (Table::default(), Table::with_capacity(Blocks(3)));
        assert!(blocks.extend(&mut a, Tokens(5)));
        assert!(blocks.extend(&mut b, Tokens(4)));
        assert_eq!(
            (ids(&a), ids(&b), blocks.free()),
            (vec![0, 1], vec![2], Blocks(2))
        );
        assert!(blocks.extend(&mut a, Tokens(8)), "it has them");
        assert_eq!(ids(&a), [0, 1]);
        assert!(!blocks.extend(&mut b, Tokens(17)), "four more, two left");
        assert_eq!((ids(&b), blocks.free()), (vec![2], Blocks(2)));
        blocks.take_back(&mut a);
        assert_eq!((ids(&a), blocks.free()), (vec![], Blocks(4)));
        assert!(blocks.extend(&mut b, Tokens(17)));
        assert_eq!(blocks.free(), Blocks::ZERO);
        blocks.take_back(&mut b);
        assert_eq!(blocks.free(), blocks.total());
    }

    #[test]
    fn free_blocks_are_listed_in_runs() {
        let mut blocks = BlockStack::new(Blocks(6), Tokens(1));
        let mut tables = [(); 6].map(|()| Table::default());
        for table in &mut tables {
            assert!(blocks.extend(table, Tokens(1)));
        }
        assert_eq!(blocks.free_runs(), []);
        for idx in [4, 0, 5, 1] {
            blocks.take_back(&mut tables[idx]);
        }
        assert_eq!(blocks.free_runs(), [0..2, 4..6]);
        assert!(blocks.extend(&mut tables[0], Tokens(1)));
        assert_eq!(ids(&tables[0]), [0], "the lowest first");
    }
}
