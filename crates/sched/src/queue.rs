//! Sequences in the order in which they are served.

use std::collections::BTreeMap;
use std::ops::Bound;

use kvist_base::SeqId;

/// Who comes first: the lower priority number, then the earlier arrival. Preemption does not change
/// it, and no two sequences have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: i32,
    /// When it was first admitted, as a count of admissions.
    pub(crate) arrival: u64,
}

/// A set of sequences by rank.
#[derive(Debug, Default)]
pub(crate) struct RankQueue {
    by_rank: BTreeMap<Rank, SeqId>,
}

impl RankQueue {
    pub(crate) fn len(&self) -> usize {
        self.by_rank.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_rank.is_empty()
    }

    pub(crate) fn insert(&mut self, rank: Rank, id: SeqId) {
        let replaced = self.by_rank.insert(rank, id);
        assert_eq!(replaced, None, "two sequences arrived at once");
    }

    pub(crate) fn remove(&mut self, rank: Rank, id: SeqId) {
        let removed = self.by_rank.remove(&rank);
        assert_eq!(removed, Some(id), "the sequence is not in this queue");
    }

    /// The first to be served.
    pub(crate) fn first(&self) -> Option<SeqId> {
        self.by_rank.first_key_value().map(|(_, id)| *id)
    }

    /// The last to be served, and the first to give way.
    pub(crate) fn last(&self) -> Option<SeqId> {
        self.by_rank.last_key_value().map(|(_, id)| *id)
    }

    /// The first after `rank`; of all, if there is none to be after.
    pub(crate) fn first_after(&self, rank: Option<Rank>) -> Option<(Rank, SeqId)> {
        let after = rank.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.by_rank.range((after, Bound::Unbounded));
        rest.next().map(|(rank, id)| (*rank, *id))
    }

    /// Those that share the priority of the first.
    pub(crate) fn most_urgent(&self) -> impl Iterator<Item = SeqId> {
        let first = self
            .by_rank
            .first_key_value()
            .map(|(rank, _)| rank.priority);
        let urgent = move |(rank, _): &(&Rank, &SeqId)| Some(rank.priority) == first;
        self.by_rank.iter().take_while(urgent).map(|(_, id)| *id)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = SeqId> {
        self.by_rank.values().copied()
    }
}
