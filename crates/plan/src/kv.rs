//! The KV pool: what a block costs, and how many fit.

use kvist_base::{Blocks, Bytes, Tokens};
use serde::Serialize;

use crate::limits::Limits;
use crate::lines::{LineKind, PlanLine};
use crate::serial;
use crate::shape::ModelShape;

/// A block's state, hash and entry in the prefix cache and a block table.
const BLOCK_RECORD_BYTES: u64 = 64;
/// A token's id in the sequence, in the sampler's counts and in the text being decoded.
const TOKEN_RECORD_BYTES: u64 = 16;

/// The KV pool at its cap. Blocks are committed as sequences need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvPlan {
    /// K and V of one token in all layers.
    #[serde(serialize_with = "serial::bytes")]
    pub bytes_per_token: Bytes,
    /// K and V of one block.
    #[serde(serialize_with = "serial::bytes")]
    pub block_bytes: Bytes,
    /// Most blocks there will be.
    #[serde(serialize_with = "serial::blocks")]
    pub blocks: Blocks,
    /// Tokens these hold.
    #[serde(serialize_with = "serial::tokens")]
    pub tokens: Tokens,
}

/// What blocks cost under given limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockCost {
    bytes_per_token: Bytes,
    block_size: Tokens,
}

impl BlockCost {
    pub(crate) fn new(model: &ModelShape, limits: &Limits) -> Self {
        let bytes_per_token = model.kv_bytes_per_token(limits.kv_dtype);
        Self {
            bytes_per_token,
            block_size: limits.block_size,
        }
    }

    fn block_bytes(self) -> Bytes {
        self.bytes_per_token * u64::from(self.block_size.0)
    }

    fn record_bytes(self) -> Bytes {
        Bytes(BLOCK_RECORD_BYTES + u64::from(self.block_size.0) * TOKEN_RECORD_BYTES)
    }

    /// Blocks that fit into `room`, and no more than a token count can number.
    pub(crate) fn blocks_in(self, room: Bytes) -> Blocks {
        let blocks = room.0 / (self.block_bytes() + self.record_bytes()).0;
        let blocks_max = u32::MAX / self.block_size.0;
        Blocks(u32::try_from(blocks).unwrap_or(u32::MAX).min(blocks_max))
    }

    /// Blocks `sequences` of length `len` use at most, and no more than a count can say.
    pub(crate) fn blocks_for(self, sequences: u32, len: Tokens) -> Blocks {
        Blocks(len.div_ceil(self.block_size).0.saturating_mul(sequences))
    }

    /// Tokens that so many blocks hold, for a number of blocks from `blocks_in`.
    pub(crate) fn tokens_in(self, blocks: Blocks) -> Tokens {
        blocks
            .capacity(self.block_size)
            .expect("the number of blocks is bounded by the tokens")
    }

    pub(crate) fn plan(self, blocks: Blocks) -> KvPlan {
        KvPlan {
            bytes_per_token: self.bytes_per_token,
            block_bytes: self.block_bytes(),
            blocks,
            tokens: self.tokens_in(blocks),
        }
    }

    pub(crate) fn lines(self, blocks: Blocks) -> [PlanLine; 2] {
        let count = u64::from(blocks.0);
        let block_bytes = self.block_bytes();
        let note = format!(
            "cap: {blocks} of {block_bytes}, {} a token",
            self.bytes_per_token
        );
        let tables_note = format!("{} a block", self.record_bytes());
        [
            PlanLine::new(LineKind::KvPool, "kv pool", block_bytes * count, note),
            PlanLine::new(
                LineKind::KvTables,
                "kv tables",
                self.record_bytes() * count,
                tables_note,
            ),
        ]
    }
}
