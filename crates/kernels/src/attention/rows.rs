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

/// Reads one row into as many values as a head has; what `to` has beyond them stays.
#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, dtype: KvDtype, row: &[u8], to: &mut [Wide]) {
    match dtype {
        KvDtype::F16 => {
            for (i, from) in row.as_chunks::<16>().0.iter().enumerate() {
                lanes.store(lanes.widen(from), to[i / 2].half_mut(i % 2));
            }
        }
        KvDtype::BF16 => {
            for (i, from) in row.as_chunks::<2>().0.iter().enumerate() {
                to[i / 16].0[i % 16] = f32::from_bits(u32::from(u16::from_le_bytes(*from)) << 16);
            }
        }
        KvDtype::F32 => {
            for (i, from) in row.as_chunks::<4>().0.iter().enumerate() {
                to[i / 16].0[i % 16] = f32::from_le_bytes(*from);
            }
        }
        KvDtype::Q8_0 => {
            for (group, to) in row.chunks(SCALE + GROUP).zip(to.chunks_mut(GROUP / 16)) {
                let (scale, codes) = get_scale(lanes, group);
                for (i, codes) in codes.as_chunks::<8>().0.iter().enumerate() {
                    let values = lanes.mul(scale, lanes.widen_i8(codes));
                    lanes.store(values, to[i / 2].half_mut(i % 2));
                }
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

/// A group's scale, in every lane, and the bytes of its codes.
#[inline(always)]
fn get_scale<L: Lanes>(lanes: L, group: &[u8]) -> (L::V, &[u8]) {
    let (scale, codes) = group.split_at(SCALE);
    let mut halves = [0; 16];
    for half in halves.as_chunks_mut::<SCALE>().0 {
        half.copy_from_slice(scale);
    }
    (lanes.widen(&halves), codes)
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
