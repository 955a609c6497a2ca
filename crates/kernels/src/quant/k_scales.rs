//! What `Q4_K` and `Q5_K` share: 256 weights as 8 sub-blocks of 32, each with a 6-bit scale and
//! a 6-bit minimum, those packed into 12 bytes.
//!
//! ```text
//! byte j      (j < 4): scale j     in bits 0..6, top two bits of scale j + 4 in bits 6..8
//! byte 4 + j  (j < 4): minimum j   in bits 0..6, top two bits of minimum j + 4 in bits 6..8
//! byte 8 + j  (j < 4): low nibble of scale j + 4, low nibble of minimum j + 4 above it
//! ```

use super::{Parts, inverse, range, round_code, to_f16};

/// Bytes of the packed scales and minima.
pub(super) const BYTES: usize = 12;

pub(super) fn split(raw: &[u8], parts: &mut Parts) {
    for j in 0..4 {
        parts.sub_scales[j] = raw[j] & 0x3F;
        parts.sub_mins[j] = raw[4 + j] & 0x3F;
        parts.sub_scales[4 + j] = (raw[8 + j] & 0x0F) | ((raw[j] >> 6) << 4);
        parts.sub_mins[4 + j] = (raw[8 + j] >> 4) | ((raw[4 + j] >> 6) << 4);
    }
}

pub(super) fn join(parts: &Parts, raw: &mut [u8]) {
    let (scales, mins) = (&parts.sub_scales, &parts.sub_mins);
    for j in 0..4 {
        raw[j] = scales[j] | ((scales[4 + j] >> 4) << 6);
        raw[4 + j] = mins[j] | ((mins[4 + j] >> 4) << 6);
        raw[8 + j] = (scales[4 + j] & 0x0F) | (mins[4 + j] << 4);
    }
}

/// `value = (d * sub_scale) * code - m * sub_min`.
pub(super) fn decode(parts: &Parts, out: &mut [f32]) {
    let (d, m) = (parts.scale(), parts.min());
    let blocks = out.chunks_exact_mut(32).zip(parts.codes.chunks_exact(32));
    for (sub, (values, codes)) in blocks.enumerate() {
        let scale = d * f32::from(parts.sub_scales[sub]);
        let min = m * f32::from(parts.sub_mins[sub]);
        for (value, code) in values.iter_mut().zip(codes) {
            *value = scale * f32::from(*code) - min;
        }
    }
}

/// Each sub-block spans from its smallest value, or zero if that is positive, to its largest;
/// scales and minima are then rounded to 6 bits of the block's largest, and the codes are taken
/// against the rounded ones.
pub(super) fn quantise(values: &[f32], code_max: u8, parts: &mut Parts) {
    let mut scales = [0.0f32; 8];
    let mut mins = [0.0f32; 8];
    for (sub, values) in values.chunks_exact(32).enumerate() {
        let (low, high) = range(values);
        mins[sub] = -low.min(0.0);
        scales[sub] = (high.max(0.0) + mins[sub]) / f32::from(code_max);
    }
    let (d_bits, d) = to_f16(range(&scales).1 / 63.0);
    let (m_bits, m) = to_f16(range(&mins).1 / 63.0);
    (parts.d, parts.m) = (d_bits, m_bits);
    let (d_inverse, m_inverse) = (inverse(d), inverse(m));
    for sub in 0..8 {
        parts.sub_scales[sub] = round_code(scales[sub] * d_inverse, 63);
        parts.sub_mins[sub] = round_code(mins[sub] * m_inverse, 63);
    }
    let blocks = parts
        .codes
        .chunks_exact_mut(32)
        .zip(values.chunks_exact(32));
    for (sub, (codes, values)) in blocks.enumerate() {
        let inverse = inverse(d * f32::from(parts.sub_scales[sub]));
        let min = m * f32::from(parts.sub_mins[sub]);
        for (code, x) in codes.iter_mut().zip(values) {
            *code = round_code((x + min) * inverse, code_max);
        }
    }
}
