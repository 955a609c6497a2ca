//! Which block has which content.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use kvist_base::{BlockId, Blocks, TokenId, Tokens};

use super::chain::ChainHash;

/// What comes before a block. Equal parents mean equal prefixes: an indexed block's content never
/// changes, and no two indexed blocks have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Nothing; the cache root of the sequence.
    Root(u64),
    /// An indexed block.
    Block(BlockId),
}

/// The content of a full block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FullBlock<'a> {
    pub(crate) hash: ChainHash,
    pub(crate) parent: Parent,
    /// `block_size` of them.
    pub(crate) tokens: &'a [TokenId],
}

/// What the index knows about a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// This block has it.
    Same(BlockId),
    /// A block with another content has its hash.
    Collision,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: ChainHash,
    parent: Parent,
}

/// Content to block, and back. A forest: see the module's rule 1.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    by_hash: HashMap<ChainHash, BlockId, BuildHasherDefault<ChainHashBits>>,
    /// By block id; `None`: the block is not indexed.
    entries: Vec<Option<Entry>>,
    /// By block id; indexed blocks whose parent it is.
    child_counts: Vec<u32>,
    /// `[blocks_total][block_size]`, all allocated at start.
    tokens: Vec<TokenId>,
    block_size: Tokens,
}

impl PrefixIndex {
    pub(super) fn new(block_size: Tokens, blocks_total: Blocks) -> Self {
        assert!(!block_size.is_empty());
        Self {
            by_hash: HashMap::with_capacity_and_hasher(blocks_total.len(), Default::default()),
            entries: vec![None; blocks_total.len()],
            child_counts: vec![0; blocks_total.len()],
            tokens: vec![TokenId(0); blocks_total.len() * block_size.len()],
            block_size,
        }
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.entries[id.idx()].is_some()
    }

    /// The block with this content; compares everything, not only the hash.
    pub(super) fn find(&self, full: &FullBlock<'_>) -> Found {
        assert_eq!(full.tokens.len(), self.block_size.len());
        let Some(&id) = self.by_hash.get(&full.hash) else {
            return Found::Nothing;
        };
        let entry = self.entries[id.idx()]
            .as_ref()
            .expect("every hash leads to an indexed block");
        assert_eq!(entry.hash, full.hash);
        if entry.parent == full.parent && self.tokens_of(id) == full.tokens {
            Found::Same(id)
        } else {
            Found::Collision
        }
    }

    /// The block with this hash, whatever is in it.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn find_by_hash_only(&self, full: &FullBlock<'_>) -> Option<BlockId> {
        self.by_hash.get(&full.hash).copied()
    }

    pub(super) fn insert(&mut self, id: BlockId, full: &FullBlock<'_>) {
        assert!(!self.contains(id), "an indexed block was indexed again");
        assert_eq!(self.child_counts[id.idx()], 0);
        if let Parent::Block(parent) = full.parent {
            assert!(
                self.contains(parent),
                "the parent of an indexed block is indexed"
            );
            self.child_counts[parent.idx()] += 1;
        }
        let replaced = self.by_hash.insert(full.hash, id);
        assert_eq!(replaced, None, "one hash, one block");
        let start = id.idx() * self.block_size.len();
        self.tokens[start..start + self.block_size.len()].copy_from_slice(full.tokens);
        self.entries[id.idx()] = Some(Entry {
            hash: full.hash,
            parent: full.parent,
        });
    }

    pub(super) fn remove(&mut self, id: BlockId) {
        assert_eq!(
            self.child_counts[id.idx()],
            0,
            "eviction would orphan a block"
        );
        let entry = self.entries[id.idx()]
            .take()
            .expect("only indexed blocks are removed");
        let removed = self.by_hash.remove(&entry.hash);
        assert_eq!(removed, Some(id));
        if let Parent::Block(parent) = entry.parent {
            self.child_counts[parent.idx()] -= 1;
        }
    }

    fn tokens_of(&self, id: BlockId) -> &[TokenId] {
        let start = id.idx() * self.block_size.len();
        &self.tokens[start..start + self.block_size.len()]
    }

    /// Root and tokens of the whole prefix that ends with this block, for checking.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn prefix_of(&self, id: BlockId) -> Option<(u64, Vec<TokenId>)> {
        let mut reversed = Vec::new();
        let mut at = Parent::Block(id);
        loop {
            match at {
                Parent::Root(root) => {
                    reversed.reverse();
                    return Some((root, reversed));
                }
                Parent::Block(block) => {
                    reversed.extend(self.tokens_of(block).iter().rev());
                    at = self.entries[block.idx()]?.parent;
                }
            }
        }
    }
}

/// Takes the low bits of a chain hash as they are: they are mixed already. Fixed, so that no run
/// differs from another.
#[derive(Clone, Copy, Debug, Default)]
struct ChainHashBits(u64);

impl Hasher for ChainHashBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u128(&mut self, hash: u128) {
        #[allow(clippy::cast_possible_truncation)] // the low half is a hash of its own
        let low = hash as u64;
        self.0 = low;
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("a chain hash is written as one u128");
    }
}
