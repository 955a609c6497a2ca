//! `Q4_K`, `Q5_K`, `Q6_K`, `IQ4_XS`: one scale per 256 weights, integer scales for sub-blocks.

use std::arch::x86_64::*;

use super::Span;
use super::codes::{RUN_CODES, broadcast, load_rows, prefetch, scales, store_rows, token_blocks};
use super::format::Format;
use super::run::{Lanes, Run, multiply_part, part_groups, parts, start};
use super::signed;
use crate::acts::ActBlock256;
use crate::matmul::PanelOut;
use crate::panel::PANEL_ROWS;

/// Runs of 32 k in a block.
const RUNS: usize = 8;

/// Adds the products of a span to the accumulators of `M` tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tile<F: Format, const M: usize, const EXPANDED: bool>(
    span: &Span<'_, ActBlock256>,
    acc: &mut PanelOut,
) {
    let blocks = span.panel.len() / F::LAYOUT.bytes;
    assert!(acc.len() == M && span.x.len() >= (M - 1) * span.stride + blocks);
    assert!(!EXPANDED || span.codes.len() >= blocks * RUNS * RUN_CODES);
    let groups = part_groups::<F>();
    for b in 0..blocks {
        // SAFETY: block b < blocks is inside the panel, inside the expanded codes if there are
        // any, and inside each of the M token rows; all three asserted above.
        unsafe {
            let block = span.panel.as_ptr().add(b * F::LAYOUT.bytes);
            let codes = span.codes.as_ptr().wrapping_add(b * RUNS * RUN_CODES);
            let x = token_blocks::<ActBlock256, M>(span.x, span.stride, b);
            let mut sums = [[_mm256_setzero_si256(); 2]; M];
            for index in 0..RUNS {
                let packed = block.add(index * F::LAYOUT.run_bytes);
                let codes = codes.wrapping_add(index * RUN_CODES);
                if !EXPANDED {
                    prefetch(packed, F::LAYOUT.bytes / RUNS);
                }
                let at = At {
                    block,
                    index,
                    run: Run {
                        packed,
                        codes,
                        groups,
                    },
                };
                add_part::<F, M, EXPANDED, 0>(at, x, &mut sums);
                if parts::<F>() == 2 {
                    add_part::<F, M, EXPANDED, 1>(at, x, &mut sums);
                }
            }
            add_scaled::<F, M>(block, x, &sums, acc);
            if F::LAYOUT.m_at.is_some() {
                subtract_minima::<F, M>(block, x, acc);
            }
        }
    }
}

/// Which run of which block.
#[derive(Clone, Copy)]
struct At {
    block: *const u8,
    index: usize,
    run: Run,
}

/// Adds sub-scale times dot product of one part of a run.
///
/// # Safety
/// `at` is a run of a panel block, with its expanded codes if `EXPANDED`; `x` are token blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_part<F: Format, const M: usize, const EXPANDED: bool, const PART: usize>(
    at: At,
    x: [*const ActBlock256; M],
    sums: &mut Lanes<M>,
) {
    let mut lanes = [[_mm256_setzero_si256(); 2]; M];
    let mut codes = [std::ptr::null(); M];
    // SAFETY: the caller's promise; a token block has 32 codes and two pairs of sums a run.
    unsafe {
        for t in 0..M {
            codes[t] = (&raw const (*x[t]).codes).cast::<i8>().add(32 * at.index);
            if F::ZERO != 0 {
                let sums = (&raw const (*x[t]).pair_sums).cast::<[i16; 2]>();
                lanes[t] = start::<F>(broadcast(sums.add(2 * at.index + PART)));
            }
        }
        if F::SIGNED {
            let scale = sub_scales::<F>(at.block, at.index);
            signed::multiply_run::<F, M, EXPANDED>(at.run, (codes, scale), sums);
            return;
        }
        multiply_part::<F, M, EXPANDED, PART>(at.run, codes, &mut lanes);
        let sub = if F::LAYOUT.subs == 16 {
            2 * at.index + PART
        } else {
            at.index
        };
        let scale = sub_scales::<F>(at.block, sub);
        for t in 0..M {
            for h in 0..2 {
                let scaled = _mm256_madd_epi16(lanes[t][h], scale[h]);
                sums[t][h] = _mm256_add_epi32(sums[t][h], scaled);
            }
        }
    }
}

/// The scales of one sub-block as 16-bit pairs, both halves of a pair alike.
///
/// # Safety
/// `block` is a panel block that has the sub-block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sub_scales<F: Format>(block: *const u8, sub: usize) -> [__m256i; 2] {
    // SAFETY: each sub-block has 16 bytes of scales.
    let bytes =
        unsafe { _mm_loadu_si128(block.add(F::LAYOUT.sub_scales_at + sub * PANEL_ROWS).cast()) };
    // Unsigned scales are below 64, so reading them as signed is the same.
    let low = _mm256_cvtepi8_epi32(bytes);
    let high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes));
    [
        _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(low)),
        _mm256_blend_epi16::<0b1010_1010>(high, _mm256_slli_epi32::<16>(high)),
    ]
}

/// `acc = fma(sums, d_w * d_x, acc)`.
///
/// # Safety
/// `block` is a panel block, `x` are token blocks, `acc` has `M` rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_scaled<F: Format, const M: usize>(
    block: *const u8,
    x: [*const ActBlock256; M],
    sums: &Lanes<M>,
    acc: &mut PanelOut,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let d = scales(block.add(F::LAYOUT.d_at));
        for t in 0..M {
            let dx = _mm256_set1_ps((*x[t]).scale);
            let mut rows = load_rows(&acc[t]);
            for h in 0..2 {
                let factor = _mm256_mul_ps(d[h], dx);
                rows[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][h]), factor, rows[h]);
            }
            store_rows(rows, &mut acc[t]);
        }
    }
}

/// `acc = fma(imin, -(m_w * d_x), acc)`.
///
/// # Safety
/// As [`add_scaled`], for a format with minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn subtract_minima<F: Format, const M: usize>(
    block: *const u8,
    x: [*const ActBlock256; M],
    acc: &mut PanelOut,
) {
    let Some(m_at) = F::LAYOUT.m_at else { return };
    // SAFETY: the caller's promise; minima are 4 pairs of sub-blocks, 32 bytes a pair.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        for pair in 0..RUNS / 2 {
            let at = block.add(F::LAYOUT.sub_mins_at + pair * 2 * PANEL_ROWS);
            let mins = [
                _mm256_cvtepu8_epi16(_mm_loadu_si128(at.cast())),
                _mm256_cvtepu8_epi16(_mm_loadu_si128(at.add(PANEL_ROWS).cast())),
            ];
            for t in 0..M {
                let x = broadcast((&raw const (*x[t]).sums).cast::<i16>().add(2 * pair));
                for h in 0..2 {
                    sums[t][h] = _mm256_add_epi32(sums[t][h], _mm256_madd_epi16(mins[h], x));
                }
            }
        }
        let m = scales(block.add(m_at));
        for t in 0..M {
            let dx = _mm256_set1_ps((*x[t]).scale);
            let mut rows = load_rows(&acc[t]);
            for h in 0..2 {
                let factor = _mm256_mul_ps(m[h], dx);
                rows[h] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(sums[t][h]), factor, rows[h]);
            }
            store_rows(rows, &mut acc[t]);
        }
    }
}
