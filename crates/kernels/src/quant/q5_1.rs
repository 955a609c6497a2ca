//! `Q5_1`: 32 weights in 24 bytes.
//!
//! ```text
//! | d: f16 (2) | m: f16 (2) | fifth bits: u32 (4) | nibbles (16) |
//! ```
//! `value = d * code + m`.

use kvist_base::QuantFormat;

use super::{Codec, Parts, decode_min_max, nibbles, quantise_min_max, u16_at};

const D: usize = 0;
const M: usize = 2;
const FIFTH: usize = 4;
const NIBBLES: usize = 8;
const BYTES: usize = NIBBLES + 16;
const _: () = assert!(BYTES == QuantFormat::Q5_1.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode: decode_min_max,
    quantise: |values, parts| quantise_min_max(values, 31, parts),
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    parts.m = u16_at(raw, M);
    nibbles::split(&raw[NIBBLES..BYTES], &mut parts.codes[..32]);
    let fifth = [raw[FIFTH], raw[FIFTH + 1], raw[FIFTH + 2], raw[FIFTH + 3]];
    nibbles::split_fifth(fifth, &mut parts.codes);
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..M].copy_from_slice(&parts.d.to_le_bytes());
    raw[M..FIFTH].copy_from_slice(&parts.m.to_le_bytes());
    raw[FIFTH..NIBBLES].copy_from_slice(&nibbles::join_fifth(&parts.codes));
    nibbles::join(&parts.codes[..32], &mut raw[NIBBLES..BYTES]);
}
