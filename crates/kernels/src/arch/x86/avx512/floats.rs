//! `F32`, `F16`, `BF16`: weights become f32 as they are loaded, and activations stay f32.

use std::arch::x86_64::*;

use kvist_base::QuantFormat;

use super::codes::store_rows;
use crate::matmul::{Panel, PanelOut};
use crate::panel::PANEL_ROWS;

/// Tokens of a register tile: four chains each.
const TILE_TOKENS: usize = 6;

/// How a weight is stored.
trait Weight {
    const BYTES: usize;
    /// 16 weights as f32.
    ///
    /// # Safety
    /// `16 * BYTES` bytes can be read, and the CPU has the features of this tier.
    unsafe fn load(from: *const u8) -> __m512;
}

struct F32;
struct F16;
struct Bf16;

impl Weight for F32 {
    const BYTES: usize = 4;
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn load(from: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }
}

impl Weight for F16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn load(from: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
    }
}

impl Weight for Bf16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
    unsafe fn load(from: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(from.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
    }
}

/// One panel for `out.len()` tokens.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    match panel.format {
        QuantFormat::F32 => multiply_as::<F32>(panel, x, out),
        QuantFormat::F16 => multiply_as::<F16>(panel, x, out),
        _ => multiply_as::<Bf16>(panel, x, out),
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn multiply_as<W: Weight>(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    let tiles = out.len().div_ceil(TILE_TOKENS).max(1);
    let tile_tokens = out.len().div_ceil(tiles).max(1);
    for (index, out) in out.chunks_mut(tile_tokens).enumerate() {
        let x = &x[index * tile_tokens * panel.cols..];
        match out.len() {
            1 => tile::<W, 1>(panel, x, out),
            2 => tile::<W, 2>(panel, x, out),
            3 => tile::<W, 3>(panel, x, out),
            4 => tile::<W, 4>(panel, x, out),
            5 => tile::<W, 5>(panel, x, out),
            _ => tile::<W, 6>(panel, x, out),
        }
    }
}

/// `M` tokens, all four chains side by side.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn tile<W: Weight, const M: usize>(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    let cols = panel.cols;
    assert!(panel.data.len() == cols * PANEL_ROWS * W::BYTES);
    assert!(out.len() == M && x.len() >= M * cols);
    let (weights, x) = (panel.data.as_ptr(), x.as_ptr());
    let mut chains = [[_mm512_setzero_ps(); M]; 4];
    let whole = cols / 4 * 4;
    for k in (0..whole).step_by(4) {
        for (c, sums) in chains.iter_mut().enumerate() {
            // SAFETY: k + c < cols, and both have cols columns, asserted above.
            unsafe { step::<W, M>(weights, x, [k + c, cols], sums) };
        }
    }
    for (k, sums) in (whole..cols).zip(&mut chains) {
        // SAFETY: as above.
        unsafe { step::<W, M>(weights, x, [k, cols], sums) };
    }
    let [a, b, c, d] = chains;
    for (t, out) in out.iter_mut().enumerate() {
        let first = _mm512_add_ps(a[t], b[t]);
        store_rows(_mm512_add_ps(first, _mm512_add_ps(c[t], d[t])), out);
    }
}

/// Adds column `k` of `cols`.
///
/// # Safety
/// `weights` has `cols` columns of 16 rows, `x` has `M` rows of `cols` values, and `k < cols`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn step<W: Weight, const M: usize>(
    weights: *const u8,
    x: *const f32,
    [k, cols]: [usize; 2],
    sums: &mut [__m512; M],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = W::load(weights.add(k * PANEL_ROWS * W::BYTES));
        for (t, sums) in sums.iter_mut().enumerate() {
            *sums = _mm512_fmadd_ps(w, _mm512_set1_ps(*x.add(t * cols + k)), *sums);
        }
    }
}
