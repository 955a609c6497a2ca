//! `Q8_0`: one scale per 32 weights, signed codes.
//!
//! The product of signed bytes is that of |w| as unsigned and x with the sign of w. |-128| is
//! 128 as unsigned, x is never -128, and two products are at most 2 * 128 * 127 = 32512: exact.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::Span;
use super::codes::{
    GROUP_BYTES, broadcast, load, load_rows, prefetch, scales, store_rows, token_blocks,
};
use super::format::{Format, Q8_0};
use crate::acts::ActBlock32;
use crate::matmul::PanelOut;

/// Adds the products of a span to the accumulators of `M` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<const M: usize>(span: &Span<'_, ActBlock32>, acc: &mut PanelOut) {
    let layout = Q8_0::LAYOUT;
    let blocks = span.panel.len() / layout.bytes;
    assert!(acc.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
    // As in `part_groups`: this must stay a loop.
    let groups = black_box(8);
    // SAFETY: block b < blocks is inside the panel and inside each of the M token rows, asserted
    // above. A panel block starts with 8 groups of 64 bytes. Accumulators are 16 f32.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for t in 0..M {
            sums[t] = load_rows(&acc[t]);
        }
        for b in 0..blocks {
            let block = span.panel.as_ptr().add(b * layout.bytes);
            let x = token_blocks::<ActBlock32, M>(span.x, span.stride, b);
            prefetch(block, layout.bytes);
            let mut dots = [[_mm256_setzero_si256(); 2]; M];
            for group in 0..groups {
                let codes = block.add(group * GROUP_BYTES);
                let w = [load(codes), load(codes.add(32))];
                let size = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
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
            store_rows(sums[t], &mut acc[t]);
        }
    }
}
