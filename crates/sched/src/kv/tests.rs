//! The pool against a model that is slow and obvious, and the golden eviction trace.
#![allow(clippy::cast_possible_truncation)] // numbers here are small

use kvist_base::{BlockId, Blocks, TokenId, Tokens};

use super::*;
use crate::sim::scenario::Rng;

fn pool(block_size: u32, limit: u32) -> BlockPool {
    BlockPool::new(PoolSizes {
        block_size: Tokens(block_size),
        limit: Blocks(limit),
        tier_slots: 0,
    })
}

fn ids(ids: &[u32]) -> Vec<BlockId> {
    ids.iter().copied().map(BlockId).collect()
}

/// Indexes the full blocks of a table that holds `tokens` from the start.
fn index_all(pool: &mut BlockPool, table: &mut BlockTable, tokens: &[TokenId], from: usize) {
    let hasher = ChainHasher::new(Tokens(16), u128::MAX);
    let mut chain = Vec::new();
    hasher.extend(&mut chain, 0, tokens);
    for (block_idx, hash) in chain.iter().enumerate().skip(from) {
        let parent = match block_idx {
            0 => Parent::Root(0),
            _ => Parent::Content(pool.content_of(table.blocks()[block_idx - 1]).unwrap()),
        };
        let tokens = &tokens[block_idx * 16..(block_idx + 1) * 16];
        let full = FullBlock {
            root: 0,
            hash: *hash,
            parent,
            tokens,
        };
        assert_eq!(pool.index(table, block_idx, &full), Indexed::Added);
    }
}

fn hit(pool: &BlockPool, tokens: &[TokenId]) -> PrefixHit {
    let mut chain = Vec::new();
    ChainHasher::new(Tokens(16), u128::MAX).extend(&mut chain, 0, tokens);
    pool.longest(0, &chain, tokens)
}

/// The story that vLLM's prefix cache tests pin down, with its order of eviction. Its pool of 11 has a
/// null block 0 that is never given out, so its ids 1..=10 are 0..=9 here. Free blocks go lowest first
/// here, last freed first there.
#[test]
fn tails_are_evicted_first_and_unindexed_blocks_before_them() {
    let mut pool = pool(16, 10);
    let common: Vec<TokenId> = (0..48).map(|n| TokenId(n / 16)).collect();
    let with_tail = |token, len| {
        let mut tokens = common.clone();
        tokens.extend(vec![TokenId(token); len]);
        tokens
    };
    let mut first = BlockTable::default();
    pool.extend(&mut first, Tokens(55)).unwrap();
    index_all(&mut pool, &mut first, &with_tail(3, 7), 0);
    assert_eq!(first.blocks(), ids(&[0, 1, 2, 3]));

    let mut second = BlockTable::default();
    let found = hit(&pool, &with_tail(3, 5));
    assert_eq!(found.blocks, ids(&[0, 1, 2]));
    pool.share(&mut second, &found);
    pool.extend(&mut second, Tokens(53)).unwrap();
    assert_eq!(second.blocks(), ids(&[0, 1, 2, 4]));
    assert_eq!(pool.holders(BlockId(1)), 2);
    assert_eq!(pool.counts().free, Blocks(5));

    pool.release(first);
    pool.release(second);
    assert_eq!(
        pool.allocation_order(),
        ids(&[3, 4, 5, 6, 7, 8, 9, 2, 1, 0])
    );
    assert_eq!(pool.counts().cached, Blocks(3));

    let mut third = BlockTable::default();
    let found = hit(&pool, &with_tail(3, 6));
    pool.share(&mut third, &found);
    pool.extend(&mut third, Tokens(54)).unwrap();
    assert_eq!(third.blocks(), ids(&[0, 1, 2, 3]));
    pool.release(third);

    let mut miss = BlockTable::default();
    pool.extend(&mut miss, Tokens(160)).unwrap();
    assert_eq!(miss.blocks(), ids(&[3, 4, 5, 6, 7, 8, 9, 2, 1, 0]));
    assert_eq!(pool.eviction_count(), 3);
    pool.release(miss);
}

