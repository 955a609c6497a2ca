//! Which block has which content.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use kvist_base::{BlockId, Blocks, TokenId, Tokens, mix64};

use super::chain::ChainHash;

/// The content of an indexed block and of everything before it. Never used for another content, so
/// it outlives the block: content can move to another block, or leave and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContentId(pub(crate) u64);

/// What comes before a block. Equal parents mean equal prefixes: a content never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Nothing; the cache root of the sequence.
    Root(u64),
    /// An indexed content.
    Content(ContentId),
}

impl Hash for Parent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(match self {
            Self::Root(root) => mix64(!root),
            Self::Content(content) => mix64(content.0),
        });
    }
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
    content: ContentId,
    hash: ChainHash,
    parent: Parent,
}

type ByHash<K, V> = HashMap<K, V, BuildHasherDefault<HashedBits>>;

/// Content to block, and back. A forest: see the module's rule 1.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    by_hash: ByHash<ChainHash, BlockId>,
    /// By block id; `None`: the block is not indexed.
    entries: Vec<Option<Entry>>,
    /// Indexed blocks that come next after a prefix, how many.
    child_counts: ByHash<Parent, u32>,
    /// `[limit][block_size]`.
    tokens: Vec<TokenId>,
    block_size: Tokens,
    /// Contents named so far.
    content_count: u64,
}

impl PrefixIndex {
    pub(super) fn new(block_size: Tokens, limit: Blocks) -> Self {
        assert!(!block_size.is_empty());
        let mut index = Self {
            by_hash: HashMap::default(),
            entries: Vec::new(),
            child_counts: HashMap::default(),
            tokens: Vec::new(),
            block_size,
            content_count: 0,
        };
        index.resize(limit);
        index
    }

    /// Sizes the tables for ids below `limit`; none above it is indexed.
    pub(super) fn resize(&mut self, limit: Blocks) {
        let beyond = self.entries.iter().skip(limit.len());
        assert!(beyond.flatten().next().is_none());
        self.entries.resize(limit.len(), None);
        self.entries.shrink_to_fit();
        self.tokens
            .resize(limit.len() * self.block_size.len(), TokenId(0));
        self.tokens.shrink_to_fit();
        self.by_hash.shrink_to(limit.len());
        self.by_hash.reserve(limit.len() - self.by_hash.len());
        self.child_counts.shrink_to(limit.len());
        self.child_counts
            .reserve(limit.len() - self.child_counts.len());
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.entries[id.idx()].is_some()
    }

    /// What is in an indexed block.
    pub(super) fn content_of(&self, id: BlockId) -> Option<ContentId> {
        self.entries[id.idx()].map(|entry| entry.content)
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
        let content = ContentId(self.content_count);
        self.content_count += 1;
        *self.child_counts.entry(full.parent).or_default() += 1;
        let replaced = self.by_hash.insert(full.hash, id);
        assert_eq!(replaced, None, "one hash, one block");
        let start = id.idx() * self.block_size.len();
        self.tokens[start..start + self.block_size.len()].copy_from_slice(full.tokens);
        self.entries[id.idx()] = Some(Entry {
            content,
            hash: full.hash,
            parent: full.parent,
        });
    }

    pub(super) fn remove(&mut self, id: BlockId) {
        let entry = self.entries[id.idx()]
            .take()
            .expect("only indexed blocks are removed");
        assert!(
            !self
                .child_counts
                .contains_key(&Parent::Content(entry.content)),
            "eviction would orphan a block"
        );
        let removed = self.by_hash.remove(&entry.hash);
        assert_eq!(removed, Some(id));
        let siblings = self.child_counts.get_mut(&entry.parent);
        let siblings = siblings.expect("a child was counted");
        *siblings -= 1;
        if *siblings == 0 {
            self.child_counts.remove(&entry.parent);
        }
    }

    /// The content of `from` is in `to` now.
    pub(super) fn relocate(&mut self, from: BlockId, to: BlockId) {
        assert!(!self.contains(to));
        let Some(entry) = self.entries[from.idx()].take() else {
            return;
        };
        let size = self.block_size.len();
        let start = from.idx() * size;
        self.tokens
            .copy_within(start..start + size, to.idx() * size);
        let replaced = self.by_hash.insert(entry.hash, to);
        assert_eq!(replaced, Some(from));
        self.entries[to.idx()] = Some(entry);
    }

    fn tokens_of(&self, id: BlockId) -> &[TokenId] {
        let start = id.idx() * self.block_size.len();
        &self.tokens[start..start + self.block_size.len()]
    }

    /// Root and tokens of the whole prefix that ends with this block, for checking.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn prefix_of(&self, id: BlockId) -> Option<(u64, Vec<TokenId>)> {
        let block_of = |content| {
            let is_it = |entry: &Option<Entry>| entry.is_some_and(|e| e.content == content);
            let idx = self.entries.iter().position(is_it)?;
            u32::try_from(idx).ok().map(BlockId)
        };
        let mut reversed = Vec::new();
        let mut at = Some(id);
        loop {
            let block = at?;
            reversed.extend(self.tokens_of(block).iter().rev());
            match self.entries[block.idx()]?.parent {
                Parent::Root(root) => {
                    reversed.reverse();
                    return Some((root, reversed));
                }
                Parent::Content(content) => at = block_of(content),
            }
        }
    }
}

/// Takes bits that are mixed already as they are. Fixed, so that no run differs from another.
#[derive(Clone, Copy, Debug, Default)]
struct HashedBits(u64);

impl Hasher for HashedBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u128(&mut self, hash: u128) {
        #[allow(clippy::cast_possible_truncation)] // the low half is a hash of its own
        let low = hash as u64;
        self.0 = low;
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("keys are written as one word of mixed bits");
    }
}
