//! The register tiles: scores and weighted values of one or two queries at a time.
//!
//! Plain index loops over arrays: a closure passed to the standard library would be compiled
//! apart, without the tier's instructions, whenever it is not inlined.
#![allow(clippy::needless_range_loop)]

use super::KV_TILE;
use crate::lanes::{Lanes, Oct};

/// Positions whose scores are taken in one register tile.
pub(super) const SCORE_COLUMNS: usize = 4;

/// Vectors of the output that are summed in one register tile.
const VALUE_OCTS: usize = 4;

/// Scores, then weights, of one query for a tile of positions.
pub(super) type Weights = [Oct; KV_TILE / 8];

/// Dot products of `Q` queries with four keys: eight chains over the head, then one tree.
#[inline(always)]
pub(super) fn dots<L: Lanes, const Q: usize>(
    lanes: L,
    queries: [&[Oct]; Q],
    keys: [&[Oct]; SCORE_COLUMNS],
) -> [[f32; SCORE_COLUMNS]; Q] {
    let octs = keys[0].len();
    let (queries, keys) = (queries.map(|q| &q[..octs]), keys.map(|k| &k[..octs]));
    let mut chains = [[lanes.splat(0.0); SCORE_COLUMNS]; Q];
    let mut key = [lanes.splat(0.0); SCORE_COLUMNS];
    for i in 0..octs {
        for c in 0..SCORE_COLUMNS {
            key[c] = lanes.load(&keys[c][i].0);
        }
        for q in 0..Q {
            let query = lanes.load(&queries[q][i].0);
            for c in 0..SCORE_COLUMNS {
                chains[q][c] = lanes.fma(query, key[c], chains[q][c]);
            }
        }
    }
    let mut scores = [[0.0; SCORE_COLUMNS]; Q];
    for q in 0..Q {
        scores[q] = lanes.sum4(chains[q]);
    }
    scores
}

/// `sums[q] += weights[q][p] * values[p]` for each position `p` of `values`, in order.
#[inline(always)]
pub(super) fn weighted_sum<L: Lanes, const Q: usize>(
    lanes: L,
    weights: [&Weights; Q],
    values: &[Oct],
    sums: &mut [&mut [Oct]; Q],
) {
    let octs = sums[0].len();
    let mut first = 0;
    // A lone query has registers for a tile twice as wide.
    while Q == 1 && first + 2 * VALUE_OCTS <= octs {
        weighted_columns::<L, Q, { 2 * VALUE_OCTS }>(lanes, weights, values, first, sums);
        first += 2 * VALUE_OCTS;
    }
    while first + VALUE_OCTS <= octs {
        weighted_columns::<L, Q, VALUE_OCTS>(lanes, weights, values, first, sums);
        first += VALUE_OCTS;
    }
    while first < octs {
        weighted_columns::<L, Q, 1>(lanes, weights, values, first, sums);
        first += 1;
    }
}

/// As [`weighted_sum`], for the `D` vectors of each row from `first` on, sums in registers.
#[inline(always)]
fn weighted_columns<L: Lanes, const Q: usize, const D: usize>(
    lanes: L,
    weights: [&Weights; Q],
    values: &[Oct],
    first: usize,
    sums: &mut [&mut [Oct]; Q],
) {
    let octs = sums[0].len();
    let mut acc = [[lanes.splat(0.0); D]; Q];
    for q in 0..Q {
        for d in 0..D {
            acc[q][d] = lanes.load(&sums[q][first + d].0);
        }
    }
    let mut value = [lanes.splat(0.0); D];
    for (position, row) in values.chunks_exact(octs).enumerate() {
        let row = &row[first..first + D];
        for d in 0..D {
            value[d] = lanes.load(&row[d].0);
        }
        for q in 0..Q {
            let weight = lanes.splat(get(weights[q], position));
            for d in 0..D {
                acc[q][d] = lanes.fma(weight, value[d], acc[q][d]);
            }
        }
    }
    for q in 0..Q {
        for d in 0..D {
            lanes.store(acc[q][d], &mut sums[q][first + d].0);
        }
    }
}

/// The weight of one position of the tile.
#[inline(always)]
pub(super) fn get(row: &Weights, index: usize) -> f32 {
    row[index / 8].0[index % 8]
}

/// Writes the scores of the positions from `first` on.
#[inline(always)]
pub(super) fn put(row: &mut Weights, first: usize, scores: [f32; SCORE_COLUMNS]) {
    row[first / 8].0[first % 8..][..SCORE_COLUMNS].copy_from_slice(&scores);
}
