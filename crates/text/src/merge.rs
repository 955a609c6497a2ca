//! Byte-pair merging: join neighbours, best pair first, until no pair can be joined.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A run of text that is one symbol so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// Which symbol it is; what the number means is up to the caller of [`merge`].
    pub id: u32,
    /// Where the text it covers begins, in bytes.
    pub start: u32,
    /// Bytes of the text it covers. Zero once its left neighbour has absorbed it.
    pub len: u32,
    prev: u32,
    next: u32,
}

/// The end of the list of symbols, on either side.
const NONE: u32 = u32::MAX;

/// The longest text that is merged at once. Its symbols are numbered in 32 bits.
pub(crate) const TEXT_BYTES_MAX: usize = NONE as usize - 1;

/// What joining two symbols gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Lower is joined first; among equals the leftmost pair.
    pub rank: u32,
    /// The resulting symbol.
    pub id: u32,
}

/// A pair that could be joined when it was found. Ordered by rank, then position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    /// Length of both: symbols only grow, so a pair of another length is another pair.
    len: u32,
    id: u32,
}

/// Working memory of [`merge`], reused from one text to the next.
#[derive(Default)]
pub(crate) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Starts a text of the given symbols, as (id, bytes of text).
    ///
    /// The caller bounds the text by [`TEXT_BYTES_MAX`].
    pub fn start(&mut self, symbols: impl Iterator<Item = (u32, u32)>) {
        self.symbols.clear();
        self.heap.clear();
        let mut start = 0;
        for ((id, len), at) in symbols.zip(0u32..) {
            let prev = at.checked_sub(1).unwrap_or(NONE);
            self.symbols.push(Symbol {
                id,
                start,
                len,
                prev,
                next: at + 1,
            });
            start += len;
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }

    /// Joins neighbours until nothing can be joined: O(n log n) for n symbols.
    ///
    /// `join(left, right)` says what two neighbours make.
    pub fn merge(&mut self, mut join: impl FnMut(Symbol, Symbol) -> Option<Joined>) {
        for right in 1..self.symbols.len() {
            self.consider(right - 1, &mut join);
        }
        while let Some(Reverse(best)) = self.heap.pop() {
            let at = best.left as usize;
            let left = self.symbols[at];
            if left.len == 0 || left.next == NONE {
                continue;
            }
            let right = self.symbols[left.next as usize];
            if left.len + right.len != best.len {
                continue;
            }
            self.symbols[left.next as usize].len = 0;
            self.symbols[at] = Symbol {
                id: best.id,
                len: best.len,
                next: right.next,
                ..left
            };
            if right.next != NONE {
                self.symbols[right.next as usize].prev = best.left;
                self.consider(at, &mut join);
            }
            if left.prev != NONE {
                self.consider(left.prev as usize, &mut join);
            }
        }
    }

    /// Puts the pair that begins with symbol `at`, which has a right neighbour, on the heap.
    fn consider(&mut self, at: usize, join: &mut impl FnMut(Symbol, Symbol) -> Option<Joined>) {
        let left = self.symbols[at];
        let right = self.symbols[left.next as usize];
        if let Some(Joined { rank, id }) = join(left, right) {
            let len = left.len + right.len;
            self.heap.push(Reverse(Candidate {
                rank,
                left: right.prev,
                len,
                id,
            }));
        }
    }

    /// The symbols that are left, in order.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol> {
        self.symbols.iter().copied().filter(|symbol| symbol.len > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvist_base::mix64;

    use super::*;

    /// The definition, quadratic: find the best pair, join it, start over.
    fn naive(mut symbols: Vec<u32>, rules: &BTreeMap<(u32, u32), Joined>) -> Vec<u32> {
        loop {
            let best = (1..symbols.len())
                .filter_map(|at| Some((rules.get(&(symbols[at - 1], symbols[at]))?, at)))
                .min_by_key(|(joined, at)| (joined.rank, *at));
            let Some((joined, at)) = best else {
                return symbols;
            };
            symbols[at - 1] = joined.id;
            symbols.remove(at);
        }
    }

    #[test]
    fn joins_as_the_definition_does() {
        for seed in 0..300u64 {
            let mut draws = (1u64..).map(|n| mix64(seed << 20 | n));
            let mut draw = |below: u64| u32::try_from(draws.next().unwrap() % below).unwrap();
            let rules: BTreeMap<(u32, u32), Joined> = (0..12)
                .map(|rank| ((draw(4 + u64::from(rank)), draw(4 + u64::from(rank))), rank))
                .map(|(pair, rank)| (pair, Joined { rank, id: rank + 4 }))
                .collect();
            let text: Vec<u32> = (0..40).map(|_| draw(4)).collect();
            let mut merger = Merger::default();
            merger.start(text.iter().map(|&id| (id, 1)));
            merger.merge(|left, right| rules.get(&(left.id, right.id)).copied());
            let merged: Vec<u32> = merger.symbols().map(|symbol| symbol.id).collect();
            assert_eq!(merged, naive(text, &rules), "seed {seed}");
        }
    }

    #[test]
    fn symbols_know_the_text_they_cover() {
        let text = "xyxyz";
        let mut merger = Merger::default();
        merger.start(text.bytes().map(|byte| (u32::from(byte), 1)));
        merger.merge(|left, right| {
            let start = left.start as usize;
            let pair = &text[start..start + (left.len + right.len) as usize];
            let rank = ["xy", "xyz"]
                .iter()
                .zip(0..)
                .find(|(known, _)| **known == pair)?
                .1;
            Some(Joined {
                rank,
                id: 1000 + rank,
            })
        });
        let merged: Vec<u32> = merger.symbols().map(|symbol| symbol.id).collect();
        assert_eq!(merged, [1000, 1001]);
    }
}
