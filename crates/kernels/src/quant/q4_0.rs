//! `Q4_0`: 32 weights in 18 bytes.
//!
//! ```text
//! | d: f16 (2) | nibbles (16) |
//! ```
//! `value = d * (code - 8)`. An all-zero block has d = 0.

use kvist_base::QuantFormat;

use super::{Codec, Parts, decode_symmetric, nibbles, quantise_symmetric, u16_at};

const D: usize = 0;
const NIBBLES: usize = 2;
const BYTES: usize = NIBBLES + 16;
const _: () = assert!(BYTES == QuantFormat::Q4_0.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode: |parts, out| decode_symmetric(parts, 8, out),
    quantise: |values, parts| quantise_symmetric(values, 8, parts),
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    nibbles::split(&raw[NIBBLES..BYTES], &mut parts.codes[..32]);
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..NIBBLES].copy_from_slice(&parts.d.to_le_bytes());
    nibbles::join(&parts.codes[..32], &mut raw[NIBBLES..BYTES]);
}
