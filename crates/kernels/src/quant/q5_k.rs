//! `Q5_K`: 256 weights in 176 bytes, 8 sub-blocks of 32.
//!
//! ```text
//! | d: f16 (2) | m: f16 (2) | scales and minima (12) | fifth bits (32) | nibbles (4 x 32) |
//! ```
//! Nibbles as in `Q4_K`; bit s of fifth-bit byte l belongs to code l of sub-block s.
//! `value = (d * sub_scale) * code - m * sub_min`.

use kvist_base::QuantFormat;

use super::{Codec, Parts, k_scales, nibbles, u16_at};

const D: usize = 0;
const M: usize = 2;
const SCALES: usize = 4;
const FIFTH: usize = SCALES + k_scales::BYTES;
const NIBBLES: usize = FIFTH + 32;
const BYTES: usize = NIBBLES + 128;
const _: () = assert!(BYTES == QuantFormat::Q5K.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode: k_scales::decode,
    quantise: |values, parts| k_scales::quantise(values, 31, parts),
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    parts.m = u16_at(raw, M);
    k_scales::split(&raw[SCALES..FIFTH], parts);
    let runs = raw[NIBBLES..BYTES].chunks_exact(32);
    for (codes, bytes) in parts.codes.chunks_exact_mut(64).zip(runs) {
        nibbles::split(bytes, codes);
    }
    for (sub, codes) in parts.codes.chunks_exact_mut(32).enumerate() {
        for (code, byte) in codes.iter_mut().zip(&raw[FIFTH..NIBBLES]) {
            *code |= ((byte >> sub) & 1) << 4;
        }
    }
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..M].copy_from_slice(&parts.d.to_le_bytes());
    raw[M..SCALES].copy_from_slice(&parts.m.to_le_bytes());
    k_scales::join(parts, &mut raw[SCALES..FIFTH]);
    raw[FIFTH..NIBBLES].fill(0);
    for (sub, codes) in parts.codes.chunks_exact(32).enumerate() {
        for (byte, code) in raw[FIFTH..NIBBLES].iter_mut().zip(codes) {
            *byte |= ((code >> 4) & 1) << sub;
        }
    }
    let runs = raw[NIBBLES..BYTES].chunks_exact_mut(32);
    for (codes, bytes) in parts.codes.chunks_exact(64).zip(runs) {
        nibbles::join(codes, bytes);
    }
}
