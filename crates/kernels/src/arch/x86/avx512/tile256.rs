//! `Q4_K`, `Q5_K`, `Q6_K`, `IQ4_XS`: one scale per 256 weights, integer scales for sub-blocks.

use std::arch::x86_64::*;

use super::super::codes::{for_each_group, prefetch, token_blocks};
use super::Span;
use super::codes::{Lanes, broadcast, load_rows, multiply_group, scales, start, store_rows};
use super::format::Format;
use crate::acts::ActBlock256;
use crate::matmul::PanelOut;
use crate::panel::PANEL_ROWS;

/// Runs of 32 k in a block.
const RUNS: usize = 8;

/// The products of a panel and `M` tokens, added to `acc`.
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn tile<F: Format, const M: usize>(span: &Span<'_, ActBlock256>, acc: &mut PanelOut) {
    let blocks = span.panel.len() / F::LAYOUT.bytes;
    assert!(acc.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
    for b in 0..blocks {
        // SAFETY: block b < blocks is inside the panel and inside each of the M token rows, asserted
        // above.
        unsafe {
            let block = span.panel.as_ptr().add(b * F::LAYOUT.bytes);
            let x = token_blocks::<ActBlock256, M>(span.x, span.stride, b);
            let mut sums = [_mm512_setzero_si512(); M];
            for run in 0..RUNS {
                prefetch(block.add(run * F::LAYOUT.run_bytes), F::LAYOUT.bytes / RUNS);
                add_part::<F, M, 0>((block, run), x, &mut sums);
                if F::LAYOUT.subs == 2 * RUNS {
                    add_part::<F, M, 1>((block, run), x, &mut sums);
                }
            }
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                let factor = _mm512_mul_ps(d, _mm512_set1_ps((*x[t]).scale));
                let sum = _mm512_cvtepi32_ps(sums[t]);
                store_rows(
                    _mm512_fmadd_ps(sum, factor, load_rows(&acc[t])),
                    &mut acc[t],
                );
            }
            if let Some(m_at) = F::LAYOUT.m_at {
                let (m, sums) = (scales(block.add(m_at)), minima::<F, M>(block, x));
                for t in 0..M {
                    let factor = _mm512_mul_ps(m, _mm512_set1_ps((*x[t]).scale));
                    let sum = _mm512_cvtepi32_ps(sums[t]);
                    store_rows(
                        _mm512_fnmadd_ps(sum, factor, load_rows(&acc[t])),
                        &mut acc[t],
                    );
                }
            }
        }
    }
}

/// Adds sub-scale times dot product of one sub-block of a run, of which it has one or two.
///
/// # Safety
/// `block` is a panel block, `run` one of its runs, `x` are token blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn add_part<F: Format, const M: usize, const PART: usize>(
    (block, run): (*const u8, usize),
    x: [*const ActBlock256; M],
    sums: &mut Lanes<M>,
) {
    let mut dots = [_mm512_setzero_si512(); M];
    let mut codes = [std::ptr::null(); M];
    let parts = F::LAYOUT.subs / RUNS;
    // SAFETY: the caller's promise; a token block has 32 codes and two pairs of sums a run, a panel
    // block 16 bytes of scales a sub-block.
    unsafe {
        for t in 0..M {
            codes[t] = (&raw const (*x[t]).codes).cast::<i8>().add(32 * run);
            let pair_sums = (&raw const (*x[t]).pair_sums).cast::<[i16; 2]>();
            dots[t] = start::<F>(pair_sums.add(2 * run + PART));
            if parts == 1 {
                let second = start::<F>(pair_sums.add(2 * run + 1));
                dots[t] = _mm512_add_epi32(dots[t], second);
            }
        }
        let packed = block.add(run * F::LAYOUT.run_bytes);
        for_each_group!(G => {
            if G * parts / 8 == PART {
                multiply_group::<F, M, G>(packed, codes, &mut dots);
            }
        });
        let sub = F::LAYOUT.sub_scales_at + (parts * run + PART) * PANEL_ROWS;
        // Unsigned scales are below 64, so reading them as signed is the same.
        let scale = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(sub).cast()));
        for t in 0..M {
            sums[t] = _mm512_add_epi32(sums[t], _mm512_mullo_epi32(dots[t], scale));
        }
    }
}

/// Sums of sub-minimum times code sum.
///
/// # Safety
/// `block` is a panel block with minima, `x` are token blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
unsafe fn minima<F: Format, const M: usize>(
    block: *const u8,
    x: [*const ActBlock256; M],
) -> Lanes<M> {
    let mut sums = [_mm512_setzero_si512(); M];
    for pair in 0..RUNS / 2 {
        // SAFETY: the caller's promise; minima are 4 pairs of sub-blocks, 32 bytes a pair.
        unsafe {
            let at = block.add(F::LAYOUT.sub_mins_at + pair * 2 * PANEL_ROWS);
            let mins = _mm512_cvtepu8_epi16(_mm256_loadu_si256(at.cast()));
            for t in 0..M {
                let x = broadcast((&raw const (*x[t]).sums).cast::<i16>().add(2 * pair));
                sums[t] = _mm512_dpwssd_epi32(sums[t], mins, x);
            }
        }
    }
    sums
}
