//! `Q5_0`: 32 weights in 22 bytes.
//!
//! ```text
//! | d: f16 (2) | fifth bits: u32 (4) | nibbles (16) |
//! ```
//! `value = d * (code - 16)`.

use kvist_base::QuantFormat;

use super::{Codec, Parts, decode_symmetric, nibbles, quantise_symmetric, u16_at};

const D: usize = 0;
const FIFTH: usize = 2;
const NIBBLES: usize = 6;
const BYTES: usize = NIBBLES + 16;
const _: () = assert!(BYTES == QuantFormat::Q5_0.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode: |parts, out| decode_symmetric(parts, 16, out),
    quantise: |values, parts| quantise_symmetric(values, 16, parts),
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    nibbles::split(&raw[NIBBLES..BYTES], &mut parts.codes[..32]);
    let fifth = [raw[FIFTH], raw[FIFTH + 1], raw[FIFTH + 2], raw[FIFTH + 3]];
    nibbles::split_fifth(fifth, &mut parts.codes);
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..FIFTH].copy_from_slice(&parts.d.to_le_bytes());
    raw[FIFTH..NIBBLES].copy_from_slice(&nibbles::join_fifth(&parts.codes));
    nibbles::join(&parts.codes[..32], &mut raw[NIBBLES..BYTES]);
}
