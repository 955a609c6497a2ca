//! The inner loops: scores, softmax and weighted values of a tile of queries.

use std::ops::Range;

use super::register::{SCORE_COLUMNS, Weights, dots, get, put, weighted_sum};
use super::rows;
use super::split::Piece;
use super::{AttentionBatch, KV_TILE, PARTITION, QUERY_TILE};
use crate::exp::exp;
use crate::lanes::{Lanes, Oct};
use crate::shared::ClaimedChunks;

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
    /// `o`: the weighted values, `[queries][head_dim]`.
    values: Vec<Oct>,
}

/// One worker's memory.
#[derive(Debug)]
pub(super) struct TileScratch {
    head_octs: usize,
    /// Scaled queries, `[queries][head_dim]`.
    queries: Vec<Oct>,
    /// Keys, then values of a tile of positions, `[KV_TILE][head_dim]`.
    kv: Vec<Oct>,
    /// Scores, then weights: `[queries][KV_TILE]`.
    weights: Vec<Weights>,
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
        let (queries, head_octs) = (queries_max(group), head_dim / 8);
        let octs = |rows: usize| vec![Oct::default(); rows * head_octs];
        let softmax = || Softmax {
            max: vec![0.0; queries],
            sum: vec![0.0; queries],
            values: octs(queries),
        };
        Self {
            head_octs,
            queries: octs(queries),
            kv: octs(KV_TILE),
            weights: vec![[Oct::default(); KV_TILE / 8]; queries],
            part: softmax(),
            total: softmax(),
        }
    }

    pub(super) fn bytes(group: usize, head_dim: usize) -> usize {
        let queries = queries_max(group);
        let values = queries * (3 * head_dim + KV_TILE + 4) + KV_TILE * head_dim;
        values * size_of::<f32>()
    }

    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        let softmax = |s: &Softmax| {
            (s.max.capacity() + s.sum.capacity()) * size_of::<f32>()
                + s.values.capacity() * size_of::<Oct>()
        };
        let octs = self.queries.capacity() + self.kv.capacity();
        let weights = self.weights.capacity() * KV_TILE * size_of::<f32>();
        octs * size_of::<Oct>() + weights + softmax(&self.part) + softmax(&self.total)
    }

    /// Copies the tile's queries, times the score scale.
    #[inline(always)]
    pub(super) fn load_queries<L: Lanes>(&mut self, lanes: L, tile: &Tile<'_>) {
        let batch = tile.batch;
        let head_dim = batch.kv.layout.head_dim;
        assert_eq!(
            self.head_octs * 8,
            head_dim,
            "the scratch was made for this head"
        );
        assert!(tile.queries() * self.head_octs <= self.queries.len());
        let scale = lanes.splat(batch.scale);
        let width = batch.group() * head_dim;
        let mut to = self.queries.iter_mut();
        for row in tile.piece.rows.clone() {
            let start = row * batch.row_values() + tile.head * width;
            let (octs, _) = batch.q[start..start + width].as_chunks::<8>();
            for (from, to) in octs.iter().zip(&mut to) {
                lanes.store(lanes.mul(lanes.load(from), scale), &mut to.0);
            }
        }
    }

    /// Attends to one partition, from a fresh softmax, for the queries that reach it.
    #[inline(always)]
    pub(super) fn attend<L: Lanes>(&mut self, lanes: L, tile: &Tile<'_>, partition: usize) {
        self.part.max.fill(f32::NEG_INFINITY);
        self.part.sum.fill(0.0);
        self.part.values.fill(Oct::default());
        let queries = tile.queries();
        let start = partition * PARTITION;
        let end = tile.end(queries - 1).min(start + PARTITION);
        for first in (start..end).step_by(KV_TILE) {
            let len = KV_TILE.min(end - first);
            let from_query = tile.first_query(first);
            self.gather(lanes, tile, Side::Keys, first..first + len);
            self.score(lanes, from_query..queries, len);
            for query in from_query..queries {
                let count = len.min(tile.end(query) - first);
                self.soften(lanes, query, count);
            }
            self.gather(lanes, tile, Side::Values, first..first + len);
            self.weigh(lanes, from_query..queries, |query| {
                len.min(tile.end(query) - first)
            });
        }
    }

    /// Converts keys or values of some positions into `kv`.
    #[inline(always)]
    fn gather<L: Lanes>(&mut self, lanes: L, tile: &Tile<'_>, side: Side, positions: Range<usize>) {
        let kv = &tile.batch.kv;
        let mut rest = &mut self.kv[..positions.len() * self.head_octs];
        let mut position = positions.start;
        while position < positions.end {
            let (span, run) = tile.run(side, position..positions.end);
            let (to, after) = rest.split_at_mut(run * self.head_octs);
            rows::decode(lanes, &kv.layout, &kv.bytes[span], to);
            rest = after;
            position += run;
        }
    }

    /// Scores of the first `len` positions of the tile (and, up to a multiple of
    /// [`SCORE_COLUMNS`], meaningless ones).
    #[inline(always)]
    fn score<L: Lanes>(&mut self, lanes: L, queries: Range<usize>, len: usize) {
        let octs = self.head_octs;
        let columns = len.div_ceil(SCORE_COLUMNS) * SCORE_COLUMNS;
        let mut query = queries.start;
        while query < queries.end {
            let paired = query + 1 < queries.end;
            for column in (0..columns).step_by(SCORE_COLUMNS) {
                let keys = std::array::from_fn(|i| &self.kv[(column + i) * octs..][..octs]);
                let row = |query: usize| &self.queries[query * octs..][..octs];
                if paired {
                    let scores = dots(lanes, [row(query), row(query + 1)], keys);
                    put(&mut self.weights[query], column, scores[0]);
                    put(&mut self.weights[query + 1], column, scores[1]);
                } else {
                    let [scores] = dots(lanes, [row(query)], keys);
                    put(&mut self.weights[query], column, scores);
                }
            }
            query += 2;
        }
    }

    /// Turns the first `count` scores of a query into weights, the others into zeros, and brings
    /// the query's softmax to the new maximum.
    #[inline(always)]
    fn soften<L: Lanes>(&mut self, lanes: L, query: usize, count: usize) {
        let row = &mut self.weights[query];
        for (index, score) in row.iter_mut().flat_map(|oct| &mut oct.0).enumerate() {
            *score = if index < count {
                *score
            } else {
                f32::NEG_INFINITY
            };
        }
        let mut greatest = lanes.splat(self.part.max[query]);
        for oct in row.iter() {
            greatest = lanes.max(lanes.load(&oct.0), greatest);
        }
        let mut by_lane = [0.0; 8];
        lanes.store(greatest, &mut by_lane);
        let max = by_lane
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        let mut sum = lanes.splat(0.0);
        for oct in row.iter_mut() {
            for weight in &mut oct.0 {
                *weight = exp(*weight - max);
            }
            sum = lanes.add(sum, lanes.load(&oct.0));
        }
        let [sum, ..] = lanes.sum4([sum; 4]);
        let shrink = exp(self.part.max[query] - max);
        self.part.max[query] = max;
        self.part.sum[query] = self.part.sum[query].mul_add(shrink, sum);
        // Most tiles raise no maximum, and a factor of one changes nothing.
        if shrink != 1.0 {
            let shrink = lanes.splat(shrink);
            for oct in &mut self.part.values[query * self.head_octs..][..self.head_octs] {
                lanes.store(lanes.mul(lanes.load(&oct.0), shrink), &mut oct.0);
            }
        }
    }

    /// Adds weighted values: for each query over its own `count` of positions, in order.
    #[inline(always)]
    fn weigh<L: Lanes>(&mut self, lanes: L, queries: Range<usize>, count: impl Fn(usize) -> usize) {
        let octs = self.head_octs;
        let mut query = queries.start;
        while query < queries.end {
            if query + 1 < queries.end {
                // The later query may see one position more, its own; a zero weight for the
                // earlier one would not do, as that value may be infinite.
                let (near, far) = (count(query), count(query + 1));
                let weights = [&self.weights[query], &self.weights[query + 1]];
                let sums = &mut self.part.values[query * octs..(query + 2) * octs];
                let (first, second) = sums.split_at_mut(octs);
                weighted_sum(
                    lanes,
                    weights,
                    &self.kv[..near * octs],
                    &mut [first, second],
                );
                let sums = &mut self.part.values[(query + 1) * octs..(query + 2) * octs];
                for position in near..far {
                    let weight = lanes.splat(get(weights[1], position));
                    for (sum, value) in sums.iter_mut().zip(&self.kv[position * octs..]) {
                        let acc = lanes.fma(weight, lanes.load(&value.0), lanes.load(&sum.0));
                        lanes.store(acc, &mut sum.0);
                    }
                }
            } else {
                let sums = &mut self.part.values[query * octs..(query + 1) * octs];
                let kv = &self.kv[..count(query) * octs];
                weighted_sum(lanes, [&self.weights[query]], kv, &mut [sums]);
            }
            query += 2;
        }
    }

    /// Folds the partition just computed into the total.
    #[inline(always)]
    pub(super) fn fold(&mut self, tile: &Tile<'_>, partition: usize) {
        let octs = self.head_octs;
        let (part, total) = (&self.part, &mut self.total);
        for query in tile.first_query(partition * PARTITION)..tile.queries() {
            let span = query * octs..(query + 1) * octs;
            if partition == 0 {
                total.max[query] = part.max[query];
                total.sum[query] = part.sum[query];
                total.values[span.clone()].copy_from_slice(&part.values[span]);
                continue;
            }
            let (old, new) = (total.max[query], part.max[query]);
            let max = if new > old { new } else { old };
            let (keep, take) = (exp(old - max), exp(new - max));
            total.max[query] = max;
            total.sum[query] = total.sum[query].mul_add(keep, part.sum[query] * take);
            for (sum, oct) in total.values[span.clone()]
                .iter_mut()
                .zip(&part.values[span])
            {
                for (sum, value) in sum.0.iter_mut().zip(oct.0) {
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
            let (octs, _) = out.claim(tile.out_chunk(row)).as_chunks_mut::<8>();
            for (member, octs) in octs.chunks_exact_mut(self.head_octs).enumerate() {
                let query = row * group + member;
                let factor = 1.0 / self.total.sum[query];
                let values = &self.total.values[query * self.head_octs..];
                for (to, from) in octs.iter_mut().zip(values) {
                    *to = from.0.map(|value| value * factor);
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
            let octs = &self.part.values[queries.start * self.head_octs..];
            for (to, from) in values.as_chunks_mut::<8>().0.iter_mut().zip(octs) {
                *to = from.0;
            }
        }
    }

    /// Reads back what [`Self::put_aside`] wrote.
    #[inline(always)]
    pub(super) fn take_back(&mut self, tile: &Tile<'_>, partition: usize, partials: &[f32]) {
        let group = tile.batch.group();
        let len = partial_len(group, self.head_octs * 8);
        for row in tile.first_query(partition * PARTITION) / group..tile.piece.rows.len() {
            let chunk = &partials[tile.partial_chunk(partition, row) * len..][..len];
            let (max, rest) = chunk.split_at(group);
            let (sum, values) = rest.split_at(group);
            let queries = row * group..(row + 1) * group;
            self.part.max[queries.clone()].copy_from_slice(max);
            self.part.sum[queries.clone()].copy_from_slice(sum);
            let octs = &mut self.part.values[queries.start * self.head_octs..];
            for (to, from) in octs.iter_mut().zip(values.as_chunks::<8>().0) {
                to.0 = *from;
            }
        }
    }
}

/// Which half of a layer's cache.
#[derive(Clone, Copy)]
enum Side {
    Keys,
    Values,
}
