//! The inner loops: scores, softmax and weighted values of a tile of queries.

use std::ops::Range;

use super::register::{
    Converted, Positions, Rows, Values, queries_of_tile, scores, weighted_sum, with_queries,
};
use super::rows::{self, with_stored};
use super::split::Piece;
use super::{AttentionBatch, KV_TILE, PARTITION, QUERY_TILE};
use crate::exp::exp;
use crate::lanes::{Lanes, Wide};
use crate::shared::ClaimedChunks;
use kvist_base::KvDtype;

/// Most queries for which values are read as they are stored.
const DIRECT_QUERIES: usize = 8;

/// One task: a piece of the batch for one key head.
///
/// Its queries are numbered `row * group + member`: the query heads of a row that share the key
/// head follow each other.
pub(super) struct Tile<'a> {
    pub batch: &'a AttentionBatch<'a>,
    pub piece: Piece,
    pub head: usize,
}

impl Tile<'_> {
    fn queries(&self) -> usize {
        self.piece.rows.len() * self.batch.group()
    }

    /// One past the last position a query attends to.
    #[inline(always)]
    fn end(&self, query: usize) -> usize {
        self.piece.first_position + query / self.batch.group() + 1
    }

    /// The first query that attends to `position`. Later ones do too: rows ascend.
    #[inline(always)]
    fn first_query(&self, position: usize) -> usize {
        position.saturating_sub(self.piece.first_position) * self.batch.group()
    }

    /// Where the keys or values of the leading positions that lie in one block are in the arena,
    /// and how many positions these are.
    #[inline(always)]
    fn run(&self, side: Side, positions: Range<usize>) -> (Range<usize>, usize) {
        let layout = &self.batch.kv.layout;
        let table = &self.batch.block_tables[self.piece.table_start..];
        let block = table[positions.start / layout.block_size] as usize;
        let slot = positions.start % layout.block_size;
        let run = (layout.block_size - slot).min(positions.len());
        let head_start = match side {
            Side::Keys => layout.k_offset(block, self.batch.layer, self.head),
            Side::Values => layout.v_offset(block, self.batch.layer, self.head),
        };
        let start = head_start + slot * layout.row_bytes();
        (start..start + run * layout.row_bytes(), run)
    }

    /// The rows of keys or values of some positions, the first again for positions beyond them. Has
    /// fetched what is read next: the values of the same positions, or the keys that follow.
    #[inline(always)]
    fn rows<L: Lanes>(&self, lanes: L, side: Side, positions: Range<usize>) -> [&[u8]; KV_TILE] {
        let kv = &self.batch.kv;
        let row_bytes = kv.layout.row_bytes();
        let (span, _) = self.run(side, positions.clone());
        let mut rows = [&kv.bytes[span.start..][..row_bytes]; KV_TILE];
        let last = self.end(self.queries() - 1);
        let mut position = positions.start;
        while position < positions.end {
            let (span, run) = self.run(side, position..positions.end);
            let (next, ahead) = match side {
                Side::Keys => (Side::Values, position),
                Side::Values => (Side::Keys, position + KV_TILE),
            };
            if ahead < last {
                let (span, _) = self.run(next, ahead..last.min(ahead + run));
                lanes.prefetch(&kv.bytes[span]);
            }
            let to = &mut rows[position - positions.start..][..run];
            for (to, row) in to.iter_mut().zip(kv.bytes[span].chunks_exact(row_bytes)) {
                *to = row;
            }
            position += run;
        }
        rows
    }

    /// The chunk (of `group * head_dim` values) of `out` that holds a row of the piece.
    fn out_chunk(&self, row: usize) -> usize {
        (self.piece.rows.start + row) * self.batch.kv.layout.kv_heads + self.head
    }

    /// The chunk of the partial results that holds one partition of a row of the piece.
    fn partial_chunk(&self, partition: usize, row: usize) -> usize {
        let base = self
            .piece
            .partial
            .expect("only pieces with partial results ask for them");
        let slot = base + partition * self.piece.rows.len() + row;
        slot * self.batch.kv.layout.kv_heads + self.head
    }
}

/// Length of one row's partial result: `m`, `l` and `o` of each query of the group.
pub(super) const fn partial_len(group: usize, head_dim: usize) -> usize {
    group * (2 + head_dim)
}

/// The state of an online softmax of several queries.
#[derive(Debug)]
struct Softmax {
    /// `m`: the greatest score.
    max: Vec<f32>,
    /// `l`: the sum of weights `e^(score - m)`.
    sum: Vec<f32>,
    /// `o`: the weighted values, `[queries][head_wides]`.
    values: Vec<Wide>,
}

