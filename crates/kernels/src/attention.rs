//! Causal attention over a paged KV cache, prefill and decode rows mixed.
//!
//! A query row at position `p` attends to positions `0..=p` of its sequence. What is computed for
//! it depends on nothing else, down to the bits: positions are walked in tiles of [`KV_TILE`] and
//! partitions of [`PARTITION`] counted from position 0, whatever the block size; each partition's
//! softmax starts afresh; and partitions are folded in order. Which thread does a partition, and
//! with which neighbours, is free.
//!
//! ```text
//! positions  0              512             1024        p
//!            |--tile|tile|..-|--tile|tile|...-|--tile|..-|
//!            |  partition 0  |  partition 1   |    2     |
//!               (m, l, o)  +    (m, l, o)   +  (m, l, o)    -> o / l
//! ```
//!
//! `m` is the greatest score of a partition, `l` the sum of `e^(score - m)`, `o` the values
//! weighted by it (online softmax, Milakov and Gimelshein 2018; as in flash attention, Dao 2022).

mod layout;
mod register;
mod rows;
mod split;
mod tile;

pub use layout::{HEAD_DIM_MAX, KvLayout, KvToken, kv_write};

use crate::Isa;
use crate::lanes::{self, Kernel, Lanes};
use crate::pool::Pool;
use crate::shared::{ClaimedChunks, Claims, WorkerLocal};
use split::Split;
use tile::{Tile, TileScratch};

/// Positions whose scores are taken at once: their keys as f32 stay in the first level cache.
const KV_TILE: usize = 32;

/// Positions of an independent part of one row's attention.
const PARTITION: usize = 512;

/// Query vectors (rows times query heads of a group) that share one conversion of the keys.
const QUERY_TILE: usize = 64;

/// Rows whose partitions may be computed apart in one step, at the longest context.
const SPLIT_ROWS: usize = 8;

/// A KV arena with its shape.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    /// The shape.
    pub layout: KvLayout,
    /// The arena, or its committed front.
    pub bytes: &'a [u8],
}

/// The rows of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceSpan {
    /// Its first row in the batch.
    pub first_row: u32,
    /// How many rows it has.
    pub rows: u32,
    /// The position of its first row; the others follow.
    pub first_position: u32,
    /// Where its block table begins in the flattened tables.
    pub table_start: u32,
}

/// What one layer of one step attends to.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBatch<'a> {
    /// `[rows][heads * head_dim]`, rotated.
    pub q: &'a [f32],
    /// In ascending row order, without overlap.
    pub sequences: &'a [SequenceSpan],
    /// The sequences' block tables, one after the other. A table covers all positions up to its
    /// sequence's last row, whose keys and values are written.
    pub block_tables: &'a [u32],
    /// Query heads; a multiple of the layout's `kv_heads`.
    pub heads: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// The layer whose keys and values are read.
    pub layer: usize,
    /// Keys and values.
    pub kv: KvView<'a>,
}

impl AttentionBatch<'_> {
    /// Query heads that share one key head.
    fn group(&self) -> usize {
        self.heads / self.kv.layout.kv_heads
    }

    fn row_values(&self) -> usize {
        self.heads * self.kv.layout.head_dim
    }

    fn rows(&self) -> usize {
        self.q.len() / self.row_values()
    }

    /// Panics when the parts do not fit together: whoever built the batch has a bug.
    fn assert_consistent(&self, out: &[f32]) {
        let layout = &self.kv.layout;
        layout.assert_supported();
        assert!(self.layer < layout.layers);
        assert!(self.heads > 0 && self.heads.is_multiple_of(layout.kv_heads));
        assert_eq!(self.q.len(), out.len());
        assert!(
            self.q.len().is_multiple_of(self.row_values()),
            "q is whole rows"
        );
        let mut free_row = 0;
        for span in self.sequences {
            assert!(
                span.first_row as usize >= free_row,
                "spans are in order and disjoint"
            );
            free_row = span.first_row as usize + span.rows as usize;
            let positions = span.first_position as usize + span.rows as usize;
            let table_end = span.table_start as usize + positions.div_ceil(layout.block_size);
            assert!(
                span.rows == 0 || table_end <= self.block_tables.len(),
                "tables are whole"
            );
        }
        assert!(free_row <= self.rows(), "spans lie inside the batch");
    }
}

/// What [`AttentionScratch`] is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionLimits {
    /// Threads of the pool.
    pub threads: usize,
    /// Rows of a step.
    pub tokens_max: usize,
    /// Positions of a sequence.
    pub context_max: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
}

impl AttentionLimits {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Chunks of partial results: one for each row, key head and partition.
    fn partial_chunks(&self) -> usize {
        let partitions = self.context_max.div_ceil(PARTITION);
        // A lone partition is never split off.
        if partitions > 1 {
            SPLIT_ROWS * partitions * self.kv_heads
        } else {
            0
        }
    }

