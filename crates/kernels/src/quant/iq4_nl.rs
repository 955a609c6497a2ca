//! `IQ4_NL`: 32 weights in 18 bytes.
//!
//! ```text
//! | d: f16 (2) | nibbles (16) |
//! ```
//! `value = d * codebook[code]`.

use kvist_base::QuantFormat;

use super::codebook::{nearest, scale_for, value};
use super::{Codec, Parts, inverse, nibbles, signed_max, to_f16, u16_at};

const D: usize = 0;
const NIBBLES: usize = 2;
const BYTES: usize = NIBBLES + 16;
const _: () = assert!(BYTES == QuantFormat::Iq4Nl.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode,
    quantise,
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    nibbles::split(&raw[NIBBLES..BYTES], &mut parts.codes[..32]);
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..NIBBLES].copy_from_slice(&parts.d.to_le_bytes());
    nibbles::join(&parts.codes[..32], &mut raw[NIBBLES..BYTES]);
}

fn decode(parts: &Parts, out: &mut [f32]) {
    let d = parts.scale();
    for (x, code) in out.iter_mut().zip(parts.codes) {
        *x = d * value(code);
    }
}

/// The value of largest magnitude gets code 0, the codebook's largest; what lies opposite may be
/// cut where the codebook reaches less far.
fn quantise(values: &[f32], parts: &mut Parts) {
    let (bits, d) = to_f16(scale_for(signed_max(values)));
    let inverse = inverse(d);
    for (code, x) in parts.codes.iter_mut().zip(values) {
        *code = nearest(x * inverse);
    }
    parts.d = bits;
}
