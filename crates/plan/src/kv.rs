//! The KV pool: what a block costs, and how many fit.

use kvist_base::{Blocks, Bytes, Tokens};
use serde::Serialize;

use crate::error::{Given, PlanError, PlanLimit};
use crate::limits::Limits;
use crate::lines::{LineKind, PlanLine};
use crate::serial;
use crate::shape::ModelShape;

/// A block's state, hash and entry in the prefix cache and a block table.
const BLOCK_RECORD_BYTES: u64 = 64;
/// A token's id in the sequence, in the sampler's counts and in the text being decoded.
const TOKEN_RECORD_BYTES: u64 = 16;
/// The pool is committed and given back in extents of a huge page, so the cap is whole extents.
const EXTENT: Bytes = Bytes(2 << 20);
/// A slot of the spill tier in its index: content and parent hashes, both directions of the map,
/// place in the order of use.
const SLOT_RECORD_BYTES: u64 = 192;
/// The ids of a slot's tokens, kept to compare contents.
const SLOT_TOKEN_BYTES: u64 = 4;
/// Blocks on their way to the spill file at once, and one on its way back.
pub const STAGED_BLOCKS: u64 = 16 + 1;

/// The KV pool at its cap. Blocks are committed as sequences need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvPlan {
    /// K and V of one token in all layers.
    #[serde(serialize_with = "serial::bytes")]
    pub bytes_per_token: Bytes,
    /// Tokens of a block.
    #[serde(serialize_with = "serial::tokens")]
    pub block_size: Tokens,
    /// K and V of one block.
    #[serde(serialize_with = "serial::bytes")]
    pub block_bytes: Bytes,
    /// What the tables of one block take beside it.
    #[serde(serialize_with = "serial::bytes")]
    pub record_bytes: Bytes,
    /// Most blocks there will be under this budget.
    #[serde(serialize_with = "serial::blocks")]
    pub blocks: Blocks,
    /// Tokens these hold.
    #[serde(serialize_with = "serial::tokens")]
    pub tokens: Tokens,
    /// Fewest blocks a smaller budget may leave.
    #[serde(serialize_with = "serial::blocks")]
    pub blocks_min: Blocks,
    /// Most blocks a larger budget could give: what `running_max` sequences of full length use, or
    /// the size asked for, and no more than the whole machine could hold.
    #[serde(serialize_with = "serial::blocks")]
    pub blocks_max: Blocks,
    /// Blocks the spill tier holds on disk.
    #[serde(serialize_with = "serial::blocks")]
    pub tier_slots: Blocks,
}

/// The numbers of blocks of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockCounts {
    pub min: Blocks,
    pub now: Blocks,
    pub max: Blocks,
}

/// What blocks cost under given limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockCost {
    bytes_per_token: Bytes,
    block_size: Tokens,
    record_bytes: Bytes,
}

impl BlockCost {
    pub(crate) fn new(model: &ModelShape, limits: &Limits) -> Self {
        let bytes_per_token = model.kv_bytes_per_token(limits.kv_dtype);
        let block_size = limits.block_size;
        let tokens = u64::from(block_size.0);
        Self {
            bytes_per_token,
            block_size,
            record_bytes: Bytes(BLOCK_RECORD_BYTES + tokens * TOKEN_RECORD_BYTES),
        }
    }

    /// The same where tables are kept elsewhere.
    pub(crate) fn without_tables(self) -> Self {
        Self {
            record_bytes: Bytes::ZERO,
            ..self
        }
    }

    pub(crate) fn of(kv: &KvPlan) -> Self {
        Self {
            bytes_per_token: kv.bytes_per_token,
            block_size: kv.block_size,
            record_bytes: kv.record_bytes,
        }
    }

    fn block_bytes(self) -> Bytes {
        self.bytes_per_token * u64::from(self.block_size.0)
    }

    /// More cannot be numbered by a token count.
    fn blocks_max(self) -> u32 {
        u32::MAX / self.block_size.0
    }

    pub(crate) fn pool_bytes(self, blocks: Blocks) -> Bytes {
        let exact = self.block_bytes() * u64::from(blocks.0);
        let whole = exact.0.checked_next_multiple_of(EXTENT.0);
        Bytes(whole.unwrap_or(u64::MAX))
    }

    fn table_bytes(self, blocks: Blocks) -> Bytes {
        self.record_bytes * u64::from(blocks.0)
    }

    /// What `blocks` add to the plan, tables included.
    pub(crate) fn bytes(self, blocks: Blocks) -> Bytes {
        let pool = self.pool_bytes(blocks);
        pool.checked_add(self.table_bytes(blocks))
            .unwrap_or(Bytes(u64::MAX))
    }

