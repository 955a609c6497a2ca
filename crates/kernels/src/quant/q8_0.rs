//! `Q8_0`: 32 weights in 34 bytes.
//!
//! ```text
//! | d: f16 (2) | codes: 32 x i8 (32) |
//! ```
//! `value = d * code`. Encoders write codes in -127..=127; a file may hold -128.

use kvist_base::QuantFormat;

use super::{Codec, Parts, inverse, signed_max, to_f16, u16_at};

const D: usize = 0;
const CODES: usize = 2;
const BYTES: usize = CODES + 32;
const _: () = assert!(BYTES == QuantFormat::Q8_0.block_bytes());

pub(super) const CODEC: Codec = Codec {
    split,
    join,
    decode,
    quantise,
};

fn split(raw: &[u8], parts: &mut Parts) {
    parts.d = u16_at(raw, D);
    parts.codes[..32].copy_from_slice(&raw[CODES..BYTES]);
}

fn join(parts: &Parts, raw: &mut [u8]) {
    raw[D..CODES].copy_from_slice(&parts.d.to_le_bytes());
    raw[CODES..BYTES].copy_from_slice(&parts.codes[..32]);
}

fn decode(parts: &Parts, out: &mut [f32]) {
    let scale = parts.scale();
    for (value, code) in out.iter_mut().zip(parts.codes) {
        *value = scale * f32::from(code.cast_signed());
    }
}

fn quantise(values: &[f32], parts: &mut Parts) {
    let (bits, scale) = to_f16(signed_max(values).abs() / 127.0);
    let inverse = inverse(scale);
    for (code, x) in parts.codes.iter_mut().zip(values) {
        #[allow(clippy::cast_possible_truncation)] // clamped
        let signed = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        *code = signed.cast_unsigned();
    }
    parts.d = bits;
}
