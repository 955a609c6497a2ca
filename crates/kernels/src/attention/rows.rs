//! How a KV row stores its values.
//!
//! ```text
//! f16   | head_dim x f16 |
//! bf16  | head_dim x bf16 |
//! f32   | head_dim x f32 |
//! q8_0  | d: f16 | 32 x i8 | d: f16 | 32 x i8 | ...      value = d * code
//! ```
//! All numbers are little-endian. The last group of `q8_0` is as short as the head leaves it.
//!
//! Rounding is to nearest, ties to even. A group with a value that is not finite, or too large for
//! an f16 scale, gets a scale that is not a number, and so all of its values are: a fault must not
//! look like a value. One too small for a scale becomes zeroes.
//!
//! Plain index loops over arrays, as in the register tiles, so that they are compiled with the
//! tier's instructions.
#![allow(clippy::needless_range_loop)]

use half::bf16;
use kvist_base::KvDtype;

use super::KV_TILE;
use super::register::Positions;
use crate::lanes::{Lanes, Wide};

const GROUP: usize = KvDtype::GROUP;
/// Bytes of a scale.
const SCALE: usize = 2;
/// The code of a group's greatest magnitude.
const CODE_MAX: f32 = 127.0;

/// Stores one row: `values` is a head, `to` the row's bytes.
#[inline(always)]
pub(super) fn encode<L: Lanes>(lanes: L, dtype: KvDtype, values: &[f32], to: &mut [u8]) {
    let (octs, _) = values.as_chunks::<8>();
    match dtype {
        KvDtype::F16 => {
            for (to, from) in to.as_chunks_mut::<16>().0.iter_mut().zip(octs) {
                *to = lanes.narrow(lanes.load(from));
            }
        }
        KvDtype::BF16 => {
            for (to, from) in to.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *to = bf16::from_f32(*from).to_le_bytes();
            }
        }
        KvDtype::F32 => {
            for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *to = from.to_le_bytes();
            }
        }
        KvDtype::Q8_0 => {
            let groups = to.chunks_mut(SCALE + GROUP).zip(values.chunks(GROUP));
            for (to, values) in groups {
                let (scale, codes) = to.split_at_mut(SCALE);
                let inverse = put_scale(lanes, peak(values) / CODE_MAX, scale);
                for (code, value) in codes.iter_mut().zip(values) {
                    *code = code_of(*value * inverse);
                }
            }
        }
    }
}

/// How the values of one dtype are read from a row. One type a dtype, so that the loops over rows are
/// compiled for each.
pub(super) trait Stored: Copy {
    /// The eight values from `8 * oct` on.
    fn oct<L: Lanes>(self, lanes: L, row: &[u8], oct: usize) -> L::V;

    /// The sixteen values from `16 * wide` on.
    fn wide<L: Lanes>(self, lanes: L, row: &[u8], wide: usize) -> L::W;
}

/// [`KvDtype::F16`].
#[derive(Clone, Copy)]
pub(super) struct F16;

impl Stored for F16 {
    #[inline(always)]
    fn oct<L: Lanes>(self, lanes: L, row: &[u8], oct: usize) -> L::V {
        lanes.widen(&row.as_chunks().0[oct])
    }

    #[inline(always)]
    fn wide<L: Lanes>(self, lanes: L, row: &[u8], wide: usize) -> L::W {
        lanes.wide_widen(&row.as_chunks().0[wide])
    }
}

/// Defines the reader of a dtype whose values stand alone, each in `$bytes` bytes that `$value` turns
/// into an f32.
macro_rules! stored_alone {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $value:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl $name {
            #[inline(always)]
            fn values<const N: usize>(row: &[u8], first: usize) -> [f32; N] {
                let row = &row.as_chunks::<$bytes>().0[first..][..N];
                let mut values = [0.0; N];
                for i in 0..N {
                    values[i] = $value(row[i]);
                }
                values
            }
        }

        impl Stored for $name {
            #[inline(always)]
            fn oct<L: Lanes>(self, lanes: L, row: &[u8], oct: usize) -> L::V {
                lanes.load(&Self::values(row, 8 * oct))
            }

            #[inline(always)]
            fn wide<L: Lanes>(self, lanes: L, row: &[u8], wide: usize) -> L::W {
                lanes.wide_load(&Self::values(row, 16 * wide))
            }
        }
    };
}

stored_alone! {
    /// [`KvDtype::BF16`]: the upper half of an f32.
    BF16, 2, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}
stored_alone! {
    /// [`KvDtype::F32`].
    F32, 4, f32::from_le_bytes
}

/// [`KvDtype::Q8_0`].
#[derive(Clone, Copy)]
pub(super) struct Q8;

