//! Weight formats of GGUF files: one file per format, with its bytes drawn, and a scalar encoder
//! and decoder that every kernel is measured against.
//!
//! A quant block is first taken apart into [`Parts`] (bits moved, nothing computed); decoding,
//! packing and the scalar product all start from there, so they cannot disagree about a layout.

mod codebook;
mod iq4_nl;
mod iq4_xs;
mod k_scales;
mod nibbles;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
#[cfg(test)]
mod tests;

pub(crate) use codebook::codebook;

use half::{bf16, f16};
use kvist_base::QuantFormat;

/// The largest quant block, in weights.
pub(crate) const BLOCK_WEIGHTS_MAX: usize = 256;

/// A quant block taken apart. Fields a format does not have stay zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Codes as stored, zero point not subtracted; for `Q8_0` the bits of an `i8`, for `IQ4_NL`
    /// and `IQ4_XS` places in the codebook.
    pub codes: [u8; BLOCK_WEIGHTS_MAX],
    /// K formats and `IQ4_XS`: the scale of each sub-block; for `Q6_K` and `IQ4_XS` the bits of
    /// an `i8`.
    pub sub_scales: [u8; 16],
    /// `Q4_K`, `Q5_K`: the minimum of each sub-block.
    pub sub_mins: [u8; 8],
    /// Bits of the f16 scale.
    pub d: u16,
    /// Bits of the f16 minimum: added (`Q4_1`, `Q5_1`) or subtracted (`Q4_K`, `Q5_K`).
    pub m: u16,
}

impl Parts {
    pub(crate) const ZERO: Self = Self {
        codes: [0; BLOCK_WEIGHTS_MAX],
        sub_scales: [0; 16],
        sub_mins: [0; 8],
        d: 0,
        m: 0,
    };

    /// The block's scale.
    pub(crate) fn scale(&self) -> f32 {
        f16::from_bits(self.d).to_f32()
    }

    /// The block's minimum.
    pub(crate) fn min(&self) -> f32 {
        f16::from_bits(self.m).to_f32()
    }
}

/// What a format with quant blocks can do; `raw` is one block as the file has it.
pub(crate) struct Codec {
    /// File bytes to parts.
    pub split: fn(raw: &[u8], parts: &mut Parts),
    /// Parts to file bytes; writes every byte.
    pub join: fn(parts: &Parts, raw: &mut [u8]),
    /// Parts to values.
    pub decode: fn(parts: &Parts, out: &mut [f32]),
    /// Values to parts, rounding to nearest.
    pub quantise: fn(values: &[f32], parts: &mut Parts),
}

/// The codec of a format, or `None` for the floating-point formats, which have no quant blocks.
pub(crate) const fn codec(format: QuantFormat) -> Option<&'static Codec> {
    match format {
        QuantFormat::F32 | QuantFormat::F16 | QuantFormat::BF16 => None,
        QuantFormat::Q4_0 => Some(&q4_0::CODEC),
        QuantFormat::Q4_1 => Some(&q4_1::CODEC),
        QuantFormat::Q5_0 => Some(&q5_0::CODEC),
        QuantFormat::Q5_1 => Some(&q5_1::CODEC),
        QuantFormat::Q8_0 => Some(&q8_0::CODEC),
        QuantFormat::Q4K => Some(&q4_k::CODEC),
        QuantFormat::Q5K => Some(&q5_k::CODEC),
        QuantFormat::Q6K => Some(&q6_k::CODEC),
        QuantFormat::Iq4Nl => Some(&iq4_nl::CODEC),
        QuantFormat::Iq4Xs => Some(&iq4_xs::CODEC),
    }
}

