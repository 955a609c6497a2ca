//! `Q4_K`: 256 weights in 144 bytes, 8 sub-blocks of 32.
//!
//! ```text
//! | d: f16 (2) | m: f16 (2) | scales and minima (12) | nibbles: 4 runs of 64 codes (4 x 32) |
//! ```
//! `value = (d * sub_scale) * code - m * sub_min`.

use kvist_base::QuantFormat;

use super::{Codec, Parts, k_scales, nibbles, u16_at};

const D: usize = 0;
const M: usize = 2;
const SCALES: usize = 4;
const NIBBLES: usize = SCALES + k_scales::BYTES;
const BYTES: usize = NIBBLES + 128;
const _: () = assert!(BYTES == QuantFormat::Q4K.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode: k_scales::decode,
    quantise: |values, parts| k_scales::quantise(values, 15, parts),
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    parts.m = u16_at(raw, M);
    k_scales::split(&raw[SCALES..NIBBLES], parts);
    let runs = raw[NIBBLES..BYTES].chunks_exact(32);
    for (codes, bytes) in parts.codes.chunks_exact_mut(64).zip(runs) {
        nibbles::split(bytes, codes);
    }
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..M].copy_from_slice(&parts.d.to_le_bytes());
    raw[M..SCALES].copy_from_slice(&parts.m.to_le_bytes());
    k_scales::join(parts, &mut raw[SCALES..NIBBLES]);
    let runs = raw[NIBBLES..BYTES].chunks_exact_mut(32);
    for (codes, bytes) in parts.codes.chunks_exact(64).zip(runs) {
        nibbles::join(codes, bytes);
    }
}
