//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`: one scale per 32 weights.

use std::arch::aarch64::*;

use super::Span;
use super::codes::{Lanes, add_scaled, for_each_group, multiply_group, scales, start, times};
use super::format::Format;
use crate::acts::ActBlock32;
use crate::matmul::PanelOut;
use crate::panel::PANEL_ROWS;

/// Adds the products of a panel and `M` tokens to `acc`.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn tile<F: Format, const M: usize>(span: &Span<'_, ActBlock32>, acc: &mut PanelOut) {
    assert!(acc.len() == M);
    for (b, block) in span.panel.chunks_exact(F::LAYOUT.bytes).enumerate() {
        let mut x = [&ActBlock32::ZERO; M];
        for (t, x) in x.iter_mut().enumerate() {
            *x = &span.x[t * span.stride + b];
        }
        // SAFETY: `block` is a whole panel block.
        unsafe {
            let block = block.as_ptr();
            let dots = dots::<F, M>(block, x);
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                add_scaled(dots[t], times(d, x[t].scale), &mut acc[t]);
            }
            if let Some(m_at) = F::LAYOUT.m_at {
                let m = scales(block.add(m_at));
                for t in 0..M {
                    add_minima(m, x[t].scaled_sum, &mut acc[t]);
                }
            }
        }
    }
}

/// Integer dot products of one block.
///
/// # Safety
/// `block` is a panel block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dots<F: Format, const M: usize>(block: *const u8, x: [&ActBlock32; M]) -> Lanes<M> {
    let mut dots = [[vdupq_n_s32(0); 4]; M];
    let mut codes = [std::ptr::null(); M];
    for t in 0..M {
        codes[t] = x[t].codes.as_ptr();
        dots[t] = start::<F>(x[t].pair_sums);
    }
    for_each_group!(G => {
        // SAFETY: the caller's promise; a block has 32 codes.
        unsafe { multiply_group::<F, M, G>(block, codes, &mut dots) };
    });
    dots
}

/// `rows = fma(m, dx_sum, rows)`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_minima(m: [float32x4_t; 4], dx_sum: f32, rows: &mut [f32; PANEL_ROWS]) {
    for (rows, m) in rows.as_chunks_mut::<4>().0.iter_mut().zip(m) {
        // SAFETY: 4 values.
        unsafe {
            let sum = vfmaq_n_f32(vld1q_f32(rows.as_ptr()), m, dx_sum);
            vst1q_f32(rows.as_mut_ptr(), sum);
        }
    }
}