/// One worker's memory. A head is `head_wides` vectors; a last one that is half empty is zero there.
#[derive(Debug)]
pub(super) struct TileScratch {
    head_dim: usize,
    head_wides: usize,
    /// Scaled queries, `[queries][head_dim]`.
    queries: Vec<f32>,
    /// Keys, then values of a tile of positions, `[KV_TILE][head_wides]`.
    kv: Vec<Wide>,
    /// Keys with positions side by side, `[head_dim][KV_TILE]`.
    keys: Vec<Positions>,
    /// Scores, then weights: `[queries][KV_TILE]`.
    weights: Vec<Positions>,
    /// Of the partition being computed.
    part: Softmax,
    /// Of the partitions folded so far.
    total: Softmax,
}

const fn queries_max(group: usize) -> usize {
    if group > QUERY_TILE {
        group
    } else {
        QUERY_TILE
    }
}

impl TileScratch {
    pub(super) fn new(group: usize, head_dim: usize) -> Self {
        let (queries, head_wides) = (queries_max(group), head_dim.div_ceil(16));
        let wides = |rows: usize| vec![Wide::default(); rows * head_wides];
        let softmax = || Softmax {
            max: vec![0.0; queries],
            sum: vec![0.0; queries],
            values: wides(queries),
        };
        Self {
            head_dim,
            head_wides,
            queries: vec![0.0; queries * head_dim],
            kv: wides(KV_TILE),
            keys: vec![Positions::default(); head_dim],
            weights: vec![Positions::default(); queries],
            part: softmax(),
            total: softmax(),
        }
    }

