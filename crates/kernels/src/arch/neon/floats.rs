//! `F32`, `F16`, `BF16`: weights become f32 as they are loaded, and activations stay f32.

use std::arch::aarch64::*;

use kvist_base::QuantFormat;

use super::TILE_TOKENS;
use crate::matmul::{Panel, PanelOut};
use crate::panel::PANEL_ROWS;

/// k of a slice: its weights stay in the first-level cache while the four chains pass over them.
const SLICE_K: usize = 128;

/// 16 rows, four a vector.
type Rows = [float32x4_t; 4];

/// How a weight is stored.
trait Weight {
    const BYTES: usize;
    /// 4 weights as f32.
    ///
    /// # Safety
    /// `4 * BYTES` bytes can be read.
    unsafe fn load(from: *const u8) -> float32x4_t;
}

struct F32;
struct F16;
struct Bf16;

impl Weight for F32 {
    const BYTES: usize = 4;
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn load(from: *const u8) -> float32x4_t {
        // SAFETY: the caller's promise.
        vreinterpretq_f32_u8(unsafe { vld1q_u8(from) })
    }
}

impl Weight for F16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn load(from: *const u8) -> float32x4_t {
        // SAFETY: the caller's promise.
        vcvt_f32_f16(vreinterpret_f16_u8(unsafe { vld1_u8(from) }))
    }
}

impl Weight for Bf16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn load(from: *const u8) -> float32x4_t {
        // SAFETY: the caller's promise.
        let bits = vreinterpret_u16_u8(unsafe { vld1_u8(from) });
        vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
    }
}

/// One panel for `out.len()` tokens.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    match panel.format {
        QuantFormat::F32 => multiply_as::<F32>(panel, x, out),
        QuantFormat::F16 => multiply_as::<F16>(panel, x, out),
        _ => multiply_as::<Bf16>(panel, x, out),
    }
}

#[target_feature(enable = "neon,dotprod")]
fn multiply_as<W: Weight>(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    for (index, out) in out.chunks_mut(TILE_TOKENS).enumerate() {
        let x = &x[index * TILE_TOKENS * panel.cols..];
        match out.len() {
            1 => tile::<W, 1>(panel, x, out),
            2 => tile::<W, 2>(panel, x, out),
            3 => tile::<W, 3>(panel, x, out),
            _ => tile::<W, 4>(panel, x, out),
        }
    }
}

/// `M` tokens, one of the four chains at a time.
#[target_feature(enable = "neon,dotprod")]
fn tile<W: Weight, const M: usize>(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    let cols = panel.cols;
    assert!(panel.data.len() == cols * PANEL_ROWS * W::BYTES);
    assert!(out.len() == M && x.len() >= M * cols);
    let mut chains = [[[vdupq_n_f32(0.0); 4]; M]; 4];
    for slice in (0..cols).step_by(SLICE_K) {
        let end = cols.min(slice + SLICE_K);
        for (c, chain) in chains.iter_mut().enumerate() {
            let mut sums = *chain;
            for k in (slice + c..end).step_by(4) {
                // SAFETY: k < cols, and both have cols columns, asserted above.
                unsafe { step::<W, M>(panel.data.as_ptr(), x.as_ptr(), [k, cols], &mut sums) };
            }
            *chain = sums;
        }
    }
    let [a, b, c, d] = chains;
    for (t, out) in out.iter_mut().enumerate() {
        for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let (first, second) = (vaddq_f32(a[t][i], b[t][i]), vaddq_f32(c[t][i], d[t][i]));
            // SAFETY: 4 values.
            unsafe { vst1q_f32(out.as_mut_ptr(), vaddq_f32(first, second)) };
        }
    }
}

/// Adds column `k` of `cols`.
///
/// # Safety
/// `weights` has `cols` columns of 16 rows, `x` has `M` rows of `cols` values, and `k < cols`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn step<W: Weight, const M: usize>(
    weights: *const u8,
    x: *const f32,
    [k, cols]: [usize; 2],
    sums: &mut [Rows; M],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let column = weights.add(k * PANEL_ROWS * W::BYTES);
        for i in 0..4 {
            let w = W::load(column.add(4 * i * W::BYTES));
            for (t, sums) in sums.iter_mut().enumerate() {
                sums[i] = vfmaq_n_f32(sums[i], w, *x.add(t * cols + k));
            }
        }
    }
}