    fn partial_values(&self) -> usize {
        tile::partial_len(self.group(), self.head_dim)
    }
}

/// Memory that [`paged_attention`] reuses from step to step.
#[derive(Debug)]
pub struct AttentionScratch {
    workers: WorkerLocal<TileScratch>,
    split: Split,
    partials: Vec<f32>,
    partial_claims: Claims,
    out_claims: Claims,
}

impl AttentionScratch {
    /// Everything that steps within these limits need.
    pub fn new(limits: &AttentionLimits) -> Self {
        let worker = |_| TileScratch::new(limits.group(), limits.head_dim);
        let partials = limits.partial_chunks();
        Self {
            workers: WorkerLocal::new((0..limits.threads).map(worker).collect()),
            split: Split::with_capacity(limits.tokens_max + partials),
            partials: vec![0.0; partials * limits.partial_values()],
            partial_claims: Claims::with_capacity(partials),
            out_claims: Claims::with_capacity(limits.tokens_max * limits.kv_heads),
        }
    }

    /// Bytes that [`AttentionScratch::new`] allocates.
    pub fn bytes(limits: &AttentionLimits) -> usize {
        let partials = limits.partial_chunks();
        limits.threads * TileScratch::bytes(limits.group(), limits.head_dim)
            + Split::bytes(limits.tokens_max + partials)
            + partials * (limits.partial_values() * size_of::<f32>() + Claims::FLAG_BYTES)
            + limits.tokens_max * limits.kv_heads * Claims::FLAG_BYTES
    }
}

/// Attention of every row of the batch, into `out` (`[rows][heads * head_dim]`). Rows of no
/// sequence are left as they are.
///
/// # Panics
/// When the batch is inconsistent (see its fields), a block is outside the arena, or the scratch
/// was made for other heads or fewer threads.
pub fn paged_attention(
    isa: Isa,
    pool: &Pool,
    batch: &AttentionBatch<'_>,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    batch.assert_consistent(out);
    let AttentionScratch {
        workers,
        split,
        partials,
        partial_claims,
        out_claims,
    } = scratch;
    let (kv_heads, head_dim) = (batch.kv.layout.kv_heads, batch.kv.layout.head_dim);
    let partial_len = tile::partial_len(batch.group(), head_dim);
    split.plan(
        batch,
        pool.threads(),
        partials.len() / partial_len / kv_heads,
    );
    let out = ClaimedChunks::new(out, batch.group() * head_dim, out_claims);

    let slots = ClaimedChunks::new(partials, partial_len, partial_claims);
    // Deep pieces come last within a sequence: starting with them evens out the finish.
    let last = split.pieces.len().saturating_sub(1);
    pool.run(split.pieces.len() * kv_heads, &|index, worker| {
        let piece = &split.pieces[last - index / kv_heads];
        let tile = Tile {
            batch,
            piece: piece.clone(),
            head: index % kv_heads,
        };
        workers.with(worker, |scratch| {
            lanes::run(
                isa,
                Attend {
                    tile,
                    scratch,
                    out: &out,
                    slots: &slots,
                },
            );
        });
    });
    if split.merges.is_empty() {
        return;
    }
    let partials = &*partials;
    pool.run(split.merges.len() * kv_heads, &|index, worker| {
        let piece = split.merges[index / kv_heads].clone();
        let tile = Tile {
            batch,
            piece,
            head: index % kv_heads,
        };
        workers.with(worker, |scratch| {
            lanes::run(
                isa,
                Merge {
                    tile,
                    scratch,
                    out: &out,
                    partials,
                },
            );
        });
    });
}

/// One piece and key head: its partitions, folded into the output or put aside.
struct Attend<'a> {
    tile: Tile<'a>,
    scratch: &'a mut TileScratch,
    out: &'a ClaimedChunks<'a, f32>,
    slots: &'a ClaimedChunks<'a, f32>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self {
            tile,
            scratch,
            out,
            slots,
        } = self;
        scratch.load_queries(&tile);
        for partition in tile.piece.partitions.clone() {
            scratch.attend(lanes, &tile, partition);
            match tile.piece.partial {
                Some(_) => scratch.put_aside(&tile, partition, slots),
                None => scratch.fold(&tile, partition),
            }
        }
        if tile.piece.partial.is_none() {
            scratch.finish(&tile, out);
        }
    }
}

/// One split unit and key head: the partitions put aside, folded in order.
struct Merge<'a> {
    tile: Tile<'a>,
    scratch: &'a mut TileScratch,
    out: &'a ClaimedChunks<'a, f32>,
    partials: &'a [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Self {
            tile,
            scratch,
            out,
            partials,
        } = self;
        for partition in tile.piece.partitions.clone() {
            scratch.take_back(&tile, partition, partials);
            scratch.fold(&tile, partition);
        }
        scratch.finish(&tile, out);
    }
}

#[cfg(test)]
mod tests;
