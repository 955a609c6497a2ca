//! Every block of the KV pool, and whose it is: what a memory map shows.
//!
//! Made by the engine thread between two steps, and only when somebody asks:
//! [`EngineHandle::block_map`](crate::EngineHandle::block_map) keeps the last one for
//! [`MAP_AGE_MAX`], so that the engine makes a few a second however many ask.

use std::time::{Duration, Instant};

use kvist_base::{BlockId, Blocks, SeqId, Tokens};
use kvist_sched::{BlockState, SequenceState, SequenceView};

use crate::step::Core;

/// A map younger than this answers whoever asks next.
pub const MAP_AGE_MAX: Duration = Duration::from_millis(100);
/// Most cells of a map; in a larger pool a cell stands for several blocks.
pub const MAP_CELLS_MAX: u32 = 1 << 16;
/// Most sequences a map describes.
pub const MAP_SEQUENCES_MAX: usize = 256;

/// The pool between two steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMap {
    /// Blocks in the pool now.
    pub blocks: Blocks,
    /// Blocks a cell stands for, the last one perhaps for fewer.
    pub blocks_per_cell: u32,
    /// Blocks by what they are.
    pub counts: MapCounts,
    /// All cells in the order of their blocks, as runs of equal ones: how many, and what.
    pub runs: Vec<(u32, CellContent)>,
    /// The first sequences in order of rank, running ones before waiting ones.
    pub sequences: Vec<MapSequence>,
    /// Sequences that own blocks, described or not.
    pub running: usize,
    /// Sequences that wait, described or not.
    pub waiting: usize,
}

/// Blocks by what they are; each is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapCounts {
    /// Free, and the system has given no memory for it, or not for all of it.
    pub uncommitted: Blocks,
    /// Free, and its memory is kept for the next who needs it.
    pub free: Blocks,
    /// Reusable as a prefix, in no table.
    pub cached: Blocks,
    /// In several tables.
    pub shared: Blocks,
    /// In one table.
    pub owned: Blocks,
}

/// What is in a cell; of several blocks, what most of them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellContent {
    /// As in [`MapCounts`].
    Uncommitted,
    /// As in [`MapCounts`].
    Free,
    /// As in [`MapCounts`].
    Cached,
    /// As in [`MapCounts`].
    Shared,
    /// Owned by a sequence the map does not describe.
    Undescribed,
    /// Owned by the sequence at this place in the map's list.
    Sequence(u16),
}

/// A live sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSequence {
    /// Its id.
    pub id: SeqId,
    /// Whether it owns blocks.
    pub is_running: bool,
    /// Length of the prompt.
    pub prompt_len: Tokens,
    /// Tokens whose KV is in the blocks.
    pub computed_len: Tokens,
    /// Prompt and output so far.
    pub known_len: Tokens,
    /// Length at which it ends at the latest.
    pub len_max: Tokens,
    /// Blocks in its table.
    pub blocks: Blocks,
    /// Tokens found in the prefix cache.
    pub prefix_hit_len: Tokens,
    /// Times it lost its blocks.
    pub preempted_count: u32,
    /// Time since it was accepted.
    pub age: Duration,
}

impl Core {
    /// The map as of now. Only between steps.
    pub(crate) fn map(&self) -> BlockMap {
        let counts = self.scheduler.pool_counts();
        let contents = self.contents();
        assert_eq!(contents.len(), counts.total.len());
        let blocks_per_cell = counts.total.0.div_ceil(MAP_CELLS_MAX).max(1);
        let (running, waiting) = (self.scheduler.running(), self.scheduler.waiting());
        let sequences = running.chain(waiting).take(MAP_SEQUENCES_MAX);
        BlockMap {
            blocks: counts.total,
            blocks_per_cell,
            counts: MapCounts::of(&contents),
            runs: runs(contents, blocks_per_cell as usize),
            sequences: sequences.map(|id| self.map_sequence(id)).collect(),
            running: self.scheduler.running_count(),
            waiting: self.scheduler.waiting_count(),
        }
    }

