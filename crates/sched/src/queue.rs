//! Sequences in order of arrival.

use std::collections::BTreeMap;

use kvist_base::SeqId;

/// When a sequence was first admitted, as a count of admissions. Preemption does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival(pub(crate) u64);

/// A set of sequences, oldest first.
#[derive(Debug, Default)]
pub(crate) struct ArrivalQueue {
    by_arrival: BTreeMap<Arrival, SeqId>,
}

impl ArrivalQueue {
    pub(crate) fn len(&self) -> usize {
        self.by_arrival.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_arrival.is_empty()
    }

    pub(crate) fn insert(&mut self, arrival: Arrival, id: SeqId) {
        let replaced = self.by_arrival.insert(arrival, id);
        assert_eq!(replaced, None, "two sequences arrived at once");
    }

    pub(crate) fn remove(&mut self, arrival: Arrival, id: SeqId) {
        let removed = self.by_arrival.remove(&arrival);
        assert_eq!(removed, Some(id), "the sequence is not in this queue");
    }

    pub(crate) fn oldest(&self) -> Option<SeqId> {
        self.by_arrival.first_key_value().map(|(_, id)| *id)
    }

    pub(crate) fn newest(&self) -> Option<SeqId> {
        self.by_arrival.last_key_value().map(|(_, id)| *id)
    }

    /// The oldest sequence that arrived at or after `from`.
    pub(crate) fn first_from(&self, from: Arrival) -> Option<(Arrival, SeqId)> {
        self.by_arrival
            .range(from..)
            .next()
            .map(|(arrival, id)| (*arrival, *id))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SeqId> {
        self.by_arrival.values().copied()
    }
}
