//! `F32`, `F16`, `BF16`: weights become f32 as they are loaded, and activations stay f32.

use std::arch::x86_64::*;

use kvist_base::QuantFormat;

use super::codes::store_rows;
use crate::matmul::{Panel, PanelOut};
use crate::panel::PANEL_ROWS;

/// k of a slice: its weights stay in the first-level cache while the four chains pass over them.
const SLICE_K: usize = 128;
/// Tokens of a register tile.
const TILE_TOKENS: usize = 6;

/// How a weight is stored.
trait Weight {
    const BYTES: usize;
    /// 8 weights as f32.
    ///
    /// # Safety
    /// `8 * BYTES` bytes can be read, and the CPU has AVX2 and F16C.
    unsafe fn load(from: *const u8) -> __m256;
}

struct F32;
struct F16;
struct Bf16;

impl Weight for F32 {
    const BYTES: usize = 4;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from.cast()) }
    }
}

impl Weight for F16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }
}

impl Weight for Bf16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(from: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        let bits = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(from.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
    }
}

/// One panel for `out.len()` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    match panel.format {
        QuantFormat::F32 => multiply_as::<F32>(panel, x, out),
        QuantFormat::F16 => multiply_as::<F16>(panel, x, out),
        _ => multiply_as::<Bf16>(panel, x, out),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_as<W: Weight>(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    let tile_tokens = out
        .len()
        .div_ceil(out.len().div_ceil(TILE_TOKENS).max(1))
        .max(1);
    for (index, out) in out.chunks_mut(tile_tokens).enumerate() {
        let x = &x[index * tile_tokens * panel.cols..];
        // With few tokens the four chains of each run side by side, to hide the latency of fma.
        match out.len() {
            1 => tile::<W, 1, 4>(panel, x, out),
            2 => tile::<W, 2, 2>(panel, x, out),
            3 => tile::<W, 3, 2>(panel, x, out),
            4 => tile::<W, 4, 1>(panel, x, out),
            5 => tile::<W, 5, 1>(panel, x, out),
            _ => tile::<W, 6, 1>(panel, x, out),
        }
    }
}

/// `M` tokens, `C` of the four chains at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<W: Weight, const M: usize, const C: usize>(
    panel: Panel<'_>,
    x: &[f32],
    out: &mut PanelOut,
) {
    let cols = panel.cols;
    assert!(panel.data.len() == cols * PANEL_ROWS * W::BYTES);
    assert!(out.len() == M && x.len() >= M * cols);
    let mut chains = [[[_mm256_setzero_ps(); 2]; M]; 4];
    for slice in (0..cols).step_by(SLICE_K) {
        let end = cols.min(slice + SLICE_K);
        for first in (0..4).step_by(C) {
            let mut sums = [[[_mm256_setzero_ps(); 2]; M]; C];
            sums.copy_from_slice(&chains[first..first + C]);
            let mut k = slice + first;
            while k + C <= end {
                for (c, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: k + c < cols, and both have cols columns, asserted above.
                    unsafe {
                        step::<W, M>(panel.data.as_ptr(), x.as_ptr(), [k + c, cols], sums);
                    };
                }
                k += 4;
            }
            for (c, sums) in sums.iter_mut().enumerate() {
                if k + c < end {
                    // SAFETY: as above.
                    unsafe {
                        step::<W, M>(panel.data.as_ptr(), x.as_ptr(), [k + c, cols], sums);
                    };
                }
            }
            chains[first..first + C].copy_from_slice(&sums);
        }
    }
    let [a, b, c, d] = chains;
    for (t, out) in out.iter_mut().enumerate() {
        let mut rows = [_mm256_setzero_ps(); 2];
        for (h, row) in rows.iter_mut().enumerate() {
            let first = _mm256_add_ps(a[t][h], b[t][h]);
            *row = _mm256_add_ps(first, _mm256_add_ps(c[t][h], d[t][h]));
        }
        store_rows(rows, out);
    }
}

/// Adds column `k` of `cols`.
///
/// # Safety
/// `weights` has `cols` columns of 16 rows, `x` has `M` rows of `cols` values, and `k < cols`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn step<W: Weight, const M: usize>(
    weights: *const u8,
    x: *const f32,
    [k, cols]: [usize; 2],
    sums: &mut [[__m256; 2]; M],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let column = weights.add(k * PANEL_ROWS * W::BYTES);
        let w = [W::load(column), W::load(column.add(8 * W::BYTES))];
        for (t, sums) in sums.iter_mut().enumerate() {
            let x = _mm256_set1_ps(*x.add(t * cols + k));
            sums[0] = _mm256_fmadd_ps(w[0], x, sums[0]);
            sums[1] = _mm256_fmadd_ps(w[1], x, sums[1]);
        }
    }
}
