//! `Q4_1`: 32 weights in 20 bytes.
//!
//! ```text
//! | d: f16 (2) | m: f16 (2) | nibbles (16) |
//! ```
//! `value = d * code + m`.

use kvist_base::QuantFormat;

use super::{Codec, Parts, decode_min_max, nibbles, quantise_min_max, u16_at};

const D: usize = 0;
const M: usize = 2;
const NIBBLES: usize = 4;
const BYTES: usize = NIBBLES + 16;
const _: () = assert!(BYTES == QuantFormat::Q4_1.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode: decode_min_max,
    quantise: |values, parts| quantise_min_max(values, 15, parts),
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    parts.m = u16_at(raw, M);
    nibbles::split(&raw[NIBBLES..BYTES], &mut parts.codes[..32]);
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..M].copy_from_slice(&parts.d.to_le_bytes());
    raw[M..NIBBLES].copy_from_slice(&parts.m.to_le_bytes());
    nibbles::join(&parts.codes[..32], &mut raw[NIBBLES..BYTES]);
}
