//! Which block has which content.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use kvist_base::{BlockId, Blocks, TokenId, Tokens, mix64};

use super::chain::ChainHash;
use super::tier::Named;

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
    /// The cache root of the sequence.
    pub(crate) root: u64,
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
    /// `None`: the block is a tail.
    key: Option<Key>,
    parent: Parent,
    len: usize,
}

/// What a full block has beside its parent and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    root: u64,
    hash: ChainHash,
}

pub(super) type ByHash<K, V> = HashMap<K, V, BuildHasherDefault<HashedBits>>;

/// Content to block, and back. A forest: see the module's rule 1.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    by_hash: ByHash<ChainHash, BlockId>,
    /// By block id; `None`: the block is not indexed.
    entries: Vec<Option<Entry>>,
    /// Indexed blocks that come next after a prefix, in order of their tokens. No list is empty, and
    /// no tail is the beginning of a sibling.
    children: ByHash<Parent, Vec<BlockId>>,
    /// `[limit][block_size]`.
    tokens: Vec<TokenId>,
    block_size: Tokens,
}

impl PrefixIndex {
    pub(super) fn new(block_size: Tokens, limit: Blocks) -> Self {
        assert!(!block_size.is_empty());
        let mut index = Self {
            by_hash: HashMap::default(),
            entries: Vec::new(),
            children: HashMap::default(),
            tokens: Vec::new(),
            block_size,
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
        self.children.shrink_to(limit.len());
        self.children.reserve(limit.len() - self.children.len());
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
        assert_eq!(entry.key.map(|key| key.hash), Some(full.hash));
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

    /// The indexed block that has the most tokens in common with what comes after `parent`, and how
    /// many; `None` if there is none.
    pub(super) fn closest(&self, parent: Parent, tokens: &[TokenId]) -> Option<(BlockId, usize)> {
        // In the order of tokens, it is next to where these tokens would be.
        let siblings = self.children.get(&parent)?;
        let place = siblings.partition_point(|id| self.tokens_of(*id) < tokens);
        let around = siblings[place.saturating_sub(1)..].iter().take(2);
        let common = around.map(|id| (*id, common_len(self.tokens_of(*id), tokens)));
        common
            .rev()
            .max_by_key(|(_, len)| *len)
            .filter(|(_, len)| *len > 0)
    }

    /// Whether an indexed block after `parent` begins with `tokens`.
    pub(super) fn has_beginning(&self, parent: Parent, tokens: &[TokenId]) -> bool {
        let closest = self.closest(parent, tokens);
        closest.is_some_and(|(_, len)| len == tokens.len())
    }

    /// The tail after `parent` that is the beginning of `tokens`.
    pub(super) fn tail_within(&self, parent: Parent, tokens: &[TokenId]) -> Option<BlockId> {
        // Whatever is between a beginning and the whole begins the same, so it would be no tail.
        let siblings = self.children.get(&parent)?;
        let place = siblings.partition_point(|id| self.tokens_of(*id) < tokens);
        let before = siblings[..place].last().copied()?;
        tokens.starts_with(self.tokens_of(before)).then_some(before)
    }

    pub(super) fn insert(&mut self, id: BlockId, named: &Named<'_>) {
        let FullBlock {
            root,
            hash,
            parent,
            tokens,
        } = named.full;
        assert_eq!(tokens.len(), self.block_size.len());
        let replaced = self.by_hash.insert(hash, id);
        assert_eq!(replaced, None, "one hash, one block");
        let entry = Entry {
            content: named.content,
            key: Some(Key { root, hash }),
            parent,
            len: tokens.len(),
        };
        self.place(id, tokens, entry);
    }

    /// Indexes the beginning of a block. It is never a parent.
    pub(super) fn insert_tail(
        &mut self,
        id: BlockId,
        content: ContentId,
        (parent, tokens): (Parent, &[TokenId]),
    ) {
        assert!((1..self.block_size.len()).contains(&tokens.len()));
        assert!(!self.has_beginning(parent, tokens));
        let entry = Entry {
            content,
            key: None,
            parent,
            len: tokens.len(),
        };
        self.place(id, tokens, entry);
    }

    /// A full block's content by all that identifies it; `None` for a tail.
    pub(super) fn named(&self, id: BlockId) -> Option<Named<'_>> {
        let entry = self.entries[id.idx()]?;
        let Key { root, hash } = entry.key?;
        Some(Named {
            content: entry.content,
            full: FullBlock {
                root,
                hash,
                parent: entry.parent,
                tokens: self.tokens_of(id),
            },
        })
    }

    fn place(&mut self, id: BlockId, tokens: &[TokenId], entry: Entry) {
        assert!(!self.contains(id), "an indexed block was indexed again");
        assert_eq!(self.tail_within(entry.parent, tokens), None);
        let start = id.idx() * self.block_size.len();
        self.tokens[start..start + tokens.len()].copy_from_slice(tokens);
        self.entries[id.idx()] = Some(entry);
        let siblings = self.children.remove(&entry.parent);
        let mut siblings = siblings.unwrap_or_default();
        let place = siblings.partition_point(|other| self.tokens_of(*other) < tokens);
        siblings.insert(place, id);
        self.children.insert(entry.parent, siblings);
    }

    pub(super) fn remove(&mut self, id: BlockId) {
        let (parent, place) = self.place_of(id);
        let entry = self.entries[id.idx()].take();
        let entry = entry.expect("only indexed blocks are removed");
        assert!(
            !self.children.contains_key(&Parent::Content(entry.content)),
            "eviction would orphan a block"
        );
        if let Some(key) = entry.key {
            let removed = self.by_hash.remove(&key.hash);
            assert_eq!(removed, Some(id));
        }
        let siblings = self.children.get_mut(&parent);
        let siblings = siblings.expect("an indexed block is a child");
        siblings.remove(place);
        if siblings.is_empty() {
            self.children.remove(&parent);
        }
    }

    /// The parent of an indexed block, and its place among the siblings.
    fn place_of(&self, id: BlockId) -> (Parent, usize) {
        let entry = self.entries[id.idx()].expect("only indexed blocks have a parent");
        let siblings = &self.children[&entry.parent];
        let place = siblings.partition_point(|other| self.tokens_of(*other) < self.tokens_of(id));
        assert_eq!(siblings.get(place), Some(&id));
        (entry.parent, place)
    }

    /// The content of `from` is in `to` now.
    pub(super) fn relocate(&mut self, from: BlockId, to: BlockId) {
        assert!(!self.contains(to));
        if !self.contains(from) {
            return;
        }
        let (parent, place) = self.place_of(from);
        let siblings = self.children.get_mut(&parent);
        siblings.expect("an indexed block is a child")[place] = to;
        let entry = self.entries[from.idx()].take();
        let key = entry.and_then(|entry| entry.key);
        self.entries[to.idx()] = entry;
        let size = self.block_size.len();
        let start = from.idx() * size;
        self.tokens
            .copy_within(start..start + size, to.idx() * size);
        if let Some(key) = key {
            let replaced = self.by_hash.insert(key.hash, to);
            assert_eq!(replaced, Some(from));
        }
    }

    /// The tokens of an indexed block; fewer than `block_size` if it is a tail.
    fn tokens_of(&self, id: BlockId) -> &[TokenId] {
        let len = self.entries[id.idx()].map_or(0, |entry| entry.len);
        let start = id.idx() * self.block_size.len();
        &self.tokens[start..start + len]
    }

    /// The block that has a content, for checking.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn block_of(&self, content: ContentId) -> Option<BlockId> {
        let is_it = |entry: &Option<Entry>| entry.is_some_and(|e| e.content == content);
        let idx = self.entries.iter().position(is_it)?;
        u32::try_from(idx).ok().map(BlockId)
    }

    /// Root and tokens of the whole prefix that ends with this block, for checking.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn prefix_of(&self, id: BlockId) -> Option<(u64, Vec<TokenId>)> {
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
                Parent::Content(content) => at = self.block_of(content),
            }
        }
    }
}

fn common_len(one: &[TokenId], other: &[TokenId]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

/// Takes bits that are mixed already as they are. Fixed, so that no run differs from another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HashedBits(u64);

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
