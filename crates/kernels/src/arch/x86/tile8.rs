//! `Q8_0`: one scale per 32 weights, signed codes.
//!
//! The product of signed bytes is that of |w| as unsigned and x with the sign of w. |-128| is
//! 128 as unsigned, x is never -128, and two products are at most 2 * 128 * 127 = 32512: exact.

use std::arch::x86_64::*;

use super::Span;
use super::codes::{GROUP_BYTES, broadcast, load, prefetch, scales};
use super::format::{Format, Q8_0};
use crate::acts::ActBlock32;
use crate::matmul::PanelOut;

/// Adds the products of a span to the accumulators of `M` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<const M: usize>(span: &Span<'_, ActBlock32>, acc: &mut PanelOut) {
    let layout = Q8_0::LAYOUT;
    let blocks = span.panel.len() / layout.bytes;
    assert!(acc.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
    // SAFETY: block b < blocks is inside the panel and inside each of the M token rows, asserted
    // above. A panel block starts with 8 groups of 64 bytes. Accumulators are 16 f32.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for t in 0..M {
            sums[t] = [0, 8].map(|row| _mm256_loadu_ps(acc[t].as_ptr().add(row)));
        }
        for b in 0..blocks {
            let block = span.panel.as_ptr().add(b * layout.bytes);
            let x: [*const ActBlock32; M] =
                std::array::from_fn(|t| span.x.as_ptr().add(t * span.stride + b));
            prefetch(block, layout.bytes);
            let mut dots = [[_mm256_setzero_si256(); 2]; M];
            for group in 0..8 {
                let codes = block.add(group * GROUP_BYTES);
                let w = [load(codes), load(codes.add(32))];
                let size = w.map(|w| _mm256_abs_epi8(w));
                for t in 0..M {
                    let x = broadcast((&raw const (*x[t]).codes).cast::<i8>().add(4 * group));
                    for h in 0..2 {
                        let pairs = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(x, w[h]));
                        let quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                        dots[t][h] = _mm256_add_epi32(dots[t][h], quads);
                    }
                }
            }
            let d = scales(block.add(layout.d_at));
            for t in 0..M {
                let dx = _mm256_set1_ps((*x[t]).scale);
                for h in 0..2 {
                    let factor = _mm256_mul_ps(d[h], dx);
                    let dot = _mm256_cvtepi32_ps(dots[t][h]);
                    sums[t][h] = _mm256_fmadd_ps(dot, factor, sums[t][h]);
                }
            }
        }
        for t in 0..M {
            _mm256_storeu_ps(acc[t].as_mut_ptr(), sums[t][0]);
            _mm256_storeu_ps(acc[t].as_mut_ptr().add(8), sums[t][1]);
        }
    }
}
