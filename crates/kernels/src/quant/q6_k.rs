//! `Q6_K`: 256 weights in 210 bytes, 16 sub-blocks of 16.
//!
//! ```text
//! | low nibbles (2 x 64) | high bit pairs (2 x 32) | scales: 16 x i8 (16) | d: f16 (2) |
//! ```
//! Each half of 128 codes is one run of nibbles whose 64 bytes pair code j with code j + 64, and
//! 32 bytes of bit pairs: pair p of byte l is the top of code 32 p + l.
//! `value = (d * sub_scale) * (code - 32)`.

use kvist_base::QuantFormat;

use super::{Codec, Parts, inverse, nibbles, round_code, signed_max, to_f16, u16_at};

const NIBBLES: usize = 0;
const HIGH: usize = NIBBLES + 128;
const SCALES: usize = HIGH + 64;
const D: usize = SCALES + 16;
const BYTES: usize = D + 2;
const _: () = assert!(BYTES == QuantFormat::Q6K.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode,
    quantise,
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    parts.sub_scales.copy_from_slice(&raw[SCALES..D]);
    let runs = raw[NIBBLES..HIGH]
        .chunks_exact(64)
        .zip(raw[HIGH..SCALES].chunks_exact(32));
    for (codes, (low, high)) in parts.codes.chunks_exact_mut(128).zip(runs) {
        nibbles::split(low, codes);
        for (pair, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(high) {
                *code |= ((byte >> (2 * pair)) & 3) << 4;
            }
        }
    }
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..BYTES].copy_from_slice(&parts.d.to_le_bytes());
    raw[SCALES..D].copy_from_slice(&parts.sub_scales);
    for (half, codes) in parts.codes.chunks_exact(128).enumerate() {
        nibbles::join(codes, &mut raw[NIBBLES + 64 * half..][..64]);
        let high = &mut raw[HIGH + 32 * half..][..32];
        high.fill(0);
        for (pair, codes) in codes.chunks_exact(32).enumerate() {
            for (byte, code) in high.iter_mut().zip(codes) {
                *byte |= (code >> 4) << (2 * pair);
            }
        }
    }
}

fn decode(parts: &Parts, out: &mut [f32]) {
    let d = parts.scale();
    let blocks = out.chunks_exact_mut(16).zip(parts.codes.chunks_exact(16));
    for (sub, (values, codes)) in blocks.enumerate() {
        let scale = d * f32::from(parts.sub_scales[sub].cast_signed());
        for (value, code) in values.iter_mut().zip(codes) {
            *value = scale * f32::from(i16::from(*code) - 32);
        }
    }
}

/// Each sub-block's value of largest magnitude gets code 0 (that is -32); the sub-scales are
/// rounded to i8 of the largest one, and the codes are taken against the rounded ones.
fn quantise(values: &[f32], parts: &mut Parts) {
    let mut scales = [0.0f32; 16];
    for (scale, values) in scales.iter_mut().zip(values.chunks_exact(16)) {
        *scale = signed_max(values) / -32.0;
    }
    let (bits, d) = to_f16(signed_max(&scales).abs() / 127.0);
    let d_inverse = inverse(d);
    parts.d = bits;
    for (sub, (codes, values)) in parts
        .codes
        .chunks_exact_mut(16)
        .zip(values.chunks_exact(16))
        .enumerate()
    {
        #[allow(clippy::cast_possible_truncation)] // clamped
        let sub_scale = (scales[sub] * d_inverse)
            .round_ties_even()
            .clamp(-127.0, 127.0) as i8;
        parts.sub_scales[sub] = sub_scale.cast_unsigned();
        let inverse = inverse(d * f32::from(sub_scale));
        for (code, x) in codes.iter_mut().zip(values) {
            *code = round_code(x * inverse + 32.0, 63);
        }
    }
}
