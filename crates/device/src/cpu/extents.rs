//! Which parts of a KV arena may hold memory: a ledger kept beside the system's own, which cannot
//! be asked for the price of a step.
//!
//! An *extent* is what the system commits and takes back as one: a huge page, or a page. Blocks and
//! extents lie across each other as they fall:
//!
//! ```text
//! blocks    |----0----|----1----|----2----|----3----|----4----|
//! extents   |-------0-------|-------1-------|-------2-------|-3|
//! ```
//!
//! A block is *written* from its first write until it is released; an extent is *committed* from
//! the first write to a block it overlaps until no such block is written. So the committed
//! extents cover whatever can be resident, and a run of blocks may be released in any parts and any
//! order: the last part gives back what the others share with it.

use std::ops::Range;

/// The ledger of one arena of equal blocks.
#[derive(Debug)]
pub(super) struct Extents {
    block_bytes: usize,
    extent_bytes: usize,
    /// Of the arena: the last extent is cut here.
    arena_bytes: usize,
    /// By block.
    written: Vec<bool>,
    /// By extent.
    committed: Vec<bool>,
    committed_bytes: usize,
}

impl Extents {
    /// Nothing written, nothing committed. `arena_bytes` is what the blocks end in, in whole pages.
    pub(super) fn new(
        (blocks, block_bytes): (usize, usize),
        (arena_bytes, extent_bytes): (usize, usize),
    ) -> Self {
        assert!(block_bytes > 0 && extent_bytes > 0 && blocks * block_bytes <= arena_bytes);
        Self {
            block_bytes,
            extent_bytes,
            arena_bytes,
            written: vec![false; blocks],
            committed: vec![false; arena_bytes.div_ceil(extent_bytes)],
            committed_bytes: 0,
        }
    }

    /// An upper bound of the arena's resident memory.
    pub(super) fn committed_bytes(&self) -> usize {
        self.committed_bytes
    }

    /// Whether every extent that a block overlaps is committed.
    pub(super) fn is_committed(&self, block: usize) -> bool {
        assert!(block < self.written.len());
        self.committed[self.extents_of(block..block + 1)]
            .iter()
            .all(|is_committed| *is_committed)
    }

    /// A block is about to be written.
    pub(super) fn write(&mut self, block: usize) {
        if self.written[block] {
            return;
        }
        self.written[block] = true;
        for extent in self.extents_of(block..block + 1) {
            if !self.committed[extent] {
                self.committed[extent] = true;
                self.committed_bytes += self.bytes_of(extent..extent + 1).len();
            }
        }
    }

    /// Blocks whose content nobody wants any more. `give_back` is called with each maximal run of
    /// bytes that no written block needs, and says whether the system took it; what it did not
    /// take stays committed. Returns the bytes taken.
    pub(super) fn release(
        &mut self,
        blocks: Range<usize>,
        mut give_back: impl FnMut(Range<usize>) -> bool,
    ) -> usize {
        self.written[blocks.clone()].fill(false);
        let before = self.committed_bytes;
        let all = self.extents_of(blocks);
        let mut at = all.start;
        while at < all.end {
            let run_end = (at..all.end)
                .find(|extent| !self.is_idle(*extent))
                .unwrap_or(all.end);
            let run = at..run_end;
            if !run.is_empty() && give_back(self.bytes_of(run.clone())) {
                self.committed_bytes -= self.bytes_of(run.clone()).len();
                self.committed[run].fill(false);
            }
            at = run_end + 1;
        }
        before - self.committed_bytes
    }

    /// Whether an extent is committed although no written block overlaps it.
    fn is_idle(&self, extent: usize) -> bool {
        let bytes = self.bytes_of(extent..extent + 1);
        let first = bytes.start / self.block_bytes;
        let end = bytes.end.div_ceil(self.block_bytes).min(self.written.len());
        self.committed[extent] && !self.written[first..end].contains(&true)
    }

    /// The extents that some of these blocks overlap.
    fn extents_of(&self, blocks: Range<usize>) -> Range<usize> {
        let start = blocks.start * self.block_bytes;
        let end = blocks.end * self.block_bytes;
        if start == end {
            return 0..0;
        }
        start / self.extent_bytes..end.div_ceil(self.extent_bytes)
    }

