//! The owner of all blocks.

use std::collections::BTreeMap;
use std::ops::Range;

use kvist_base::{BlockId, Blocks, TokenId, Tokens};

use super::chain::ChainHash;
use super::hit::{PrefixHit, Tail};
use super::ids::IdSet;
use super::index::{ContentId, Found, FullBlock, Parent, PrefixIndex};
use super::table::BlockTable;
use super::tier::{Named, Tier, TierSlot};

/// What a block is good for. It is in exactly one of these states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockState {
    /// It has no content worth keeping.
    Free,
    /// At least one block table has it.
    Held,
    /// No table has it, but its content is indexed; it can be evicted.
    Cached,
}

/// Blocks by state; `free + held + cached == total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolCounts {
    /// Blocks with no content worth keeping.
    pub free: Blocks,
    /// Blocks in at least one table.
    pub held: Blocks,
    /// Indexed blocks in no table.
    pub cached: Blocks,
    /// All blocks below the limit.
    pub total: Blocks,
}

impl PoolCounts {
    /// Blocks an allocation can have.
    pub fn available(&self) -> Blocks {
        self.free + self.cached
    }
}

/// The pool's sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSizes {
    pub(crate) block_size: Tokens,
    /// Blocks at the start; their ids are `0..limit`.
    pub(crate) limit: Blocks,
    /// Blocks the second tier holds; 0: there is none.
    pub(crate) tier_slots: u32,
}

/// There are fewer blocks available than asked for. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolFull;

/// What indexing a block came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Indexed {
    /// The block is in the index.
    Added,
    /// An indexed block has the same content; the table now holds that one.
    Merged,
    /// Another content has its hash; the block stays out of the index.
    Collided,
}

/// Bugs the simulator must be able to find.
#[cfg(any(test, feature = "sim"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// Forget one decrement of a shared block's holders.
    LeakOneHold,
    /// Take equal hashes for equal content.
    TrustHashes,
    /// Leave one table behind when blocks move.
    ForgetOneTable,
    /// Restore what has the right tokens, whatever comes before it.
    RestoreForeignParent,
    /// Index the block that the token after a draft fills, whose place still has the rejected token.
    IndexRejected,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlockRecord {
    /// Table entries that name this block.
    pub(super) holders: u32,
    /// Its key in `cached`, when it is there.
    pub(super) cached_at: u64,
}

/// The owner of all blocks and the only place where they change state.
#[derive(Debug)]
pub(crate) struct BlockPool {
    block_size: Tokens,
    /// By block id, as many as the limit.
    pub(super) blocks: Vec<BlockRecord>,
    /// The lowest is given out first: what is in use stays together at the bottom, and memory behind
    /// the top can be given back.
    pub(super) free: IdSet,
    /// Evictable blocks by the time they lost their last holder: the first is evicted first.
    pub(super) cached: BTreeMap<u64, BlockId>,
    /// Releases into `cached` so far: its clock.
    cached_clock: u64,
    held_count: u32,
    pub(super) index: PrefixIndex,
    /// Contents named so far.
    content_count: u64,
    pub(super) tier: Option<Tier>,
    /// Contents given a slot since `take_spills` was last called.
    pub(super) spills: BTreeMap<TierSlot, BlockId>,
    eviction_count: u64,
    pub(super) spill_count: u64,
    pub(super) lost_slot_count: u64,
    #[cfg(any(test, feature = "sim"))]
    pub(crate) planted: Option<PlantedBug>,
}

impl BlockPool {
    pub(crate) fn new(sizes: PoolSizes) -> Self {
        assert!(!sizes.block_size.is_empty());
        assert!(!sizes.limit.is_empty());
        Self {
            block_size: sizes.block_size,
            blocks: vec![BlockRecord::default(); sizes.limit.len()],
            free: IdSet::full(sizes.limit.0),
            cached: BTreeMap::new(),
            cached_clock: 0,
            held_count: 0,
            index: PrefixIndex::new(sizes.block_size, sizes.limit),
            content_count: 0,
            tier: (sizes.tier_slots > 0).then(|| Tier::new(sizes.block_size, sizes.tier_slots)),
            spills: BTreeMap::new(),
            eviction_count: 0,
            spill_count: 0,
            lost_slot_count: 0,
            #[cfg(any(test, feature = "sim"))]
            planted: None,
        }
    }