impl Q8 {
    /// Part `part` of `N` codes, and the scale of its group.
    #[inline(always)]
    fn part<const N: usize>(row: &[u8], part: usize) -> ([u8; SCALE], &[u8; N]) {
        let (group, part) = (part * N / GROUP, part % (GROUP / N));
        let group = &row[group * (SCALE + GROUP)..];
        let (scale, codes) = group.split_at(SCALE);
        ([scale[0], scale[1]], &codes.as_chunks().0[part])
    }
}

impl Stored for Q8 {
    #[inline(always)]
    fn oct<L: Lanes>(self, lanes: L, row: &[u8], oct: usize) -> L::V {
        let (scale, codes) = Self::part(row, oct);
        lanes.mul(lanes.splat_half(scale), lanes.widen_i8(codes))
    }

    #[inline(always)]
    fn wide<L: Lanes>(self, lanes: L, row: &[u8], wide: usize) -> L::W {
        let (scale, codes) = Self::part(row, wide);
        lanes.wide_mul(lanes.wide_splat_half(scale), lanes.wide_widen_i8(codes))
    }
}

/// Expands to `$body` with `$stored` the reader of a dtype.
macro_rules! with_stored {
    ($dtype:expr, $stored:ident => $body:expr) => {
        match $dtype {
            KvDtype::F16 => {
                let $stored = rows::F16;
                $body
            }
            KvDtype::BF16 => {
                let $stored = rows::BF16;
                $body
            }
            KvDtype::F32 => {
                let $stored = rows::F32;
                $body
            }
            KvDtype::Q8_0 => {
                let $stored = rows::Q8;
                $body
            }
        }
    };
}
pub(super) use with_stored;

/// Reads rows of a head each into `to`, `[rows][vectors of a head]`; what a last vector has beyond the
/// head stays.
#[inline(always)]
pub(super) fn decode<L: Lanes, S: Stored>(
    lanes: L,
    stored: S,
    rows: &[&[u8]],
    (head_dim, to): (usize, &mut [Wide]),
) {
    for (row, to) in rows.iter().zip(to.chunks_exact_mut(head_dim.div_ceil(16))) {
        for i in 0..head_dim / 16 {
            lanes.wide_store(stored.wide(lanes, row, i), &mut to[i].0);
        }
        if head_dim % 16 > 0 {
            let last = stored.oct(lanes, row, head_dim / 8 - 1);
            lanes.store(last, to[head_dim / 16].half_mut(0));
        }
    }
}

/// Reads rows of a head each with rows side by side: into lane `i` of `to[d]` the value `d` of row `i`,
/// for each eight rows of which `len` has at least one.
#[inline(always)]
pub(super) fn decode_turned<L: Lanes, S: Stored>(
    lanes: L,
    stored: S,
    rows: &[&[u8]; KV_TILE],
    (len, to): (usize, &mut [Positions]),
) {
    for (eight, rows) in rows.as_chunks::<8>().0[..len.div_ceil(8)]
        .iter()
        .enumerate()
    {
        for (oct, to) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut values = [lanes.splat(0.0); 8];
            for i in 0..8 {
                values[i] = stored.oct(lanes, rows[i], oct);
            }
            let values = lanes.transpose(values);
            for i in 0..8 {
                lanes.store(values[i], to[i][eight / 2].half_mut(eight % 2));
            }
        }
    }
}

/// The greatest magnitude; not finite when any value is not. As integers: they order like the
/// floats they are the bits of, with infinity and then NaN at the end.
#[inline(always)]
fn peak(values: &[f32]) -> f32 {
    const MAGNITUDE: u32 = !(1 << 31);
    let mut peak = 0;
    for value in values {
        peak = peak.max(value.to_bits() & MAGNITUDE);
    }
    f32::from_bits(peak)
}

/// Writes the scale nearest to `wanted` and returns the inverse of the one written: zero where
/// there is none that is finite.
#[inline(always)]
fn put_scale<L: Lanes>(lanes: L, wanted: f32, to: &mut [u8]) -> f32 {
    /// Half precision ends halfway between its greatest number and what would come next.
    const END: f32 = 65_520.0;
    let wanted = if wanted.abs() < END { wanted } else { f32::NAN };
    let halves = lanes.narrow(lanes.splat(wanted));
    to.copy_from_slice(&halves[..SCALE]);
    let mut scale = [0.0; 8];
    lanes.store(lanes.widen(&halves), &mut scale);
    let inverse = 1.0 / scale[0];
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The code nearest to `x`.
#[inline(always)]
fn code_of(x: f32) -> u8 {
    // A float between 2^23 and 2^24 counts ones, so the sum's own rounding is the one wanted, in
    // an instruction every tier has as a vector. Its low byte is then the code.
    const ONES: f32 = 12_582_912.0; // 1.5 * 2^23
    let x = if x > -CODE_MAX { x } else { -CODE_MAX };
    let x = if x < CODE_MAX { x } else { CODE_MAX };
    (x + ONES).to_le_bytes()[0]
}

#[cfg(test)]
pub(super) mod tests;
