//! Codes out of panels, and their products.

use std::arch::aarch64::*;
use std::arch::asm;

use super::format::Format;
use crate::panel::PANEL_ROWS;

/// Bytes of 4 k of 16 rows.
pub(super) const GROUP_BYTES: usize = 4 * PANEL_ROWS;

/// The integer sums of 16 rows, four a vector, for each of `M` tokens.
pub(super) type Lanes<const M: usize> = [[int32x4_t; 4]; M];

/// Runs the body for group 0..8, a constant each time, so that shifts and lanes are immediate.
macro_rules! for_each_group {
    ($group:ident => $body:block) => {
        for_each_group!(@each [0 1 2 3 4 5 6 7] $group $body);
    };
    (@each [] $group:ident $body:block) => {};
    (@each [$value:literal $($rest:literal)*] $group:ident $body:block) => {
        {
            const $group: usize = $value;
            $body
        }
        for_each_group!(@each [$($rest)*] $group $body);
    };
}
pub(super) use for_each_group;

/// The codes of group `G` of a run, or what a codebook makes of them, as signed bytes.
///
/// # Safety
/// `run` is a run of the format's panel block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn group<F: Format, const G: usize>(run: *const u8) -> [int8x16_t; 4] {
    let mut codes = [vdupq_n_s8(0); 4];
    for (idx, codes) in codes.iter_mut().enumerate() {
        // SAFETY: a codebook has 16 values; a run is 8 groups of 8-bit codes, or 4 of low bits and then one group of high bits
        // for 5-bit codes, two for 6-bit codes.
        unsafe {
            let run = run.add(16 * idx);
            if F::LAYOUT.code_bits == 8 {
                *codes = vld1q_s8(run.add(G * GROUP_BYTES).cast());
                continue;
            }
            let low = vld1q_u8(run.add(G / 2 * GROUP_BYTES));
            let low = if G.is_multiple_of(2) {
                vandq_u8(low, vdupq_n_u8(0x0F))
            } else {
                vshrq_n_u8::<4>(low)
            };
            if let Some(values) = F::CODEBOOK {
                *codes = vqtbl1q_s8(vld1q_s8(values.as_ptr()), low);
                continue;
            }
            let high = run.add(F::LAYOUT.high_at);
            let code = match F::LAYOUT.code_bits {
                5 => vorrq_u8(low, vandq_u8(shift(vld1q_u8(high), G), vdupq_n_u8(0x10))),
                6 => {
                    let high = vld1q_u8(high.add(G / 4 * GROUP_BYTES));
                    vorrq_u8(low, vandq_u8(shift(high, 2 * (G % 4)), vdupq_n_u8(0x30)))
                }
                _ => low,
            };
            *codes = vreinterpretq_s8_u8(code);
        }
    }
    codes
}

/// Bit `from` of each byte to bit 4.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn shift(v: uint8x16_t, from: usize) -> uint8x16_t {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // 0..=7
    let left = 4 - from as i8;
    vshlq_u8(v, vdupq_n_s8(left))
}

/// Adds the products of group `G` of a run to the lanes.
///
/// # Safety
/// `run` is a run of the format's panel block, and `x` are its 32 codes of each token.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn multiply_group<F: Format, const M: usize, const G: usize>(
    run: *const u8,
    x: [*const i8; M],
    lanes: &mut Lanes<M>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = group::<F, G>(run);
        for t in 0..M {
            let x = vld1q_s8(x[t].add(G / 4 * 16));
            for i in 0..4 {
                lanes[t][i] = match G % 4 {
                    0 => sdot::<0>(lanes[t][i], w[i], x),
                    1 => sdot::<1>(lanes[t][i], w[i], x),
                    2 => sdot::<2>(lanes[t][i], w[i], x),
                    _ => sdot::<3>(lanes[t][i], w[i], x),
                };
            }
        }
    }
}

/// To each dword of `acc`, the dot product of that dword of `w` and dword `LANE` of `x`. The
/// intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: usize>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers alone, and the CPU has it.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Where the lanes of a dot product start: what makes the zero point come out.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn start<F: Format>(pair_sums: [i16; 2]) -> [int32x4_t; 4] {
    let sum = i32::from(pair_sums[0]) + i32::from(pair_sums[1]);
    [vdupq_n_s32(-F::ZERO * sum); 4]
}

/// 16 f16 scales as f32.
///
/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn scales(from: *const u8) -> [float32x4_t; 4] {
    let mut scales = [vdupq_n_f32(0.0); 4];
    for (idx, scales) in scales.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let bits = vreinterpret_u16_u8(unsafe { vld1_u8(from.add(8 * idx)) });
        *scales = vcvt_f32_f16(vreinterpret_f16_u16(bits));
    }
    scales
}

/// `rows = fma(sums, factor, rows)`, by row.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn add_scaled(
    sums: [int32x4_t; 4],
    factor: [float32x4_t; 4],
    rows: &mut [f32; PANEL_ROWS],
) {
    for ((rows, sum), factor) in rows.as_chunks_mut::<4>().0.iter_mut().zip(sums).zip(factor) {
        // SAFETY: 4 values.
        unsafe {
            let sum = vfmaq_f32(vld1q_f32(rows.as_ptr()), vcvtq_f32_s32(sum), factor);
            vst1q_f32(rows.as_mut_ptr(), sum);
        }
    }
}

/// Each vector times a scalar.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn times(vectors: [float32x4_t; 4], scalar: f32) -> [float32x4_t; 4] {
    let [a, b, c, d] = vectors;
    [
        vmulq_n_f32(a, scalar),
        vmulq_n_f32(b, scalar),
        vmulq_n_f32(c, scalar),
        vmulq_n_f32(d, scalar),
    ]
}
