//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `IQ4_NL`: one scale per 32 weights.

use std::arch::x86_64::*;

use super::Span;
use super::codes::{RUN_CODES, broadcast, load_rows, prefetch, scales, store_rows, token_blocks};
use super::format::Format;
use super::run::{Lanes, Run, multiply_part, part_groups, parts, start};
use super::signed;
use crate::acts::ActBlock32;
use crate::matmul::PanelOut;

/// Adds the products of a span to the accumulators of `M` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<F: Format, const M: usize, const EXPANDED: bool>(
    span: &Span<'_, ActBlock32>,
    acc: &mut PanelOut,
) {
    let blocks = span.panel.len() / F::LAYOUT.bytes;
    assert!(acc.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
    assert!(!EXPANDED || span.codes.len() >= blocks * RUN_CODES);
    let groups = part_groups::<F>();
    // SAFETY: block b < blocks is inside the panel, inside the expanded codes if there are any,
    // and inside each of the M token rows; all three asserted above. Accumulators are 16 f32.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for t in 0..M {
            sums[t] = load_rows(&acc[t]);
        }
        for b in 0..blocks {
            let block = span.panel.as_ptr().add(b * F::LAYOUT.bytes);
            let codes = span.codes.as_ptr().wrapping_add(b * RUN_CODES);
            let x = token_blocks::<ActBlock32, M>(span.x, span.stride, b);
            if !EXPANDED {
                prefetch(block, F::LAYOUT.bytes);
            }
            let run = Run {
                packed: block,
                codes,
                groups,
            };
            let dots = dots::<F, M, EXPANDED>(run, x);
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                let dx = _mm256_set1_ps((*x[t]).scale);
                for h in 0..2 {
                    let factor = _mm256_mul_ps(d[h], dx);
                    sums[t][h] =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[t][h]), factor, sums[t][h]);
                }
            }
            if let Some(m_at) = F::LAYOUT.m_at {
                let m = scales(block.add(m_at));
                for t in 0..M {
                    let dx_sum = _mm256_set1_ps((*x[t]).scaled_sum);
                    for h in 0..2 {
                        sums[t][h] = _mm256_fmadd_ps(m[h], dx_sum, sums[t][h]);
                    }
                }
            }
        }
        for t in 0..M {
            store_rows(sums[t], &mut acc[t]);
        }
    }
}

/// Integer dot products of one block.
///
/// # Safety
/// `run` is a panel block's, with its expanded codes if `EXPANDED`; `x` are token blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<F: Format, const M: usize, const EXPANDED: bool>(
    run: Run,
    x: [*const ActBlock32; M],
) -> Lanes<M> {
    let ones = _mm256_set1_epi16(1);
    let mut lanes = [[_mm256_setzero_si256(); 2]; M];
    let mut codes = [std::ptr::null(); M];
    // SAFETY: the caller's promise.
    unsafe {
        for t in 0..M {
            codes[t] = (&raw const (*x[t]).codes).cast::<i8>();
            if F::ZERO != 0 {
                lanes[t] = start::<F>(broadcast(&raw const (*x[t]).pair_sums));
            }
        }
        if F::SIGNED {
            signed::multiply_run::<F, M, EXPANDED>(run, (codes, [ones; 2]), &mut lanes);
            return lanes;
        }
        multiply_part::<F, M, EXPANDED, 0>(run, codes, &mut lanes);
        let mut second = [[_mm256_setzero_si256(); 2]; M];
        if parts::<F>() == 2 {
            multiply_part::<F, M, EXPANDED, 1>(run, codes, &mut second);
        }
        for t in 0..M {
            for h in 0..2 {
                lanes[t][h] = _mm256_madd_epi16(lanes[t][h], ones);
                if parts::<F>() == 2 {
                    let dot = _mm256_madd_epi16(second[t][h], ones);
                    lanes[t][h] = _mm256_add_epi32(lanes[t][h], dot);
                }
            }
        }
    }
    lanes
}
