//! The second tier's index as data, to be kept beside its contents and read again at another start.

use std::collections::{BTreeMap, BTreeSet};

use kvist_base::{TokenId, Tokens};

use super::chain::{ChainHash, ChainHasher};
use super::index::{ContentId, FullBlock, Parent};
use super::pool::BlockPool;
use super::tier::{Named, Tier, TierSlot};

/// What is in one slot of the second tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierEntry {
    /// The slot.
    pub slot: TierSlot,
    /// A number for the content, unique among the entries.
    pub content: u64,
    /// The `content` of the entry that comes before; `None`: this is the beginning of a sequence.
    pub parent: Option<u64>,
    /// The cache root of the sequence.
    pub root: u64,
    /// The chain hash of the tokens and everything before them.
    pub hash: u128,
    /// The tokens, `block_size` of them.
    pub tokens: Vec<TokenId>,
}

/// Why entries of a tier were not taken in. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TierEntryError {
    /// `tier_slots` is zero.
    #[error("there is no second tier to restore")]
    NoTier,
    /// The tier has fewer slots.
    #[error("slot {slot} of the second tier is beyond its limit of {limit}", slot = slot.0)]
    BeyondLimit {
        /// The slot.
        slot: TierSlot,
        /// How many slots there are.
        limit: u32,
    },
    /// Two entries are for one slot, or have one number or one hash.
    #[error("slot {slot} of the second tier repeats the {what} of another", slot = slot.0)]
    Repeated {
        /// The later of the two.
        slot: TierSlot,
        /// What they have in common.
        what: &'static str,
    },
    /// An entry is not for one block.
    #[error("slot {slot} of the second tier has {given} tokens, a block has {limit}", slot = slot.0)]
    WrongLength {
        /// The slot.
        slot: TierSlot,
        /// Tokens in a block.
        limit: Tokens,
        /// Tokens in the entry.
        given: usize,
    },
    /// What comes before is not there, or has another root.
    #[error("slot {slot} of the second tier continues content {parent}, which is not there", slot = slot.0)]
    NoParent {
        /// The slot.
        slot: TierSlot,
        /// The number of the content before.
        parent: u64,
    },
    /// The hash is not that of the tokens.
    #[error("the hash of slot {slot} of the second tier does not fit its tokens", slot = slot.0)]
    WrongHash {
        /// The slot.
        slot: TierSlot,
    },
}

impl BlockPool {
    /// The entries of one root whose whole prefix is in the tier, least recently used first.
    pub(crate) fn tier_entries(&self, root: u64) -> Vec<TierEntry> {
        let Some(tier) = &self.tier else {
            return Vec::new();
        };
        let of_root = |slot: &TierSlot| tier.record(*slot).root == root;
        let slots: Vec<TierSlot> = tier.slots().filter(of_root).collect();
        let by_content: BTreeMap<ContentId, TierSlot> = slots
            .iter()
            .map(|slot| (tier.record(*slot).content, *slot))
            .collect();
        let mut is_whole = BTreeMap::new();
        for slot in &slots {
            mark_whole(tier, &by_content, &mut is_whole, *slot);
        }
        let whole = slots.into_iter().filter(|slot| is_whole[slot]);
        whole.map(|slot| entry(tier, slot)).collect()
    }

    /// Takes entries into an empty tier, the first as the least recently used.
    pub(crate) fn restore_tier(
        &mut self,
        hasher: &ChainHasher,
        entries: &[TierEntry],
    ) -> Result<(), TierEntryError> {
        let tier = self.tier.as_ref().ok_or(TierEntryError::NoTier)?;
        assert_eq!(tier.slots().next(), None, "entries go into an empty tier");
        self.check_entries(hasher, entries, tier.slot_count())?;
        // The numbers come from outside, so they get new ones here.
        let names: BTreeMap<u64, ContentId> = entries
            .iter()
            .map(|entry| (entry.content, self.new_content()))
            .collect();
        let tier = self.tier.as_mut().ok_or(TierEntryError::NoTier)?;
        for entry in entries {
            let parent = match entry.parent {
                None => Parent::Root(entry.root),
                Some(parent) => Parent::Content(names[&parent]),
            };
            let is_free = tier.try_take(entry.slot);
            assert!(is_free, "no slot is named twice");
            tier.put(
                entry.slot,
                &Named {
                    content: names[&entry.content],
                    full: FullBlock {
                        root: entry.root,
                        hash: ChainHash(entry.hash),
                        parent,
                        tokens: &entry.tokens,
                    },
                },
            );
        }
        Ok(())
    }

    fn check_entries(
        &self,
        hasher: &ChainHasher,
        entries: &[TierEntry],
        limit: u32,
    ) -> Result<(), TierEntryError> {
        let mut slots = BTreeSet::new();
        let mut numbers = BTreeMap::new();
        let mut hashes = BTreeSet::new();
        for entry in entries {
            let slot = entry.slot;
            if slot.0 >= limit {
                return Err(TierEntryError::BeyondLimit { slot, limit });
            }
            if entry.tokens.len() != self.block_size().len() {
                return Err(TierEntryError::WrongLength {
                    slot,
                    limit: self.block_size(),
                    given: entry.tokens.len(),
                });
            }
            let is_new = [
                ("slot", slots.insert(slot)),
                ("number", numbers.insert(entry.content, entry).is_none()),
                ("hash", hashes.insert(entry.hash)),
            ];
            if let Some((what, _)) = is_new.into_iter().find(|(_, is_new)| !is_new) {
                return Err(TierEntryError::Repeated { slot, what });
            }
        }
        for entry in entries {
            let slot = entry.slot;
            let before = match entry.parent {
                None => None,
                Some(parent) => {
                    let before = numbers.get(&parent);
                    let before = before.filter(|before| before.root == entry.root);
                    let before = before.ok_or(TierEntryError::NoParent { slot, parent })?;
                    Some(ChainHash(before.hash))
                }
            };
            if hasher.next(before, entry.root, &entry.tokens) != ChainHash(entry.hash) {
                return Err(TierEntryError::WrongHash { slot });
            }
        }
        Ok(())
    }
}

/// Whether the whole prefix of a slot is in the tier, for it and all slots before it.
fn mark_whole(
    tier: &Tier,
    by_content: &BTreeMap<ContentId, TierSlot>,
    is_whole: &mut BTreeMap<TierSlot, bool>,
    slot: TierSlot,
) {
    let mut path = Vec::new();
    let mut at = Some(slot);
    let verdict = loop {
        let Some(slot) = at else { break false };
        if path.len() > by_content.len() {
            // Entries from outside could follow each other in a circle, given hashes made for it.
            break false;
        }
        if let Some(known) = is_whole.get(&slot) {
            break *known;
        }
        path.push(slot);
        match tier.record(slot).parent {
            Parent::Root(_) => break true,
            Parent::Content(parent) => at = by_content.get(&parent).copied(),
        }
    };
    is_whole.extend(path.into_iter().map(|slot| (slot, verdict)));
}

fn entry(tier: &Tier, slot: TierSlot) -> TierEntry {
    let record = tier.record(slot);
    TierEntry {
        slot,
        content: record.content.0,
        parent: match record.parent {
            Parent::Root(_) => None,
            Parent::Content(parent) => Some(parent.0),
        },
        root: record.root,
        hash: record.hash.0,
        tokens: tier.tokens_of(slot).to_vec(),
    }
}