    /// What is in each block.
    fn contents(&self) -> Vec<CellContent> {
        let total = self.scheduler.pool_counts().total;
        let state = |id| match self.scheduler.block_state(BlockId(id)) {
            BlockState::Held => CellContent::Undescribed,
            BlockState::Cached => CellContent::Cached,
            BlockState::Free if self.device.kv_is_committed(self.kv, BlockId(id)) => {
                CellContent::Free
            }
            BlockState::Free => CellContent::Uncommitted,
        };
        let mut contents: Vec<CellContent> = (0..total.0).map(state).collect();
        let mut seen = vec![false; contents.len()];
        for (index, id) in self.scheduler.running().enumerate() {
            let place = u16::try_from(index).ok();
            let place = place.filter(|_| index < MAP_SEQUENCES_MAX);
            for block in self.view(id).block_table {
                let is_shared = std::mem::replace(&mut seen[block.idx()], true);
                contents[block.idx()] = match place {
                    _ if is_shared => CellContent::Shared,
                    Some(place) => CellContent::Sequence(place),
                    None => CellContent::Undescribed,
                };
            }
        }
        contents
    }

    fn map_sequence(&self, id: SeqId) -> MapSequence {
        let view = self.view(id);
        let held = u32::try_from(view.block_table.len());
        let live = self.live.get(&id).expect("a scheduled sequence is live");
        MapSequence {
            id,
            is_running: view.state == SequenceState::Running,
            prompt_len: view.prompt_len,
            computed_len: view.computed_len,
            known_len: view.known_len,
            len_max: view.len_max,
            blocks: Blocks(held.expect("a table holds no more than the pool has")),
            prefix_hit_len: view.prefix_hit_len,
            preempted_count: view.preempted_count,
            age: live.age(Instant::now()),
        }
    }

    fn view(&self, id: SeqId) -> SequenceView<'_> {
        let view = self.scheduler.sequence(id);
        view.expect("queues name live sequences")
    }
}

impl MapCounts {
    fn of(contents: &[CellContent]) -> Self {
        let mut counts = Self::default();
        for content in contents {
            *counts.of_content(*content) += Blocks(1);
        }
        counts
    }

    fn of_content(&mut self, content: CellContent) -> &mut Blocks {
        match content {
            CellContent::Uncommitted => &mut self.uncommitted,
            CellContent::Free => &mut self.free,
            CellContent::Cached => &mut self.cached,
            CellContent::Shared => &mut self.shared,
            CellContent::Undescribed | CellContent::Sequence(_) => &mut self.owned,
        }
    }
}

/// Cells of so many blocks each, as runs of equal ones.
fn runs(mut contents: Vec<CellContent>, blocks_per_cell: usize) -> Vec<(u32, CellContent)> {
    let mut runs: Vec<(u32, CellContent)> = Vec::new();
    for blocks in contents.chunks_mut(blocks_per_cell) {
        let content = most_common(blocks);
        match runs.last_mut() {
            Some((count, last)) if *last == content => *count += 1,
            _ => runs.push((1, content)),
        }
    }
    runs
}

/// What most of these are; of equally many, the one that says more: it is ordered last.
fn most_common(blocks: &mut [CellContent]) -> CellContent {
    blocks.sort_unstable();
    let same = blocks.chunk_by(PartialEq::eq);
    let most = same.max_by_key(|same| same.len());
    most.expect("a cell has a block")[0]
}

#[cfg(test)]
mod tests {
    use super::CellContent::{Cached, Free, Sequence, Shared, Uncommitted, Undescribed};
    use super::*;

    #[test]
    fn equal_neighbours_are_one_run() {
        let contents = vec![Free, Free, Sequence(0), Sequence(1), Sequence(1), Free];
        let expected = [(2, Free), (1, Sequence(0)), (2, Sequence(1)), (1, Free)];
        assert_eq!(runs(contents, 1), expected);
        assert_eq!(runs(vec![], 1), []);
    }

    #[test]
    fn a_cell_of_several_blocks_is_what_most_of_them_are() {
        let contents = vec![Free, Cached, Free, Shared, Shared, Free, Free, Sequence(3)];
        assert_eq!(
            runs(contents, 3),
            [(1, Free), (1, Shared), (1, Sequence(3))],
            "the last cell has two blocks, of which the owned one says more"
        );
    }

    #[test]
    fn every_block_is_counted_once() {
        let contents = [
            Uncommitted,
            Free,
            Free,
            Cached,
            Shared,
            Undescribed,
            Sequence(0),
        ];
        let counts = MapCounts {
            uncommitted: Blocks(1),
            free: Blocks(2),
            cached: Blocks(1),
            shared: Blocks(1),
            owned: Blocks(2),
        };
        assert_eq!(MapCounts::of(&contents), counts);
    }
}
