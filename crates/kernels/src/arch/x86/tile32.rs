//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`: one scale per 32 weights, unsigned codes.

use std::arch::x86_64::*;

use super::Span;
use super::codes::{RUN_CODES, broadcast, for_each_group, group, prefetch, scales};
use super::format::Format;
use crate::acts::ActBlock32;
use crate::matmul::PanelOut;

type Pairs<const M: usize> = [[__m256i; 2]; M];

/// Adds the products of a span to the accumulators of `M` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<F: Format, const M: usize, const EXPANDED: bool>(
    span: &Span<'_, ActBlock32>,
    acc: &mut PanelOut,
) {
    let blocks = span.panel.len() / F::LAYOUT.bytes;
    assert!(acc.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
    assert!(!EXPANDED || span.codes.len() >= blocks * RUN_CODES);
    let ones = _mm256_set1_epi16(1);
    // SAFETY: block b < blocks is inside the panel, inside the expanded codes if there are any,
    // and inside each of the M token rows; all three asserted above. Accumulators are 16 f32.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for t in 0..M {
            sums[t] = [0, 8].map(|row| _mm256_loadu_ps(acc[t].as_ptr().add(row)));
        }
        for b in 0..blocks {
            let block = span.panel.as_ptr().add(b * F::LAYOUT.bytes);
            let codes = span.codes.as_ptr().wrapping_add(b * RUN_CODES);
            let x: [*const ActBlock32; M] =
                std::array::from_fn(|t| span.x.as_ptr().add(t * span.stride + b));
            if !EXPANDED {
                prefetch(block, F::LAYOUT.bytes);
            }
            let dots = dots::<F, M, EXPANDED>(block, codes, x);
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                let dx = _mm256_set1_ps((*x[t]).scale);
                for h in 0..2 {
                    let dot = if F::MADD_K == 32 {
                        _mm256_madd_epi16(dots[t][h], ones)
                    } else {
                        dots[t][h]
                    };
                    let factor = _mm256_mul_ps(d[h], dx);
                    sums[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, sums[t][h]);
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
            _mm256_storeu_ps(acc[t].as_mut_ptr(), sums[t][0]);
            _mm256_storeu_ps(acc[t].as_mut_ptr().add(8), sums[t][1]);
        }
    }
}

/// Integer dot products of one block: in 16-bit lane pairs if 32 k fit them, else in 32 bits.
///
/// # Safety
/// `block` is a panel block, `codes` its expanded codes if `EXPANDED`, `x` token blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<F: Format, const M: usize, const EXPANDED: bool>(
    block: *const u8,
    codes: *const u8,
    x: [*const ActBlock32; M],
) -> Pairs<M> {
    // SAFETY: a run is the first thing in a block; token blocks have 8 dwords of codes.
    unsafe {
        let mut lanes = [[_mm256_setzero_si256(); 2]; M];
        if F::ZERO != 0 {
            for t in 0..M {
                let sums = broadcast(&raw const (*x[t]).pair_sums);
                lanes[t] = [_mm256_mullo_epi16(sums, _mm256_set1_epi16(-F::ZERO)); 2];
            }
        }
        for_each_group!(0..4, G => {
            let w = group::<F, G, EXPANDED>(block, codes);
            multiply_group::<G, M>(w, x, &mut lanes);
        });
        if F::MADD_K == 32 {
            for_each_group!(4..8, G => {
                let w = group::<F, G, EXPANDED>(block, codes);
                multiply_group::<G, M>(w, x, &mut lanes);
            });
            return lanes;
        }
        let mut second = [[_mm256_setzero_si256(); 2]; M];
        for_each_group!(4..8, G => {
            let w = group::<F, G, EXPANDED>(block, codes);
            multiply_group::<G, M>(w, x, &mut second);
        });
        let ones = _mm256_set1_epi16(1);
        for t in 0..M {
            for h in 0..2 {
                lanes[t][h] = _mm256_add_epi32(
                    _mm256_madd_epi16(lanes[t][h], ones),
                    _mm256_madd_epi16(second[t][h], ones),
                );
            }
        }
        lanes
    }
}

/// # Safety
/// `x` are token blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_group<const G: usize, const M: usize>(
    w: [__m256i; 2],
    x: [*const ActBlock32; M],
    lanes: &mut Pairs<M>,
) {
    for t in 0..M {
        // SAFETY: a token block has 8 dwords of codes.
        let x = unsafe { broadcast((&raw const (*x[t]).codes).cast::<i8>().add(4 * G)) };
        for h in 0..2 {
            lanes[t][h] = _mm256_add_epi16(lanes[t][h], _mm256_maddubs_epi16(w[h], x));
        }
    }
}
