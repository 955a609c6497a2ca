//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `IQ4_NL`: one scale per 32 weights.

use std::arch::x86_64::*;

use super::super::codes::{for_each_group, prefetch, token_blocks};
use super::Span;
use super::codes::{Lanes, multiply_group, scales, start, store_rows};
use super::format::Format;
use crate::acts::ActBlock32;
use crate::matmul::PanelOut;

/// The products of a panel and `M` tokens.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile<F: Format, const M: usize>(span: &Span<'_, ActBlock32>, out: &mut PanelOut) {
    let blocks = span.panel.len() / F::LAYOUT.bytes;
    assert!(out.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
    let mut sums = [_mm512_setzero_ps(); M];
    for b in 0..blocks {
        // SAFETY: block b < blocks is inside the panel and inside each of the M token rows, asserted
        // above.
        unsafe {
            let block = span.panel.as_ptr().add(b * F::LAYOUT.bytes);
            let x = token_blocks::<ActBlock32, M>(span.x, span.stride, b);
            prefetch(block, F::LAYOUT.bytes);
            let dots = dots::<F, M>(block, x);
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                let factor = _mm512_mul_ps(d, _mm512_set1_ps((*x[t]).scale));
                sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t]), factor, sums[t]);
            }
            if let Some(m_at) = F::LAYOUT.m_at {
                let m = scales(block.add(m_at));
                for t in 0..M {
                    let dx_sum = _mm512_set1_ps((*x[t]).scaled_sum);
                    sums[t] = _mm512_fmadd_ps(m, dx_sum, sums[t]);
                }
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        store_rows(sums, out);
    }
}

/// Integer dot products of one block.
///
/// # Safety
/// `block` is a panel block, `x` are token blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn dots<F: Format, const M: usize>(block: *const u8, x: [*const ActBlock32; M]) -> Lanes<M> {
    let mut dots = [_mm512_setzero_si512(); M];
    let mut codes = [std::ptr::null(); M];
    // SAFETY: the caller's promise; a block has 8 groups, 4 bytes of x each.
    unsafe {
        for t in 0..M {
            codes[t] = (&raw const (*x[t]).codes).cast::<i8>();
            dots[t] = start::<F>(&raw const (*x[t]).pair_sums);
        }
        for_each_group!(G => { multiply_group::<F, M, G>(block, codes, &mut dots); });
    }
    dots
}
