//! A set of small ids that hands out the lowest.

use std::ops::Range;

const WORD_BITS: u32 = u64::BITS;

/// Ids below a limit, one bit each, under a pyramid of summaries: insert, remove and the lowest id
/// cost one word a level, and a level has a 64th of the words of the one below it.
///
/// ```text
/// levels[1]   1 0 1            bit n: word n of levels[0] is not zero
/// levels[0]   0110.. 0000.. 1000..
/// ```
#[derive(Debug)]
pub(super) struct IdSet {
    levels: Vec<Vec<u64>>,
    limit: u32,
    len: u32,
}

impl IdSet {
    /// All ids below `limit`.
    pub(super) fn full(limit: u32) -> Self {
        let mut set = Self {
            levels: vec![Vec::new()],
            limit: 0,
            len: 0,
        };
        set.resize(limit);
        set
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        assert!(id < self.limit);
        let (word, bit) = place(id);
        self.levels[0][word] & bit != 0
    }

    pub(super) fn insert(&mut self, id: u32) {
        assert!(!self.contains(id), "an id was given back twice");
        self.len += 1;
        let mut at = id;
        for level in &mut self.levels {
            let (word, bit) = place(at);
            let was_empty = level[word] == 0;
            level[word] |= bit;
            if !was_empty {
                break;
            }
            at /= WORD_BITS;
        }
    }

    pub(super) fn remove(&mut self, id: u32) {
        assert!(self.contains(id), "an id was taken twice");
        self.len -= 1;
        let mut at = id;
        for level in &mut self.levels {
            let (word, bit) = place(at);
            level[word] &= !bit;
            if level[word] != 0 {
                break;
            }
            at /= WORD_BITS;
        }
    }

    pub(super) fn pop_first(&mut self) -> Option<u32> {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let word = *level.get(at as usize)?;
            if word == 0 {
                return None;
            }
            at = at * WORD_BITS + word.trailing_zeros();
        }
        self.remove(at);
        Some(at)
    }

    /// The maximal runs of ids in the set, ascending.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next_where(at, |word| word)?;
            let end = self.next_where(start, |word| !word).unwrap_or(self.limit);
            at = end;
            Some(start..end)
        })
    }

    /// The first id from `from` on whose bit is set in its word as `view` shows it.
    fn next_where(&self, from: u32, view: impl Fn(u64) -> u64) -> Option<u32> {
        let (first, bit) = place(from);
        let mut mask = !(bit - 1);
        for (word, bits) in (first..).zip(self.levels[0].get(first..)?) {
            let bits = view(*bits) & mask;
            if bits != 0 {
                let word = u32::try_from(word).expect("there are fewer words than ids");
                let id = word * WORD_BITS + bits.trailing_zeros();
                return (id < self.limit).then_some(id);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Moves the limit. Ids it lets in are in the set; ids it cuts off must have been.
    pub(super) fn resize(&mut self, limit: u32) {
        let old = self.limit;
        let cut = limit.min(old)..old;
        assert!(
            cut.clone().all(|id| self.contains(id)),
            "a block beyond the limit is in use"
        );
        self.len -= cut.end - cut.start;
        self.len += limit.saturating_sub(old);
        self.limit = limit;
        let words = &mut self.levels[0];
        for id in cut {
            let (word, bit) = place(id);
            words[word] &= !bit;
        }
        words.resize(limit.div_ceil(WORD_BITS) as usize, 0);
        words.shrink_to_fit();
        for id in old..limit.max(old) {
            let (word, bit) = place(id);
            words[word] |= bit;
        }
        self.summarise();
    }

    fn summarise(&mut self) {
        self.levels.truncate(1);
        while let Some(below) = self.levels.last()
            && below.len() > 1
        {
            let summary = below.chunks(WORD_BITS as usize).map(|words| {
                let bits = words.iter().enumerate();
                bits.fold(0, |summary, (bit, word)| {
                    summary | u64::from(*word != 0) << bit
                })
            });
            let level = summary.collect();
            self.levels.push(level);
        }
    }
}

/// The word of an id, and its bit there.
fn place(id: u32) -> (usize, u64) {
    ((id / WORD_BITS) as usize, 1 << (id % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sim::scenario::Rng;

    fn runs_of(model: &BTreeSet<u32>) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for id in model {
            match runs.last_mut() {
                Some(run) if run.end == *id => run.end += 1,
                _ => runs.push(*id..*id + 1),
            }
        }
        runs
    }

    #[test]
    fn it_agrees_with_a_sorted_set() {
        for seed in 0..60 {
            let mut rng = Rng::new(seed);
            let scale = [3, 64, 65, 300, 4096, 5000][rng.between(0, 5) as usize];
            let mut limit = rng.between(1, scale);
            let mut set = IdSet::full(limit);
            let mut model: BTreeSet<u32> = (0..limit).collect();
            for _ in 0..200 {
                let id = rng.between(0, limit - 1);
                match rng.between(0, 9) {
                    0..=3 => assert_eq!(set.pop_first(), model.pop_first()),
                    4..=7 if model.insert(id) => set.insert(id),
                    8 if model.remove(&id) => set.remove(id),
                    9 => {
                        let next = rng.between(1, scale);
                        if (next..limit).all(|id| model.contains(&id)) {
                            set.resize(next);
                            model.retain(|id| *id < next);
                            model.extend(limit..next.max(limit));
                            limit = next;
                        }
                    }
                    _ => assert_eq!(set.contains(id), model.contains(&id)),
                }
                assert_eq!(set.len() as usize, model.len());
            }
            assert_eq!(set.runs().collect::<Vec<_>>(), runs_of(&model));
        }
    }
}
