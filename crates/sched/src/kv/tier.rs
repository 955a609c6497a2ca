//! The second tier: contents of blocks that have left the pool, in slots outside of it.
//!
//! Inclusive: a content that is brought back keeps its slot. The content that was used least recently
//! goes first, and a content counts as used after everything that follows it, so that what goes
//! is a leaf.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kvist_base::{BlockId, TokenId, Tokens};

use super::chain::ChainHash;
use super::ids::IdSet;
use super::index::{ByHash, ContentId, FullBlock, Parent};

/// A place for one block's content in the second tier: `0..tier_slots`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierSlot(pub u32);

impl TierSlot {
    fn idx(self) -> usize {
        self.0 as usize
    }
}

/// A block's content, to be written to the second tier before the block is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spill {
    /// The block to read.
    pub block: BlockId,
    /// The slot to write.
    pub slot: TierSlot,
}

/// A slot's content, to be read into a block before anything is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The slot to read.
    pub slot: TierSlot,
    /// The block to write, all of it.
    pub block: BlockId,
}

/// A full content, by everything that identifies it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) content: ContentId,
    pub(super) full: FullBlock<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) content: ContentId,
    pub(super) root: u64,
    pub(super) hash: ChainHash,
    pub(super) parent: Parent,
    /// Its key in `by_use`.
    used_at: u64,
}

/// What is in which slot.
#[derive(Debug)]
pub(super) struct Tier {
    block_size: Tokens,
    /// By slot; `None`: nothing is in it.
    records: Vec<Option<Record>>,
    /// `[slots][block_size]`.
    tokens: Vec<TokenId>,
    free: IdSet,
    by_hash: ByHash<ChainHash, TierSlot>,
    /// Least recently used first.
    by_use: BTreeMap<u64, TierSlot>,
    use_clock: u64,
    /// Slots that the plan being made reads.
    pinned: BTreeSet<TierSlot>,
}

impl Tier {
    pub(super) fn new(block_size: Tokens, slots: u32) -> Self {
        Self {
            block_size,
            records: vec![None; slots as usize],
            tokens: vec![TokenId(0); slots as usize * block_size.len()],
            free: IdSet::full(slots),
            by_hash: HashMap::default(),
            by_use: BTreeMap::new(),
            use_clock: 0,
            pinned: BTreeSet::new(),
        }
    }

    /// The slot with this content; compares everything, not only the hash.
    pub(super) fn find(&self, full: &FullBlock<'_>) -> Option<TierSlot> {
        let slot = self.find_any_parent(full)?;
        (self.record(slot).parent == full.parent).then_some(slot)
    }

    /// As `find`, whatever comes before.
    pub(super) fn find_any_parent(&self, full: &FullBlock<'_>) -> Option<TierSlot> {
        let slot = *self.by_hash.get(&full.hash)?;
        (self.tokens_of(slot) == full.tokens).then_some(slot)
    }

    pub(super) fn record(&self, slot: TierSlot) -> &Record {
        let record = self.records[slot.idx()].as_ref();
        record.expect("only slots with content are named")
    }

    pub(super) fn tokens_of(&self, slot: TierSlot) -> &[TokenId] {
        let start = slot.idx() * self.block_size.len();
        &self.tokens[start..start + self.block_size.len()]
    }

    /// Takes in a content that leaves the pool. Returns the slot to write it to; `None` if the tier
    /// has it already, or has no slot that the plan being made does not read.
    pub(super) fn take_in(&mut self, named: &Named<'_>) -> Option<TierSlot> {
        if let Some(&slot) = self.by_hash.get(&named.full.hash) {
            if self.record(slot).content == named.content {
                self.touch(slot);
                return None;
            }
            if self.pinned.contains(&slot) {
                return None;
            }
            // Of two contents with one hash the later one stays. Mostly the other is what became
            // of a prefix that has been lost and computed again since: nobody can find it.
            self.forget(slot);
        }
        if self.free.len() == 0 {
            let oldest = self
                .by_use
                .values()
                .find(|slot| !self.pinned.contains(slot));
            self.forget(*oldest?);
        }
        let slot = TierSlot(self.free.pop_first()?);
        self.put(slot, named);
        Some(slot)
    }

    /// Enters a content in a slot that was just taken.
    pub(super) fn put(&mut self, slot: TierSlot, named: &Named<'_>) {
        let FullBlock {
            root,
            hash,
            parent,
            tokens,
        } = named.full;
        let start = slot.idx() * self.block_size.len();
        self.tokens[start..start + self.block_size.len()].copy_from_slice(tokens);
        let replaced = self.by_hash.insert(hash, slot);
        assert_eq!(replaced, None, "one hash, one slot");
        self.use_clock += 1;
        self.by_use.insert(self.use_clock, slot);
        let record = Record {
            content: named.content,
            root,
            hash,
            parent,
            used_at: self.use_clock,
        };
        let replaced = self.records[slot.idx()].replace(record);
        assert!(replaced.is_none(), "a slot has one content");
    }

    /// Takes a free slot; false if it is in use.
    pub(super) fn try_take(&mut self, slot: TierSlot) -> bool {
        let is_free = self.free.contains(slot.0);
        if is_free {
            self.free.remove(slot.0);
        }
        is_free
    }

    fn touch(&mut self, slot: TierSlot) {
        self.use_clock += 1;
        let now = self.use_clock;
        let record = self.records[slot.idx()].as_mut();
        let record = record.expect("only slots with content are used");
        let removed = self.by_use.remove(&record.used_at);
        assert_eq!(removed, Some(slot));
        record.used_at = now;
        self.by_use.insert(now, slot);
    }

    /// Uses a slot, and keeps it as it is until `unpin_all`.
    pub(super) fn pin(&mut self, slot: TierSlot) {
        self.touch(slot);
        self.pinned.insert(slot);
    }

    pub(super) fn unpin_all(&mut self) {
        self.pinned.clear();
    }

    /// Makes a slot free; false if it is.
    pub(super) fn forget(&mut self, slot: TierSlot) -> bool {
        assert!(!self.pinned.contains(&slot));
        let Some(record) = self.records[slot.idx()].take() else {
            return false;
        };
        let removed = self.by_hash.remove(&record.hash);
        assert_eq!(removed, Some(slot));
        let removed = self.by_use.remove(&record.used_at);
        assert_eq!(removed, Some(slot));
        self.free.insert(slot.0);
        true
    }

    pub(super) fn forget_all(&mut self) {
        while let Some((_, slot)) = self.by_use.first_key_value() {
            self.forget(*slot);
        }
        assert!(self.by_hash.is_empty());
    }

    /// How many slots there are.
    pub(super) fn slot_count(&self) -> u32 {
        u32::try_from(self.records.len()).expect("the tier was made from a count of slots")
    }

    /// Slots with content, least recently used first.
    pub(super) fn slots(&self) -> impl Iterator<Item = TierSlot> + '_ {
        self.by_use.values().copied()
    }
}