    fn bytes_of(&self, extents: Range<usize>) -> Range<usize> {
        let end = (extents.end * self.extent_bytes).min(self.arena_bytes);
        extents.start * self.extent_bytes..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvist_base::mix64;

    /// The definition, slowly: which extents a set of written blocks keeps.
    struct Model {
        blocks: Vec<bool>,
        block_bytes: usize,
        extent_bytes: usize,
        /// By extent.
        committed: Vec<bool>,
    }

    impl Model {
        fn overlaps(&self, block: usize, extent: usize) -> bool {
            let (block, extent) = (
                block * self.block_bytes..(block + 1) * self.block_bytes,
                extent * self.extent_bytes..(extent + 1) * self.extent_bytes,
            );
            block.start < extent.end && extent.start < block.end
        }

        fn is_needed(&self, extent: usize) -> bool {
            (0..self.blocks.len()).any(|block| self.blocks[block] && self.overlaps(block, extent))
        }
    }

    fn pick(seed: &mut u64, below: usize) -> usize {
        *seed = mix64(*seed + 1);
        usize::try_from(*seed % below as u64).expect("below a usize")
    }

    #[test]
    fn extents_are_committed_from_first_write_to_last_release() {
        for seed in 0..200 {
            let mut state = seed;
            let blocks = 1 + pick(&mut state, 40);
            let (block_bytes, extent_bytes) =
                (8 * (1 + pick(&mut state, 50)), 64 << pick(&mut state, 3));
            let arena_bytes = (blocks * block_bytes).next_multiple_of(32);
            let extents = arena_bytes.div_ceil(extent_bytes);
            let mut model = Model {
                blocks: vec![false; blocks],
                block_bytes,
                extent_bytes,
                committed: vec![false; extents],
            };
            let mut ledger = Extents::new((blocks, block_bytes), (arena_bytes, extent_bytes));
            for _ in 0..60 {
                if pick(&mut state, 2) == 0 {
                    let block = pick(&mut state, blocks);
                    ledger.write(block);
                    model.blocks[block] = true;
                    for extent in 0..extents {
                        model.committed[extent] |= model.overlaps(block, extent);
                    }
                } else {
                    let start = pick(&mut state, blocks);
                    let run = start..start + 1 + pick(&mut state, blocks - start);
                    let mut given = vec![];
                    let bytes = ledger.release(run.clone(), |range| {
                        given.push(range);
                        true
                    });
                    model.blocks[run.clone()].fill(false);
                    let mut expected = 0;
                    for extent in 0..extents {
                        let start = extent * extent_bytes;
                        let end = (start + extent_bytes).min(arena_bytes);
                        let is_back = given.iter().any(|r| r.start <= start && end <= r.end);
                        let was = model.committed[extent];
                        model.committed[extent] &= model.is_needed(extent);
                        assert_eq!(is_back, was && !model.committed[extent], "seed {seed}");
                        expected += if is_back { end - start } else { 0 };
                    }
                    assert_eq!(bytes, expected, "seed {seed}");
                    assert_eq!(given.iter().map(Range::len).sum::<usize>(), expected);
                }
                let committed = (0..extents).filter(|extent| model.committed[*extent]);
                let bytes: usize = committed
                    .map(|extent| extent_bytes.min(arena_bytes - extent * extent_bytes))
                    .sum();
                assert_eq!(ledger.committed_bytes(), bytes, "seed {seed}");
                for block in 0..blocks {
                    let mut over = (0..extents).filter(|extent| model.overlaps(block, *extent));
                    let expected = over.all(|extent| model.committed[extent]);
                    assert_eq!(ledger.is_committed(block), expected, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_run_released_in_parts_gives_back_what_it_would_as_a_whole() {
        // Blocks 0 and 1 share the extent at 64, blocks 2 and 3 the one at 256.
        let mut ledger = Extents::new((4, 96), (384, 64));
        (0..4).for_each(|block| ledger.write(block));
        assert_eq!(ledger.committed_bytes(), 384);
        for (block, bytes) in [(0, 64), (1, 128), (3, 64), (2, 128)] {
            assert_eq!(ledger.release(block..block + 1, |_| true), bytes);
        }
        assert_eq!(ledger.committed_bytes(), 0);
    }

    #[test]
    fn what_the_system_keeps_stays_committed() {
        let mut ledger = Extents::new((2, 64), (128, 64));
        ledger.write(0);
        ledger.write(1);
        assert_eq!(ledger.release(0..2, |_| false), 0);
        assert_eq!(ledger.committed_bytes(), 128);
        assert_eq!(ledger.release(0..1, |_| true), 64);
        assert_eq!(ledger.release(1..2, |_| true), 64);
        assert_eq!(ledger.committed_bytes(), 0);
    }
}