    /// Blocks that fit into `room`, and no more than a token count can number.
    pub(crate) fn blocks_in(self, room: Bytes) -> Blocks {
        let each = self.block_bytes() + self.record_bytes;
        let most = u32::try_from(room.0 / each.0).unwrap_or(u32::MAX);
        // Whole extents take a little more than the division says: halve the interval in which
        // the answer is, `fits < fails`.
        let (mut fits, mut fails) = (0, u64::from(most.min(self.blocks_max())) + 1);
        while fits + 1 < fails {
            let middle = fits.midpoint(fails);
            // At most `most`, so it is a block count.
            let blocks = Blocks(u32::try_from(middle).unwrap_or(u32::MAX));
            if self.bytes(blocks) <= room {
                fits = middle;
            } else {
                fails = middle;
            }
        }
        Blocks(u32::try_from(fits).unwrap_or(u32::MAX))
    }

    /// Whole blocks of a pool of exactly `bytes`.
    pub(crate) fn blocks_of(self, bytes: Bytes) -> Blocks {
        let blocks = u32::try_from(bytes.0 / self.block_bytes().0).unwrap_or(u32::MAX);
        Blocks(blocks.min(self.blocks_max()))
    }

    /// Blocks `sequences` of length `len` use at most, and no more than a count can say.
    pub(crate) fn blocks_for(self, sequences: u32, len: Tokens) -> Blocks {
        let each = len.div_ceil(self.block_size).0;
        // One sequence may end in a part of a block, and its length is in range.
        Blocks(
            each.saturating_mul(sequences)
                .min(self.blocks_max().max(each)),
        )
    }

    /// Tokens that so many blocks hold, at most as many as a count can say.
    pub(crate) fn tokens_in(self, blocks: Blocks) -> Tokens {
        let tokens = blocks.capacity(self.block_size);
        tokens.unwrap_or(Tokens(u32::MAX))
    }

    /// Refuses a pool too small for one sequence of `len`.
    pub(crate) fn check_pool(self, pool: Option<Bytes>, len: Tokens) -> Result<(), PlanError> {
        let needed = self.block_bytes() * u64::from(self.blocks_for(1, len).0);
        match pool {
            Some(given) if given < needed => Err(PlanError {
                field: "kv_cache_memory_bytes",
                limit: PlanLimit::OneSequence { needed, len },
                given: Given::Size(given),
            }),
            _ => Ok(()),
        }
    }

    /// Blocks a spill tier of `size` holds.
    pub(crate) fn tier_slots(self, size: Option<Bytes>) -> Result<Blocks, PlanError> {
        let Some(given) = size else {
            return Ok(Blocks::ZERO);
        };
        let slots = self.blocks_of(given);
        if slots.is_empty() {
            return Err(PlanError {
                field: "kv_spill",
                limit: PlanLimit::OneBlock(self.block_bytes()),
                given: Given::Size(given),
            });
        }
        Ok(slots)
    }

    pub(crate) fn plan(self, counts: BlockCounts, tier_slots: Blocks) -> KvPlan {
        KvPlan {
            bytes_per_token: self.bytes_per_token,
            block_size: self.block_size,
            block_bytes: self.block_bytes(),
            record_bytes: self.record_bytes,
            blocks: counts.now,
            tokens: self.tokens_in(counts.now),
            blocks_min: counts.min,
            blocks_max: counts.max,
            tier_slots,
        }
    }

    /// The lines that grow and shrink with the budget.
    pub(crate) fn lines(self, blocks: Blocks) -> impl Iterator<Item = PlanLine> {
        let note = format!(
            "cap: {blocks} of {}, {} a token",
            self.block_bytes(),
            self.bytes_per_token
        );
        let pool = PlanLine::new(LineKind::KvPool, "kv pool", self.pool_bytes(blocks), note);
        let note = format!("{} a block", self.record_bytes);
        let bytes = self.table_bytes(blocks);
        let tables = (self.record_bytes > Bytes::ZERO)
            .then(|| PlanLine::new(LineKind::KvTables, "kv tables", bytes, note));
        [pool].into_iter().chain(tables)
    }

    /// What a tier of `slots` on disk takes in memory; no line when there is none.
    pub(crate) fn tier_line(self, slots: Blocks) -> Option<PlanLine> {
        let index = tier_index(self.block_size, slots);
        let staging = self.block_bytes() * STAGED_BLOCKS;
        let note = format!("index of {slots} on disk, {STAGED_BLOCKS} staged");
        (!slots.is_empty())
            .then(|| PlanLine::new(LineKind::KvTier, "kv tier", index + staging, note))
    }
}

impl KvPlan {
    /// What the index of the spill tier takes in memory.
    pub fn tier_index(&self) -> Bytes {
        tier_index(self.block_size, self.tier_slots)
    }
}

fn tier_index(block_size: Tokens, slots: Blocks) -> Bytes {
    let record = SLOT_RECORD_BYTES + u64::from(block_size.0) * SLOT_TOKEN_BYTES;
    Bytes(record) * u64::from(slots.0)
}
