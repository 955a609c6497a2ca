//! `Q4_K`, `Q5_K`, `Q6_K`: one scale per 256 weights, integer scales for sub-blocks.

use std::arch::aarch64::*;

use super::Span;
use super::codes::{Lanes, add_scaled, for_each_group, multiply_group, scales, start, times};
use super::format::Format;
use crate::acts::ActBlock256;
use crate::matmul::PanelOut;
use crate::panel::PANEL_ROWS;

/// Runs of 32 k in a block.
const RUNS: usize = 8;

/// Adds the products of a panel and `M` tokens to `acc`.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn tile<F: Format, const M: usize>(span: &Span<'_, ActBlock256>, acc: &mut PanelOut) {
    assert!(acc.len() == M);
    for (b, block) in span.panel.chunks_exact(F::LAYOUT.bytes).enumerate() {
        let mut x = [&ActBlock256::ZERO; M];
        for (t, x) in x.iter_mut().enumerate() {
            *x = &span.x[t * span.stride + b];
        }
        // SAFETY: `block` is a whole panel block.
        unsafe {
            let block = block.as_ptr();
            let mut sums = [[vdupq_n_s32(0); 4]; M];
            for run in 0..RUNS {
                add_part::<F, M, 0>((block, run), x, &mut sums);
                if F::LAYOUT.subs == 2 * RUNS {
                    add_part::<F, M, 1>((block, run), x, &mut sums);
                }
            }
            let d = scales(block.add(F::LAYOUT.d_at));
            for t in 0..M {
                add_scaled(sums[t], times(d, x[t].scale), &mut acc[t]);
            }
            if let Some(m_at) = F::LAYOUT.m_at {
                let (m, sums) = (scales(block.add(m_at)), minima::<F, M>(block, x));
                for t in 0..M {
                    // A product's sign does not change its rounding.
                    add_scaled(sums[t], times(m, -x[t].scale), &mut acc[t]);
                }
            }
        }
    }
}

/// Adds sub-scale times dot product of one sub-block of a run, of which it has one or two.
///
/// # Safety
/// `block` is a panel block and `run` one of its runs.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_part<F: Format, const M: usize, const PART: usize>(
    (block, run): (*const u8, usize),
    x: [&ActBlock256; M],
    sums: &mut Lanes<M>,
) {
    let parts = F::LAYOUT.subs / RUNS;
    let mut dots = [[vdupq_n_s32(0); 4]; M];
    let mut codes = [std::ptr::null(); M];
    for t in 0..M {
        codes[t] = x[t].codes[32 * run..][..32].as_ptr();
        dots[t] = start::<F>(x[t].pair_sums[2 * run + PART]);
    }
    // SAFETY: the caller's promise; each sub-block has 16 bytes of scales.
    unsafe {
        let packed = block.add(run * F::LAYOUT.run_bytes);
        for_each_group!(G => {
            if G * parts / 8 == PART {
                multiply_group::<F, M, G>(packed, codes, &mut dots);
            }
        });
        let sub = F::LAYOUT.sub_scales_at + (parts * run + PART) * PANEL_ROWS;
        // Unsigned scales are below 64, so reading them as signed is the same.
        let bytes = vld1q_s8(block.add(sub).cast());
        let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
        let scale = [
            vmovl_s16(vget_low_s16(low)),
            vmovl_high_s16(low),
            vmovl_s16(vget_low_s16(high)),
            vmovl_high_s16(high),
        ];
        for t in 0..M {
            for i in 0..4 {
                sums[t][i] = vmlaq_s32(sums[t][i], dots[t][i], scale[i]);
            }
        }
    }
}

/// Sums of sub-minimum times code sum.
///
/// # Safety
/// `block` is a panel block with minima.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn minima<F: Format, const M: usize>(block: *const u8, x: [&ActBlock256; M]) -> Lanes<M> {
    let mut sums = [[vdupq_n_s32(0); 4]; M];
    for pair in 0..RUNS / 2 {
        // SAFETY: the caller's promise; minima are 4 pairs of sub-blocks, 32 bytes a pair, which are
        // loaded as the even sub-block's 16 and the odd one's.
        let mins = unsafe { vld2q_u8(block.add(F::LAYOUT.sub_mins_at + pair * 2 * PANEL_ROWS)) };
        for (sub, mins) in [mins.0, mins.1].into_iter().enumerate() {
            let mins = vreinterpretq_s8_u8(mins);
            let (low, high) = (vmovl_s8(vget_low_s8(mins)), vmovl_high_s8(mins));
            for t in 0..M {
                let sum = x[t].sums[2 * pair + sub];
                let [a, b, c, d] = &mut sums[t];
                *a = vmlal_n_s16(*a, vget_low_s16(low), sum);
                *b = vmlal_high_n_s16(*b, low, sum);
                *c = vmlal_n_s16(*c, vget_low_s16(high), sum);
                *d = vmlal_high_n_s16(*d, high, sum);
            }
        }
    }
    sums
}