#[test]
fn a_full_pool_changes_nothing() {
    let mut pool = pool(4, 3);
    let mut table = BlockTable::default();
    pool.extend(&mut table, Tokens(5)).unwrap();
    let before = (table.blocks().to_vec(), pool.counts());
    assert!(pool.extend(&mut table, Tokens(13)).is_err());
    assert_eq!(before, (table.blocks().to_vec(), pool.counts()));
    pool.extend(&mut table, Tokens(12)).unwrap();
    pool.extend(&mut table, Tokens(1)).unwrap();
    assert_eq!(
        table.blocks().len(),
        3,
        "a table never shrinks while it is in use"
    );
    pool.release(table);
}

#[test]
#[should_panic(expected = "dropped with blocks in it")]
fn a_table_that_is_dropped_with_blocks_is_noticed() {
    let mut pool = pool(4, 3);
    let mut table = BlockTable::default();
    pool.extend(&mut table, Tokens(5)).unwrap();
    drop(table);
}

/// What a block is, written down as plainly as possible: sets are lists, contents are prefixes.
#[derive(Debug)]
struct ModelPool {
    block_size: usize,
    /// By block: the tables that have it.
    users: Vec<Vec<usize>>,
    /// By block: the whole prefix it ends, once indexed.
    content: Vec<Option<Vec<TokenId>>>,
    free: Vec<BlockId>,
    cached: Vec<BlockId>,
}

impl ModelPool {
    fn new(block_size: usize, limit: u32) -> Self {
        Self {
            block_size,
            users: vec![Vec::new(); limit as usize],
            content: vec![None; limit as usize],
            free: (0..limit).map(BlockId).collect(),
            cached: Vec::new(),
        }
    }

    fn longest(&self, tokens: &[TokenId]) -> Vec<BlockId> {
        let ends = (1..=tokens.len() / self.block_size).map(|n| n * self.block_size);
        ends.map_while(|end| self.find(&tokens[..end])).collect()
    }

    fn find(&self, prefix: &[TokenId]) -> Option<BlockId> {
        let position = self
            .content
            .iter()
            .position(|content| content.as_deref() == Some(prefix));
        position.map(|idx| BlockId(idx as u32))
    }

    /// The block that begins most like what follows `tokens[..start]`, and for how many tokens.
    fn closest(&self, tokens: &[TokenId], start: usize) -> Option<usize> {
        let contents = self.content.iter().flatten();
        let follows = contents.filter(|content| {
            content.len() > start
                && content.len() <= start + self.block_size
                && content[..start] == tokens[..start]
        });
        let common = follows.map(|content| {
            let pairs = content[start..].iter().zip(&tokens[start..]);
            pairs.take_while(|(one, other)| one == other).count()
        });
        common.max().filter(|len| *len > 0)
    }

    /// Drops the tail that `prefix` continues; false if something continues `prefix` itself.
    fn make_way(&mut self, prefix: &[TokenId]) -> bool {
        let start = (prefix.len() - 1) / self.block_size * self.block_size;
        for id in (0..self.content.len() as u32).map(BlockId) {
            let Some(content) = &self.content[id.idx()] else {
                continue;
            };
            if (content.len() - 1) / self.block_size * self.block_size != start {
                continue;
            }
            if content.starts_with(prefix) {
                return false;
            }
            if prefix.starts_with(content) {
                self.content[id.idx()] = None;
                self.cached.retain(|cached| *cached != id);
                self.give_free(id);
            }
        }
        true
    }

    fn take(&mut self, id: BlockId, user: usize) {
        self.cached.retain(|cached| *cached != id);
        self.users[id.idx()].push(user);
    }