/// One floating-point weight from its little-endian bytes.
///
/// # Panics
/// When `raw` is not the bytes of one weight, or the format has quant blocks.
pub(crate) fn decode_float(format: QuantFormat, raw: &[u8]) -> f32 {
    match (format, raw) {
        (QuantFormat::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (QuantFormat::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (QuantFormat::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        _ => unreachable!("{} bytes are no weight of {format}", raw.len()),
    }
}

/// Decodes one row.
///
/// # Panics
/// When `raw` is not exactly the bytes of `out.len()` weights.
pub fn decode_row(format: QuantFormat, raw: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.row_bytes(out.len()),
        Some(raw.len()),
        "a whole row of {format}"
    );
    let raw_blocks = raw.chunks_exact(format.block_bytes());
    let Some(codec) = codec(format) else {
        for (value, raw) in out.iter_mut().zip(raw_blocks) {
            *value = decode_float(format, raw);
        }
        return;
    };
    let mut parts = Parts::ZERO;
    for (values, raw) in out.chunks_exact_mut(format.block_weights()).zip(raw_blocks) {
        (codec.split)(raw, &mut parts);
        (codec.decode)(&parts, values);
    }
}

/// Encodes one row, each weight rounded to the nearest code of its block. For finite values.
///
/// # Panics
/// When `out` is not exactly the bytes of `values.len()` weights.
pub fn encode_row(format: QuantFormat, values: &[f32], out: &mut [u8]) {
    assert_eq!(
        format.row_bytes(values.len()),
        Some(out.len()),
        "a whole row of {format}"
    );
    let raw_blocks = out.chunks_exact_mut(format.block_bytes());
    let Some(codec) = codec(format) else {
        for (value, raw) in values.iter().zip(raw_blocks) {
            match format {
                QuantFormat::F32 => raw.copy_from_slice(&value.to_le_bytes()),
                QuantFormat::F16 => raw.copy_from_slice(&f16::from_f32(*value).to_le_bytes()),
                _ => raw.copy_from_slice(&bf16::from_f32(*value).to_le_bytes()),
            }
        }
        return;
    };
    for (values, raw) in values.chunks_exact(format.block_weights()).zip(raw_blocks) {
        let mut parts = Parts::ZERO;
        (codec.quantise)(values, &mut parts);
        (codec.join)(&parts, raw);
    }
}

/// The little-endian u16 at `at`.
fn u16_at(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

/// The f16 nearest to `value`: its bits, and the value they stand for.
fn to_f16(value: f32) -> (u16, f32) {
    let half = f16::from_f32(value);
    (half.to_bits(), half.to_f32())
}

/// `1 / scale`, or 0 when all values of the block are one: every code is then the zero point.
fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// `x` rounded to the nearest code in `0..=max`.
fn round_code(x: f32, max: u8) -> u8 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
    let code = x.round_ties_even().clamp(0.0, f32::from(max)) as u8;
    code
}

/// The value of largest magnitude, with its sign; 0 for none.
fn signed_max(values: &[f32]) -> f32 {
    values.iter().fold(
        0.0,
        |max: f32, &x| if x.abs() > max.abs() { x } else { max },
    )
}

/// Smallest and largest value.
fn range(values: &[f32]) -> (f32, f32) {
    values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| {
            (low.min(x), high.max(x))
        })
}

/// `Q4_0` and `Q5_0`: codes around the zero point `zero`, which is half of the code range. The
/// value of largest magnitude gets code 0, the side of the range that reaches one step further.
fn quantise_symmetric(values: &[f32], zero: u8, parts: &mut Parts) {
    let (bits, scale) = to_f16(signed_max(values) / -f32::from(zero));
    let inverse = inverse(scale);
    for (code, x) in parts.codes.iter_mut().zip(values) {
        *code = round_code(x * inverse + f32::from(zero), 2 * zero - 1);
    }
    parts.d = bits;
}

/// `Q4_1` and `Q5_1`: codes `0..=code_max` from the smallest value to the largest.
fn quantise_min_max(values: &[f32], code_max: u8, parts: &mut Parts) {
    let (low, high) = range(values);
    let (d_bits, scale) = to_f16((high - low) / f32::from(code_max));
    let (m_bits, min) = to_f16(low);
    let inverse = inverse(scale);
    for (code, x) in parts.codes.iter_mut().zip(values) {
        *code = round_code((x - min) * inverse, code_max);
    }
    (parts.d, parts.m) = (d_bits, m_bits);
}

/// `value = scale * (code - zero)`.
fn decode_symmetric(parts: &Parts, zero: i16, out: &mut [f32]) {
    let scale = parts.scale();
    for (value, code) in out.iter_mut().zip(parts.codes) {
        *value = scale * f32::from(i16::from(code) - zero);
    }
}

/// `value = scale * code + min`.
fn decode_min_max(parts: &Parts, out: &mut [f32]) {
    let (scale, min) = (parts.scale(), parts.min());
    for (value, code) in out.iter_mut().zip(parts.codes) {
        *value = scale * f32::from(code) + min;
    }
}
