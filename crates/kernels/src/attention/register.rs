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
use super::rows::Stored;
use crate::lanes::{Lanes, Registers, Wide};

/// One value for each position of a tile: scores, then weights, of one query; or one value of the head
/// of all keys.
pub(super) type Positions = [Wide; KV_TILE / 16];

/// The size of the next register tile when `left` queries are left: the greatest that this tier has
/// registers for.
#[inline(always)]
pub(super) fn queries_of_tile<L: Lanes>(left: usize) -> usize {
    let sizes: &[usize] = match L::REGISTERS {
        Registers::None => &[1],
        Registers::Sixteen => &[6, 3, 2, 1],
        Registers::ThirtyTwo => &[8, 4, 3, 2, 1],
    };
    let fits = sizes.iter().find(|size| **size <= left);
    fits.copied().unwrap_or(1)
}

/// Expands to a call of `$tile` for a number of queries that [`queries_of_tile`] gave, with as many
/// vectors a query as there are registers for. What a tier does not use is not compiled for it.
macro_rules! with_queries {
    ($lanes:ty, $queries:expr, $tile:ident($($argument:expr),*)) => {
        match $queries {
            1 if const { <$lanes>::REGISTERS.are_none() } => $tile::<$lanes, 1, 1>($($argument),*),
            _ if const { <$lanes>::REGISTERS.are_none() } => unreachable!("one query a tile"),
            8 if const { <$lanes>::REGISTERS.are_32() } => $tile::<$lanes, 8, 2>($($argument),*),
            4 if const { <$lanes>::REGISTERS.are_32() } => $tile::<$lanes, 4, 2>($($argument),*),
            6 if const { !<$lanes>::REGISTERS.are_32() } => $tile::<$lanes, 6, 1>($($argument),*),
            3 => $tile::<$lanes, 3, 2>($($argument),*),
            2 => $tile::<$lanes, 2, 2>($($argument),*),
            1 => $tile::<$lanes, 1, 2>($($argument),*),
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

/// The values of a tile of positions.
pub(super) trait Values {
    /// Those from `16 * wide` on.
    fn wide<L: Lanes>(&self, lanes: L, position: usize, wide: usize) -> L::W;
}

/// Values as f32: for many queries, which share the conversion. `[position][wides]`
pub(super) struct Converted<'a> {
    pub values: &'a [Wide],
    /// Vectors of a head.
    pub wides: usize,
}

impl Values for Converted<'_> {
    #[inline(always)]
    fn wide<L: Lanes>(&self, lanes: L, position: usize, wide: usize) -> L::W {
        lanes.wide_load(&self.values[position * self.wides + wide].0)
    }
}

/// Values as they are stored: for as many queries as one tile takes.
pub(super) struct Rows<'a, S> {
    pub rows: &'a [&'a [u8]; KV_TILE],
    pub stored: S,
}

impl<S: Stored> Values for Rows<'_, S> {
    #[inline(always)]
    fn wide<L: Lanes>(&self, lanes: L, position: usize, wide: usize) -> L::W {
        self.stored.wide(lanes, self.rows[position], wide)
    }
}

/// `sums[q] += weights[q][p] * values[p]` for `Q` queries and each of the positions, in order. A head is
/// `wides` vectors.
#[inline(always)]
pub(super) fn weighted_sum<L: Lanes, const Q: usize, const P: usize>(
    lanes: L,
    weights: &[Positions],
    values: &impl Values,
    (wides, positions): (usize, Range<usize>),
    sums: &mut [Wide],
) {
    let mut first = 0;
    while first + P <= wides {
        let columns = (wides, first, positions.clone());
        weighted_columns::<L, Q, P>(lanes, weights, values, columns, sums);
        first += P;
    }
    while first < wides {
        let columns = (wides, first, positions.clone());
        weighted_columns::<L, Q, 1>(lanes, weights, values, columns, sums);
        first += 1;
    }
}

/// As [`weighted_sum`], for the `P` vectors of each head from `first` on, sums in registers.
#[inline(always)]
fn weighted_columns<L: Lanes, const Q: usize, const P: usize>(
    lanes: L,
    weights: &[Positions],
    values: &impl Values,
    (wides, first, positions): (usize, usize, Range<usize>),
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
        for p in 0..P {
            value[p] = values.wide(lanes, position, first + p);
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