    /// `None` if there are too few.
    fn extend(&mut self, user: usize, count: usize) -> Option<Vec<BlockId>> {
        if count > self.free.len() + self.cached.len() {
            return None;
        }
        let mut given = Vec::new();
        for _ in 0..count {
            let from = if self.free.is_empty() {
                &mut self.cached
            } else {
                &mut self.free
            };
            let id = from.remove(0);
            self.content[id.idx()] = None;
            self.users[id.idx()].push(user);
            given.push(id);
        }
        Some(given)
    }

    fn give_back(&mut self, id: BlockId, user: usize) {
        self.users[id.idx()].retain(|other| *other != user);
        if !self.users[id.idx()].is_empty() {
            return;
        }
        match self.content[id.idx()] {
            Some(_) => self.cached.push(id),
            None => self.give_free(id),
        }
    }

    fn drop_cached(&mut self, keep: usize) {
        let count = self.cached.len().saturating_sub(keep);
        for id in self.cached.drain(..count).collect::<Vec<_>>() {
            self.content[id.idx()] = None;
            self.give_free(id);
        }
    }

    fn give_free(&mut self, id: BlockId) {
        self.free.push(id);
        self.free.sort();
    }

    fn allocation_order(&self) -> Vec<BlockId> {
        [self.free.as_slice(), self.cached.as_slice()].concat()
    }
}

/// A user of both pools.
#[derive(Debug, Default)]
struct User {
    table: BlockTable,
    tokens: Vec<TokenId>,
    chain: Vec<ChainHash>,
    indexed_count: usize,
}

/// Both pools, given the same calls.
struct Pair {
    pool: BlockPool,
    model: ModelPool,
    users: Vec<User>,
    hasher: ChainHasher,
}

impl Pair {
    fn begin(&mut self, user_idx: usize, tokens: Vec<TokenId>) {
        let user = &mut self.users[user_idx];
        self.hasher.extend(&mut user.chain, 0, &tokens);
        let hit = self.pool.longest(0, &user.chain, &tokens);
        assert_eq!(hit.blocks, self.model.longest(&tokens));
        let cached = hit
            .blocks
            .iter()
            .filter(|id| self.model.cached.contains(id))
            .count();
        assert_eq!(self.pool.cached_among(&hit.blocks).len(), cached);
        let start = hit.blocks.len() * self.model.block_size;
        let end = tokens.len().min(start + self.model.block_size - 1);
        let tail = self.pool.tail_after(0, &hit, &tokens[start..end]);
        let tail_len = tail.map(|tail| tail.len.len());
        assert_eq!(tail_len, self.model.closest(&tokens[..end], start));
        if let Some(tail) = tail {
            let content = self.model.content[tail.block.idx()].as_ref().unwrap();
            assert_eq!(
                content[..start + tail.len.len()],
                tokens[..start + tail.len.len()]
            );
        }
        self.pool.share(&mut user.table, &hit);
        for id in &hit.blocks {
            self.model.take(*id, user_idx);
        }
        user.indexed_count = hit.blocks.len();
        user.tokens = tokens;
    }

    fn extend(&mut self, user_idx: usize, len: usize) {
        let user = &mut self.users[user_idx];
        let had = user.table.blocks().len();
        let count = len.div_ceil(self.model.block_size).saturating_sub(had);
        let given = self.model.extend(user_idx, count);
        let target = Tokens(len as u32);
        assert_eq!(
            self.pool.extend(&mut user.table, target).is_ok(),
            given.is_some()
        );
        assert_eq!(user.table.blocks()[had..], given.unwrap_or_default());
    }

