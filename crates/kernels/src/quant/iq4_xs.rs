//! `IQ4_XS`: 256 weights in 136 bytes, 8 sub-blocks of 32.
//!
//! ```text
//! | d: f16 (2) | high pairs of scales (2) | low nibbles of scales (4) | nibbles: 8 x 16 |
//! ```
//! The scale of sub-block s is 6 bits: nibble s % 2 of byte s / 2, and above it pair s of a
//! little-endian u16. 32 is subtracted from it.
//! `value = (d * sub_scale) * codebook[code]`.

use kvist_base::QuantFormat;

use super::codebook::{nearest, scale_for, value};
use super::{Codec, Parts, inverse, nibbles, signed_max, to_f16, u16_at};

const D: usize = 0;
const SCALES_HIGH: usize = 2;
const SCALES_LOW: usize = 4;
const NIBBLES: usize = SCALES_LOW + 4;
const BYTES: usize = NIBBLES + 128;
const _: () = assert!(BYTES == QuantFormat::Iq4Xs.block_bytes());

/// Stored scales are this much larger.
const SCALE_ZERO: u8 = 32;

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode,
    quantise,
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    let high = u16_at(raw, SCALES_HIGH).to_le_bytes();
    for (sub, scale) in parts.sub_scales[..8].iter_mut().enumerate() {
        let low = (raw[SCALES_LOW + sub / 2] >> (4 * (sub % 2))) & 0x0F;
        let high = (high[sub / 4] >> (2 * (sub % 4))) & 3;
        *scale = (low | high << 4).wrapping_sub(SCALE_ZERO);
    }
    let runs = raw[NIBBLES..BYTES].chunks_exact(16);
    for (codes, bytes) in parts.codes.chunks_exact_mut(32).zip(runs) {
        nibbles::split(bytes, codes);
    }
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..SCALES_HIGH].copy_from_slice(&parts.d.to_le_bytes());
    raw[SCALES_HIGH..NIBBLES].fill(0);
    for (sub, scale) in parts.sub_scales[..8].iter().enumerate() {
        let stored = scale.wrapping_add(SCALE_ZERO);
        raw[SCALES_HIGH + sub / 4] |= (stored >> 4) << (2 * (sub % 4));
        raw[SCALES_LOW + sub / 2] |= (stored & 0x0F) << (4 * (sub % 2));
    }
    let runs = raw[NIBBLES..BYTES].chunks_exact_mut(16);
    for (codes, bytes) in parts.codes.chunks_exact(32).zip(runs) {
        nibbles::join(codes, bytes);
    }
}

fn decode(parts: &Parts, out: &mut [f32]) {
    let d = parts.scale();
    let blocks = out.chunks_exact_mut(32).zip(parts.codes.chunks_exact(32));
    for (sub, (values, codes)) in blocks.enumerate() {
        let scale = d * f32::from(parts.sub_scales[sub].cast_signed());
        for (x, code) in values.iter_mut().zip(codes) {
            *x = scale * value(*code);
        }
    }
}

/// Each sub-block as one of `IQ4_NL`; the largest of their scales becomes -32, the others are
/// rounded to 6 bits of it, and the codes are taken against the rounded ones.
fn quantise(values: &[f32], parts: &mut Parts) {
    let mut scales = [0.0f32; 8];
    for (scale, values) in scales.iter_mut().zip(values.chunks_exact(32)) {
        *scale = scale_for(signed_max(values));
    }
    let (bits, d) = to_f16(signed_max(&scales) / -f32::from(SCALE_ZERO));
    let d_inverse = inverse(d);
    parts.d = bits;
    let blocks = parts
        .codes
        .chunks_exact_mut(32)
        .zip(values.chunks_exact(32));
    for (sub, (codes, values)) in blocks.enumerate() {
        #[allow(clippy::cast_possible_truncation)] // clamped
        let sub_scale = (scales[sub] * d_inverse)
            .round_ties_even()
            .clamp(-32.0, 31.0) as i8;
        parts.sub_scales[sub] = sub_scale.cast_unsigned();
        let inverse = inverse(d * f32::from(sub_scale));
        for (code, x) in codes.iter_mut().zip(values) {
            *code = nearest(x * inverse);
        }
    }
}