    pub(super) fn bytes(group: usize, head_dim: usize) -> usize {
        let queries = queries_max(group);
        let padded = head_dim.next_multiple_of(16);
        let of_query = head_dim + KV_TILE + 2 * (2 + padded);
        let of_tile = KV_TILE * (padded + head_dim);
        (queries * of_query + of_tile) * size_of::<f32>()
    }

    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        let softmax = |s: &Softmax| {
            (s.max.capacity() + s.sum.capacity()) * size_of::<f32>()
                + s.values.capacity() * size_of::<Wide>()
        };
        let positions = self.keys.capacity() + self.weights.capacity();
        self.queries.capacity() * size_of::<f32>()
            + self.kv.capacity() * size_of::<Wide>()
            + positions * size_of::<Positions>()
            + softmax(&self.part)
            + softmax(&self.total)
    }

    /// The vectors of some heads of `values`.
    fn heads(&self, queries: Range<usize>) -> Range<usize> {
        queries.start * self.head_wides..queries.end * self.head_wides
    }

    /// Copies the tile's queries, times the score scale.
    #[inline(always)]
    pub(super) fn load_queries(&mut self, tile: &Tile<'_>) {
        let batch = tile.batch;
        let head_dim = batch.kv.layout.head_dim;
        assert_eq!(
            self.head_dim, head_dim,
            "the scratch was made for this head"
        );
        let width = batch.group() * head_dim;
        let rows = tile
            .piece
            .rows
            .clone()
            .zip(self.queries.chunks_exact_mut(width));
        assert_eq!(rows.len(), tile.piece.rows.len(), "the tile fits");
        for (row, to) in rows {
            let start = row * batch.row_values() + tile.head * width;
            let from = &batch.q[start..start + width];
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from * batch.scale;
            }
        }
    }

    /// Attends to one partition, from a fresh softmax, for the queries that reach it.
    #[inline(always)]
    pub(super) fn attend<L: Lanes>(&mut self, lanes: L, tile: &Tile<'_>, partition: usize) {
        let (queries, dtype) = (tile.queries(), tile.batch.kv.layout.dtype);
        let start = partition * PARTITION;
        let end = tile.end(queries - 1).min(start + PARTITION);
        let reaching = tile.first_query(start)..queries;
        self.part.max[reaching.clone()].fill(f32::NEG_INFINITY);
        self.part.sum[reaching.clone()].fill(0.0);
        let heads = self.heads(reaching);
        self.part.values[heads].fill(Wide::default());
        for first in (start..end).step_by(KV_TILE) {
            let len = KV_TILE.min(end - first);
            let from_query = tile.first_query(first);
            let keys = tile.rows(lanes, Side::Keys, first..first + len);
            with_stored!(dtype, stored => {
                rows::decode_turned(lanes, stored, &keys, (len, &mut self.keys));
            });
            self.score(lanes, from_query..queries, len);
            for query in from_query..queries {
                let count = len.min(tile.end(query) - first);
                self.soften(lanes, query, count);
            }
            let values = tile.rows(lanes, Side::Values, first..first + len);
            let count = |query| len.min(tile.end(query) - first);
            let takers = (from_query..queries, count);
            self.take_values(lanes, dtype, (&values, len), takers);
        }
    }

    /// Adds the weighted values of the first `len` positions of the tile, for each query over its own
    /// count of them.
    #[inline(always)]
    fn take_values<L: Lanes>(
        &mut self,
        lanes: L,
        dtype: KvDtype,
        (rows, len): (&[&[u8]; KV_TILE], usize),
        takers: (Range<usize>, impl Fn(usize) -> usize),
    ) {
        let sums = (self.head_wides, &mut self.part.values[..]);
        // For few queries a conversion through memory would cost more than doing it twice.
        let is_direct = takers.0.len() <= DIRECT_QUERIES && self.head_dim.is_multiple_of(16);
        match dtype {
            KvDtype::F16 if is_direct && const { !L::REGISTERS.are_none() } => {
                let stored = rows::F16;
                weigh(lanes, &self.weights, &Rows { rows, stored }, takers, sums);
            }
            KvDtype::Q8_0 if is_direct && const { !L::REGISTERS.are_none() } => {
                let stored = rows::Q8;
                weigh(lanes, &self.weights, &Rows { rows, stored }, takers, sums);
            }
            _ => {
                with_stored!(dtype, stored => {
                    rows::decode(lanes, stored, &rows[..len], (self.head_dim, &mut self.kv));
                });
                let values = Converted {
                    values: &self.kv,
                    wides: self.head_wides,
                };
                weigh(lanes, &self.weights, &values, takers, sums);
            }
        }
    }

    /// Scores of the first `len` positions of the tile (and meaningless ones).
    #[inline(always)]
    fn score<L: Lanes>(&mut self, lanes: L, queries: Range<usize>, len: usize) {
        let mut query = queries.start;
        while query < queries.end {
            let count = queries_of_tile::<L>(queries.end - query);
            let heads = &self.queries[query * self.head_dim..];
            let to = &mut self.weights[query..query + count];
            with_queries!(L, count, scores(lanes, heads, &self.keys, len, to));
            query += count;
        }
    }

    /// Turns the first `count` scores of a query into weights, the others into zeros, and brings
    /// the query's softmax to the new maximum.
    #[inline(always)]
    fn soften<L: Lanes>(&mut self, lanes: L, query: usize, count: usize) {
        let row = &mut self.weights[query];
        for index in count..KV_TILE {
            row[index / 16].0[index % 16] = f32::NEG_INFINITY;
        }
        let mut greatest = lanes.splat(self.part.max[query]);
        for wide in row.iter() {
            greatest = lanes.max(lanes.load(wide.half(0)), greatest);
            greatest = lanes.max(lanes.load(wide.half(1)), greatest);
        }
        let max = lanes.max_lane(greatest);
        let mut sum = lanes.splat(0.0);
        for wide in row.iter_mut() {
            for weight in &mut wide.0 {
                *weight = exp(*weight - max);
            }
            sum = lanes.add(sum, lanes.load(wide.half(0)));
            sum = lanes.add(sum, lanes.load(wide.half(1)));
        }
        let [sum, ..] = lanes.sum4([sum; 4]);
        let shrink = exp(self.part.max[query] - max);
        self.part.max[query] = max;
        self.part.sum[query] = self.part.sum[query].mul_add(shrink, sum);
        // Most tiles raise no maximum, and a factor of one changes nothing.
        if shrink != 1.0 {
            let shrink = lanes.wide_splat(shrink);
            let heads = self.heads(query..query + 1);
            for wide in &mut self.part.values[heads] {
                lanes.wide_store(
                    lanes.wide_mul(lanes.wide_load(&wide.0), shrink),
                    &mut wide.0,
                );
            }
        }
    }

    /// Folds the partition just computed into the total.
    #[inline(always)]
    pub(super) fn fold(&mut self, tile: &Tile<'_>, partition: usize) {
        for query in tile.first_query(partition * PARTITION)..tile.queries() {
            let heads = self.heads(query..query + 1);
            let (part, total) = (&self.part, &mut self.total);
            if partition == 0 {
                total.max[query] = part.max[query];
                total.sum[query] = part.sum[query];
                total.values[heads.clone()].copy_from_slice(&part.values[heads]);
                continue;
            }
            let (old, new) = (total.max[query], part.max[query]);
            let max = if new > old { new } else { old };
            let (keep, take) = (exp(old - max), exp(new - max));
            total.max[query] = max;
            total.sum[query] = total.sum[query].mul_add(keep, part.sum[query] * take);
            let sums = total.values[heads.clone()].iter_mut();
            for (sums, values) in sums.zip(&part.values[heads]) {
                for (sum, value) in sums.0.iter_mut().zip(values.0) {
                    *sum = sum.mul_add(keep, value * take);
                }
            }
        }
    }

    /// Writes the total, normalised, to the output.
    #[inline(always)]
    pub(super) fn finish(&self, tile: &Tile<'_>, out: &ClaimedChunks<'_, f32>) {
        let group = tile.batch.group();
        for row in 0..tile.piece.rows.len() {
            let members = out
                .claim(tile.out_chunk(row))
                .chunks_exact_mut(self.head_dim);
            for (query, to) in (row * group..).zip(members) {
                let factor = 1.0 / self.total.sum[query];
                let values = &self.total.values[self.heads(query..query + 1)];
                for (to, from) in to.chunks_mut(16).zip(values) {
                    for (to, from) in to.iter_mut().zip(from.0) {
                        *to = from * factor;
                    }
                }
            }
        }
    }

    /// Writes the partition just computed to its place among the partial results.
    #[inline(always)]
    pub(super) fn put_aside(
        &self,
        tile: &Tile<'_>,
        partition: usize,
        slots: &ClaimedChunks<'_, f32>,
    ) {
        let group = tile.batch.group();
        for row in tile.first_query(partition * PARTITION) / group..tile.piece.rows.len() {
            let chunk = slots.claim(tile.partial_chunk(partition, row));
            let (max, rest) = chunk.split_at_mut(group);
            let (sum, values) = rest.split_at_mut(group);
            let queries = row * group..(row + 1) * group;
            max.copy_from_slice(&self.part.max[queries.clone()]);
            sum.copy_from_slice(&self.part.sum[queries.clone()]);
            for (query, to) in queries.zip(values.chunks_exact_mut(self.head_dim)) {
                let from = &self.part.values[self.heads(query..query + 1)];
                for (to, from) in to.chunks_mut(16).zip(from) {
                    to.copy_from_slice(&from.0[..to.len()]);
                }
            }
        }
    }

    /// Reads back what [`Self::put_aside`] wrote.
    #[inline(always)]
    pub(super) fn take_back(&mut self, tile: &Tile<'_>, partition: usize, partials: &[f32]) {
        let group = tile.batch.group();
        let len = partial_len(group, self.head_dim);
        for row in tile.first_query(partition * PARTITION) / group..tile.piece.rows.len() {
            let chunk = &partials[tile.partial_chunk(partition, row) * len..][..len];
            let (max, rest) = chunk.split_at(group);
            let (sum, values) = rest.split_at(group);
            let queries = row * group..(row + 1) * group;
            self.part.max[queries.clone()].copy_from_slice(max);
            self.part.sum[queries.clone()].copy_from_slice(sum);
            for (query, from) in queries.zip(values.chunks_exact(self.head_dim)) {
                let heads = self.heads(query..query + 1);
                let to = &mut self.part.values[heads];
                for (to, from) in to.iter_mut().zip(from.chunks(16)) {
                    to.0[..from.len()].copy_from_slice(from);
                }
            }
        }
    }
}

/// Adds weighted values: for each query over its own `count` of positions, in order.
#[inline(always)]
fn weigh<L: Lanes>(
    lanes: L,
    weights: &[Positions],
    values: &impl Values,
    (queries, count): (Range<usize>, impl Fn(usize) -> usize),
    (wides, sums): (usize, &mut [Wide]),
) {
    let mut query = queries.start;
    while query < queries.end {
        let end = query + queries_of_tile::<L>(queries.end - query);
        let near = (wides, 0..count(query));
        let of_tile = &mut sums[query * wides..end * wides];
        with_queries!(
            L,
            end - query,
            weighted_sum(lanes, &weights[query..], values, near.clone(), of_tile)
        );
        // Later queries may see some positions more, their own; zero weights for the earlier ones
        // would not do, as those values may be infinite.
        for query in query..end {
            let far = (wides, near.1.end..count(query));
            if !far.1.is_empty() {
                let of_query = &mut sums[query * wides..(query + 1) * wides];
                weighted_sum::<L, 1, 1>(lanes, &weights[query..], values, far, of_query);
            }
        }
        query = end;
    }
}

/// Which half of a layer's cache.
#[derive(Clone, Copy)]
enum Side {
    Keys,
    Values,
}