    pub(crate) fn counts(&self) -> PoolCounts {
        let cached = u32::try_from(self.cached.len());
        let counts = PoolCounts {
            free: Blocks(self.free.len()),
            held: Blocks(self.held_count),
            cached: Blocks(cached.expect("there are no more cached blocks than blocks")),
            total: self.limit(),
        };
        assert_eq!(counts.free + counts.held + counts.cached, counts.total);
        counts
    }

    pub(super) fn block_size(&self) -> Tokens {
        self.block_size
    }

    pub(super) fn new_content(&mut self) -> ContentId {
        let content = ContentId(self.content_count);
        self.content_count += 1;
        content
    }

    /// Blocks there are; their ids are `0..limit`.
    pub(crate) fn limit(&self) -> Blocks {
        let limit = u32::try_from(self.blocks.len());
        Blocks(limit.expect("the pool is sized by a count of blocks"))
    }

    /// Maximal runs of free ids, ascending.
    pub(crate) fn free_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.free.runs()
    }

    /// What is in an indexed block.
    pub(crate) fn content_of(&self, id: BlockId) -> Option<ContentId> {
        self.index.content_of(id)
    }

    pub(crate) fn state(&self, id: BlockId) -> BlockState {
        if self.blocks[id.idx()].holders > 0 {
            BlockState::Held
        } else if self.index.contains(id) {
            BlockState::Cached
        } else {
            BlockState::Free
        }
    }

    /// Cached blocks that were given to another content since the pool was made.
    pub(crate) fn eviction_count(&self) -> u64 {
        self.eviction_count
    }

    /// The longest indexed prefix of `tokens`, block by block. `chain` are their chain hashes.
    pub(crate) fn longest(&self, root: u64, chain: &[ChainHash], tokens: &[TokenId]) -> PrefixHit {
        assert!(chain.len() * self.block_size.len() <= tokens.len());
        let mut hit = PrefixHit::default();
        let mut parent = Parent::Root(root);
        for (&hash, tokens) in chain.iter().zip(tokens.chunks_exact(self.block_size.len())) {
            let Some(id) = self.find(&FullBlock {
                root,
                hash,
                parent,
                tokens,
            }) else {
                break;
            };
            hit.blocks.push(id);
            let content = self.index.content_of(id);
            parent = Parent::Content(content.expect("it was found in the index"));
        }
        assert!(hit.blocks.len() <= chain.len());
        hit
    }

    /// The indexed block with this content.
    pub(crate) fn find(&self, full: &FullBlock<'_>) -> Option<BlockId> {
        #[cfg(any(test, feature = "sim"))]
        if self.planted == Some(PlantedBug::TrustHashes) {
            return self.index.find_by_hash_only(full);
        }
        match self.index.find(full) {
            Found::Same(id) => Some(id),
            Found::Collision | Found::Nothing => None,
        }
    }

    /// Where a block has the beginning of what follows a hit; `tokens` are what could be used of it,
    /// less than a block.
    pub(crate) fn tail_after(
        &self,
        root: u64,
        hit: &PrefixHit,
        tokens: &[TokenId],
    ) -> Option<Tail> {
        assert!(tokens.len() < self.block_size.len());
        let parent = self.parent_after(root, hit)?;
        let (block, len) = self.index.closest(parent, tokens)?;
        let len = u32::try_from(len).expect("less than a block");
        Some(Tail {
            block,
            len: Tokens(len),
        })
    }

    /// What comes before the block after a hit; `None` if that is not indexed.
    pub(super) fn parent_after(&self, root: u64, hit: &PrefixHit) -> Option<Parent> {
        match hit.blocks.last() {
            None => Some(Parent::Root(root)),
            Some(last) => self.index.content_of(*last).map(Parent::Content),
        }
    }

    /// How many of these blocks are cached, so that holding them leaves fewer available.
    pub(crate) fn cached_among(&self, ids: &[BlockId]) -> Blocks {
        let cached = ids
            .iter()
            .filter(|id| self.state(**id) == BlockState::Cached);
        let count = Blocks(cached.map(|_| 1).sum());
        assert!(count <= self.counts().cached);
        count
    }

    /// Puts the blocks of a prefix hit into an empty table.
    pub(crate) fn share(&mut self, table: &mut BlockTable, hit: &PrefixHit) {
        assert!(table.blocks().is_empty(), "a prefix comes first");
        for &id in &hit.blocks {
            assert!(self.index.contains(id));
            self.hold(id);
            table.push(id);
        }
    }

    /// Puts an indexed block into a table: at its end, or in place of its own block, which is not
    /// indexed and goes back.
    pub(crate) fn adopt(&mut self, table: &mut BlockTable, block_idx: usize, id: BlockId) {
        assert!(self.index.contains(id));
        self.hold(id);
        if block_idx == table.blocks().len() {
            table.push(id);
            return;
        }
        let own = table.replace(block_idx, id);
        assert_ne!(own, id);
        assert!(!self.index.contains(own));
        self.drop_hold(own);
    }

    /// Keeps what a hit copies and restores as it is, until `unpin` and `unpin_slots`.
    pub(crate) fn pin(&mut self, hit: &PrefixHit) {
        if let Some(tail) = hit.tail {
            self.hold(tail.block);
        }
        self.pin_slots(&hit.slots);
    }

    /// As if it had been used just now.
    pub(crate) fn unpin(&mut self, id: BlockId) {
        assert!(self.index.contains(id));
        self.drop_hold(id);
    }

    /// Appends blocks until the table has room for `target` tokens; free ones first, then cached
    /// ones, least recently used first. All or nothing.
    pub(crate) fn extend(
        &mut self,
        table: &mut BlockTable,
        target: Tokens,
    ) -> Result<(), PoolFull> {
        let missing = target
            .div_ceil(self.block_size)
            .saturating_sub(table.count());
        if missing > self.counts().available() {
            return Err(PoolFull);
        }
        for _ in 0..missing.0 {
            let id = match self.free.pop_first() {
                Some(id) => BlockId(id),
                None => self.evict(),
            };
            assert!(!self.index.contains(id));
            assert_eq!(self.blocks[id.idx()].holders, 0);
            self.blocks[id.idx()].holders = 1;
            self.held_count += 1;
            table.push(id);
        }
        assert!(table.count() >= target.div_ceil(self.block_size));
        Ok(())
    }

    fn evict(&mut self) -> BlockId {
        let (_, id) = self
            .cached
            .pop_first()
            .expect("extend counted the available blocks");
        self.spill(id);
        self.index.remove(id);
        self.eviction_count += 1;
        id
    }

    /// Indexes the full block at `block_idx` of a table, all of whose positions are computed.
    pub(crate) fn index(
        &mut self,
        table: &mut BlockTable,
        block_idx: usize,
        full: &FullBlock<'_>,
    ) -> Indexed {
        let own = table.blocks()[block_idx];
        assert_eq!(
            self.blocks[own.idx()].holders,
            1,
            "a block is shared only once indexed"
        );
        assert!(!self.index.contains(own));
        match self.index.find(full) {
            Found::Nothing => {
                self.drop_tail_within(full.parent, full.tokens);
                let content = self.name(full);
                self.index.insert(
                    own,
                    &Named {
                        content,
                        full: *full,
                    },
                );
                Indexed::Added
            }
            Found::Same(other) => {
                self.adopt(table, block_idx, other);
                Indexed::Merged
            }
            Found::Collision => Indexed::Collided,
        }
    }

    /// Indexes the beginning of a block that its only table is about to give back, unless another
    /// block begins the same.
    pub(crate) fn index_tail(&mut self, id: BlockId, parent: Parent, tokens: &[TokenId]) {
        assert_eq!(self.blocks[id.idx()].holders, 1);
        if !self.index.has_beginning(parent, tokens) {
            self.drop_tail_within(parent, tokens);
            let content = self.new_content();
            self.index.insert_tail(id, content, (parent, tokens));
        }
    }

    /// Makes a tail free that the content about to be indexed begins with.
    fn drop_tail_within(&mut self, parent: Parent, tokens: &[TokenId]) {
        if let Some(id) = self.index.tail_within(parent, tokens) {
            let removed = self.cached.remove(&self.blocks[id.idx()].cached_at);
            assert_eq!(removed, Some(id), "no table has a tail");
            self.index.remove(id);
            self.free.insert(id.0);
        }
    }

    /// Takes a table's blocks back, last block first, so that tails are evicted before the
    /// prefixes that more sequences share.
    pub(crate) fn release(&mut self, table: BlockTable) {
        for id in table.into_blocks().into_iter().rev() {
            self.drop_hold(id);
        }
        self.counts();
    }

    /// Takes back blocks at a table's end, none of them shared or indexed, until no more are left than
    /// `target` tokens need.
    pub(crate) fn shorten(&mut self, table: &mut BlockTable, target: Tokens) {
        while table.count() > target.div_ceil(self.block_size) {
            let id = table.pop().expect("the table is not empty");
            assert!(!self.index.contains(id));
            self.drop_hold(id);
        }
    }

    /// Makes cached blocks free, least recently used first, until at most `keep` are left. Says how
    /// many.
    pub(crate) fn drop_cached(&mut self, keep: Blocks) -> Blocks {
        let count = self.counts().cached.saturating_sub(keep);
        for _ in 0..count.0 {
            let (_, id) = self.cached.pop_first().expect("just counted");
            self.spill(id);
            self.index.remove(id);
            self.free.insert(id.0);
        }
        assert!(self.counts().cached <= keep);
        count
    }

    fn hold(&mut self, id: BlockId) {
        let record = &mut self.blocks[id.idx()];
        if record.holders == 0 {
            let removed = self.cached.remove(&record.cached_at);
            assert_eq!(removed, Some(id), "a block to share is held or cached");
            self.held_count += 1;
        }
        record.holders += 1;
    }

    fn drop_hold(&mut self, id: BlockId) {
        let record = &mut self.blocks[id.idx()];
        assert!(record.holders > 0, "a block was given back twice");
        #[cfg(any(test, feature = "sim"))]
        if self.planted == Some(PlantedBug::LeakOneHold) && record.holders > 1 {
            self.planted = None;
            return;
        }
        record.holders -= 1;
        if record.holders > 0 {
            return;
        }
        self.held_count -= 1;
        if self.index.contains(id) {
            self.cached_clock += 1;
            record.cached_at = self.cached_clock;
            let replaced = self.cached.insert(self.cached_clock, id);
            assert_eq!(replaced, None);
        } else {
            self.free.insert(id.0);
        }
    }

    /// Table entries that name a block, for checking.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn holders(&self, id: BlockId) -> u32 {
        self.blocks[id.idx()].holders
    }

    /// Root and tokens of the prefix that ends with an indexed block, for checking.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn indexed_prefix(&self, id: BlockId) -> Option<(u64, Vec<TokenId>)> {
        self.index
            .contains(id)
            .then(|| self.index.prefix_of(id))
            .flatten()
    }

    /// Blocks in the order in which `extend` would give them out.
    #[cfg(test)]
    pub(crate) fn allocation_order(&self) -> Vec<BlockId> {
        let free = self.free.runs().flatten().map(BlockId);
        free.chain(self.cached.values().copied()).collect()
    }
}
