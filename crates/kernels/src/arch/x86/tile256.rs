//! `Q4_K`, `Q5_K`, `Q6_K`: one scale per 256 weights, integer scales for sub-blocks.

use std::arch::x86_64::*;

use super::Span;
use super::codes::{RUN_CODES, broadcast, for_each_group, group, prefetch, scales};
use super::format::Format;
use crate::acts::ActBlock256;
use crate::matmul::PanelOut;
use crate::panel::PANEL_ROWS;

type Pairs<const M: usize> = [[__m256i; 2]; M];

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
    for b in 0..blocks {
        // SAFETY: block b < blocks is inside the panel, inside the expanded codes if there are
        // any, and inside each of the M token rows; all three asserted above.
        unsafe {
            let block = span.panel.as_ptr().add(b * F::LAYOUT.bytes);
            let codes = span.codes.as_ptr().wrapping_add(b * RUNS * RUN_CODES);
            let x: [*const ActBlock256; M] =
                std::array::from_fn(|t| span.x.as_ptr().add(t * span.stride + b));
            let mut sums = [[_mm256_setzero_si256(); 2]; M];
            for run in 0..RUNS {
                let run_at = block.add(run * F::LAYOUT.run_bytes);
                if !EXPANDED {
                    prefetch(run_at, F::LAYOUT.bytes / RUNS);
                }
                let at = Run {
                    index: run,
                    block,
                    run: run_at,
                    codes: codes.wrapping_add(run * RUN_CODES),
                };
                add_run::<F, M, EXPANDED>(at, x, &mut sums);
            }
            add_scaled::<F, M>(block, x, &sums, acc);
            if F::LAYOUT.m_at.is_some() {
                subtract_minima::<F, M>(block, x, acc);
            }
        }
    }
}

/// Where one run of a block is.
#[derive(Clone, Copy)]
struct Run {
    index: usize,
    block: *const u8,
    run: *const u8,
    codes: *const u8,
}

/// Adds sub-scale times dot product of one run.
///
/// # Safety
/// `at` is a run of a panel block, with its expanded codes if `EXPANDED`; `x` are token blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_run<F: Format, const M: usize, const EXPANDED: bool>(
    at: Run,
    x: [*const ActBlock256; M],
    sums: &mut Pairs<M>,
) {
    // SAFETY: groups lie in the run, token blocks have 8 dwords of codes for each run.
    unsafe {
        let mut lanes = start::<F, M>(2 * at.index, x);
        let sub = if F::LAYOUT.subs == 16 {
            2 * at.index
        } else {
            at.index
        };
        let mut scale = sub_scales::<F>(at.block, sub);
        for_each_group!(0..4, G => {
            let w = group::<F, G, EXPANDED>(at.run, at.codes);
            multiply_group::<M>(w, x, 8 * at.index + G, &mut lanes);
        });
        if F::MADD_K == 16 {
            add_lanes(scale, &lanes, sums);
            lanes = start::<F, M>(2 * at.index + 1, x);
            if F::LAYOUT.subs == 16 {
                scale = sub_scales::<F>(at.block, sub + 1);
            }
        }
        for_each_group!(4..8, G => {
            let w = group::<F, G, EXPANDED>(at.run, at.codes);
            multiply_group::<M>(w, x, 8 * at.index + G, &mut lanes);
        });
        add_lanes(scale, &lanes, sums);
    }
}

/// 16-bit lanes at the start of 16 k: what makes the zero point come out.
///
/// # Safety
/// `x` are token blocks, `half_run` < 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn start<F: Format, const M: usize>(
    half_run: usize,
    x: [*const ActBlock256; M],
) -> Pairs<M> {
    let mut lanes = [[_mm256_setzero_si256(); 2]; M];
    if F::ZERO != 0 {
        for t in 0..M {
            // SAFETY: a token block has 16 pairs of sums.
            let sums = unsafe {
                broadcast(
                    (&raw const (*x[t]).pair_sums)
                        .cast::<[i16; 2]>()
                        .add(half_run),
                )
            };
            lanes[t] = [_mm256_mullo_epi16(sums, _mm256_set1_epi16(-F::ZERO)); 2];
        }
    }
    lanes
}

/// # Safety
/// `x` are token blocks, `dword` < 64.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_group<const M: usize>(
    w: [__m256i; 2],
    x: [*const ActBlock256; M],
    dword: usize,
    lanes: &mut Pairs<M>,
) {
    for t in 0..M {
        // SAFETY: a token block has 64 dwords of codes.
        let x = unsafe { broadcast((&raw const (*x[t]).codes).cast::<i8>().add(4 * dword)) };
        for h in 0..2 {
            lanes[t][h] = _mm256_add_epi16(lanes[t][h], _mm256_maddubs_epi16(w[h], x));
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
    let at = F::LAYOUT.sub_scales_at + sub * PANEL_ROWS;
    [0, 8].map(|row| {
        // SAFETY: each sub-block has 16 bytes of scales.
        let bytes = unsafe { _mm_loadl_epi64(block.add(at + row).cast()) };
        // Unsigned scales are below 64, so reading them as signed is the same.
        let low = _mm256_cvtepi8_epi32(bytes);
        _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(low))
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_lanes<const M: usize>(scale: [__m256i; 2], lanes: &Pairs<M>, sums: &mut Pairs<M>) {
    for t in 0..M {
        for h in 0..2 {
            sums[t][h] = _mm256_add_epi32(sums[t][h], _mm256_madd_epi16(lanes[t][h], scale[h]));
        }
    }
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
    sums: &Pairs<M>,
    acc: &mut PanelOut,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let d = scales(block.add(F::LAYOUT.d_at));
        for t in 0..M {
            let dx = _mm256_set1_ps((*x[t]).scale);
            for h in 0..2 {
                let acc = acc.get_unchecked_mut(t).as_mut_ptr().add(8 * h);
                let factor = _mm256_mul_ps(d[h], dx);
                let sum = _mm256_cvtepi32_ps(sums[t][h]);
                _mm256_storeu_ps(acc, _mm256_fmadd_ps(sum, factor, _mm256_loadu_ps(acc)));
            }
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
            let mins =
                [0, 16].map(|byte| _mm256_cvtepu8_epi16(_mm_loadu_si128(at.add(byte).cast())));
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
            for h in 0..2 {
                let acc = acc.get_unchecked_mut(t).as_mut_ptr().add(8 * h);
                let factor = _mm256_mul_ps(m[h], dx);
                let sum = _mm256_cvtepi32_ps(sums[t][h]);
                _mm256_storeu_ps(acc, _mm256_fnmadd_ps(sum, factor, _mm256_loadu_ps(acc)));
            }
        }
    }
}
