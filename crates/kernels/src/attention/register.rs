//! The register tiles: scores and weighted values of some queries at a time.
//!
//! Lanes are positions in the one and values of the head in the other. They never meet, so the width of
//! a register changes no sum: each is one chain, over the head or over positions.
//!
//! Plain index loops over arrays: a closure passed to the standard library would be compiled
//! apart, without the tier's instructions, whenever it is not inlined.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::KV_TILE;
use crate::lanes::{Lanes, Wide};

/// One value for each position of a tile: scores, then weights, of one query; or one value of the head
/// of all keys.
pub(super) type Positions = [Wide; KV_TILE / 16];

/// Most queries of a register tile: with two registers of positions each for tiers of 32 registers of
/// sixteen lanes, with one `W` of two registers each for those of 16.
pub(super) const fn queries_max<L: Lanes>() -> usize {
    if L::WIDE { 8 } else { 6 }
}

/// Expands to a call of `$tile` for `$queries` queries, at most [`queries_max`], with as many vectors a
/// query as there are registers for.
macro_rules! with_queries {
    ($lanes:ty, $queries:expr, $tile:ident($($argument:expr),*)) => {
        match $queries {
            1 => $tile::<$lanes, 1, 2>($($argument),*),
            2 => $tile::<$lanes, 2, 2>($($argument),*),
            3 => $tile::<$lanes, 3, 2>($($argument),*),
            4 if <$lanes>::WIDE => $tile::<$lanes, 4, 2>($($argument),*),
            5 if <$lanes>::WIDE => $tile::<$lanes, 5, 2>($($argument),*),
            6 if <$lanes>::WIDE => $tile::<$lanes, 6, 2>($($argument),*),
            7 if <$lanes>::WIDE => $tile::<$lanes, 7, 2>($($argument),*),
            8 if <$lanes>::WIDE => $tile::<$lanes, 8, 2>($($argument),*),
            4 => $tile::<$lanes, 4, 1>($($argument),*),
            5 => $tile::<$lanes, 5, 1>($($argument),*),
            6 => $tile::<$lanes, 6, 1>($($argument),*),
            other => unreachable!("a tile of {other} queries"),
        }
    };
}
pub(super) use with_queries;

/// Scores of `Q` queries, one after the other in `queries`, with the first `len` positions of the tile
/// (and, up to whole vectors, meaningless ones): `sum of q[d] * key[d]`, in order of `d`.
#[inline(always)]
pub(super) fn scores<L: Lanes, const Q: usize, const P: usize>(
    lanes: L,
    queries: &[f32],
    keys: &[Positions],
    len: usize,
    to: &mut [Positions],
) {
    let head_dim = keys.len();
    let mut heads = [&queries[..head_dim]; Q];
    for q in 0..Q {
        heads[q] = &queries[q * head_dim..][..head_dim];
    }
    for first in (0..len.div_ceil(16)).step_by(P) {
        let mut chains = [[lanes.wide_splat(0.0); P]; Q];
        let mut key = [lanes.wide_splat(0.0); P];
        for d in 0..head_dim {
            for p in 0..P {
                key[p] = lanes.wide_load(&keys[d][first + p].0);
            }
            for q in 0..Q {
                let value = lanes.wide_splat(heads[q][d]);
                for p in 0..P {
                    chains[q][p] = lanes.wide_fma(value, key[p], chains[q][p]);
                }
            }
        }
        for q in 0..Q {
            for p in 0..P {
                lanes.wide_store(chains[q][p], &mut to[q][first + p].0);
            }
        }
    }
}

/// Values of a tile of positions: `[position][wides]`.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub values: &'a [Wide],
    /// Vectors of a head.
    pub wides: usize,
}

/// `sums[q] += weights[q][p] * values[p]` for `Q` queries and each of the positions, in order.
#[inline(always)]
pub(super) fn weighted_sum<L: Lanes, const Q: usize, const P: usize>(
    lanes: L,
    weights: &[Positions],
    values: Values<'_>,
    positions: Range<usize>,
    sums: &mut [Wide],
) {
    let mut first = 0;
    while first + P <= values.wides {
        weighted_columns::<L, Q, P>(lanes, weights, values, (first, positions.clone()), sums);
        first += P;
    }
    while first < values.wides {
        weighted_columns::<L, Q, 1>(lanes, weights, values, (first, positions.clone()), sums);
        first += 1;
    }
}

/// As [`weighted_sum`], for the `P` vectors of each head from `first` on, sums in registers.
#[inline(always)]
fn weighted_columns<L: Lanes, const Q: usize, const P: usize>(
    lanes: L,
    weights: &[Positions],
    Values { values, wides }: Values<'_>,
    (first, positions): (usize, Range<usize>),
    sums: &mut [Wide],
) {
    let weights = &weights[..Q];
    let mut acc = [[lanes.wide_splat(0.0); P]; Q];
    for q in 0..Q {
        for p in 0..P {
            acc[q][p] = lanes.wide_load(&sums[q * wides + first + p].0);
        }
    }
    let mut value = [lanes.wide_splat(0.0); P];
    for position in positions {
        let row = &values[position * wides + first..][..P];
        for p in 0..P {
            value[p] = lanes.wide_load(&row[p].0);
        }
        for q in 0..Q {
            let weight = lanes.wide_splat(weights[q][position / 16].0[position % 16]);
            for p in 0..P {
                acc[q][p] = lanes.wide_fma(weight, value[p], acc[q][p]);
            }
        }
    }
    for q in 0..Q {
        for p in 0..P {
            lanes.wide_store(acc[q][p], &mut sums[q * wides + first + p].0);
        }
    }
}