    fn index_next(&mut self, user_idx: usize) {
        let user = &mut self.users[user_idx];
        let (block_idx, size) = (user.indexed_count, self.model.block_size);
        if block_idx >= user.chain.len().min(user.table.blocks().len()) {
            return;
        }
        let parent = match block_idx {
            0 => Parent::Root(0),
            _ => {
                let before = user.table.blocks()[block_idx - 1];
                Parent::Content(self.pool.content_of(before).unwrap())
            }
        };
        let tokens = &user.tokens[block_idx * size..(block_idx + 1) * size];
        let full = FullBlock {
            root: 0,
            hash: user.chain[block_idx],
            parent,
            tokens,
        };
        let own = user.table.blocks()[block_idx];
        let prefix = &user.tokens[..(block_idx + 1) * size];
        let indexed = self.pool.index(&mut user.table, block_idx, &full);
        if let Some(other) = self.model.find(prefix) {
            assert_eq!(indexed, Indexed::Merged);
            assert_eq!(user.table.blocks()[block_idx], other);
            self.model.take(other, user_idx);
            self.model.give_back(own, user_idx);
        } else {
            assert_eq!(indexed, Indexed::Added);
            assert!(self.model.make_way(prefix));
            self.model.content[own.idx()] = Some(prefix.to_vec());
        }
        user.indexed_count += 1;
    }

    /// Gives a user's blocks back, the last one perhaps as a tail of `tail_len` tokens.
    fn release(&mut self, user_idx: usize, tail_len: usize) {
        let user = std::mem::take(&mut self.users[user_idx]);
        let (full, start) = (
            user.indexed_count,
            user.indexed_count * self.model.block_size,
        );
        let end = user.tokens.len().min(start + tail_len);
        if full < user.table.blocks().len() && end > start {
            let parent = match full {
                0 => Parent::Root(0),
                _ => {
                    let before = user.table.blocks()[full - 1];
                    Parent::Content(self.pool.content_of(before).unwrap())
                }
            };
            let id = user.table.blocks()[full];
            self.pool.index_tail(id, parent, &user.tokens[start..end]);
            if self.model.make_way(&user.tokens[..end]) {
                self.model.content[id.idx()] = Some(user.tokens[..end].to_vec());
            }
        }
        for id in user.table.blocks().iter().rev() {
            self.model.give_back(*id, user_idx);
        }
        self.pool.release(user.table);
    }

    fn compare(&self) {
        let counts = self.pool.counts();
        assert_eq!(counts.free.len(), self.model.free.len());
        assert_eq!(counts.cached.len(), self.model.cached.len());
        assert_eq!(self.pool.allocation_order(), self.model.allocation_order());
        for (idx, users) in self.model.users.iter().enumerate() {
            let id = BlockId(idx as u32);
            assert_eq!(self.pool.holders(id) as usize, users.len());
            assert_eq!(
                self.pool.indexed_prefix(id).map(|(_, tokens)| tokens),
                self.model.content[idx]
            );
        }
    }
}

#[test]
fn the_pool_agrees_with_a_plain_model() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let (block_size, limit) = (rng.between(1, 3), rng.between(1, 10));
        let mut pair = Pair {
            pool: pool(block_size, limit),
            model: ModelPool::new(block_size as usize, limit),
            users: (0..4).map(|_| User::default()).collect(),
            hasher: ChainHasher::new(Tokens(block_size), u128::MAX),
        };
        for _ in 0..120 {
            let user_idx = rng.between(0, 3) as usize;
            let is_new = pair.users[user_idx].tokens.is_empty();
            match rng.between(0, 9) {
                0..=2 if is_new => {
                    let len = rng.between(1, 12);
                    let tokens = (0..len).map(|_| TokenId(rng.between(0, 1))).collect();
                    pair.begin(user_idx, tokens);
                }
                0..=4 if !is_new => {
                    let len = rng.between(0, pair.users[user_idx].tokens.len() as u32);
                    pair.extend(user_idx, len as usize);
                }
                5..=7 => pair.index_next(user_idx),
                8 => pair.release(user_idx, rng.between(0, block_size - 1) as usize),
                9 if rng.one_in(4) => {
                    let keep = rng.between(0, 4);
                    pair.pool.drop_cached(Blocks(keep));
                    pair.model.drop_cached(keep as usize);
                }
                _ => {}
            }
            pair.compare();
        }
        for user_idx in 0..4 {
            pair.release(user_idx, 0);
        }
        pair.compare();
        assert_eq!(pair.pool.counts().held, Blocks(0));
    }
}
