//! Activation quantisation: the same blocks the scalar tier makes.

use std::arch::aarch64::*;

use crate::acts::{ActBlock32, ActBlock256, block_factors};

/// `values` is exactly what the blocks hold.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn quantise32(values: &[f32], blocks: &mut [ActBlock32]) {
    for (values, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let runs = values.as_chunks::<16>().0;
        let (scale, inverse) = block_factors(amax(values));
        let mut sums = [0; 2];
        for (values, codes) in runs.iter().zip(block.codes.as_chunks_mut::<16>().0) {
            let [low, high] = quantise(values, (scale, inverse), codes);
            sums = [sums[0] + low, sums[1] + high];
        }
        block.scale = scale;
        block.pair_sums = sums;
        block.scaled_sum = scale * f32::from(sums[0] + sums[1]);
    }
}

/// `values` is exactly what the blocks hold.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn quantise256(values: &[f32], blocks: &mut [ActBlock256]) {
    for (values, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        let runs = values.as_chunks::<16>().0;
        let (scale, inverse) = block_factors(amax(values));
        block.scale = scale;
        let codes = block.codes.as_chunks_mut::<16>().0;
        for ((values, codes), sums) in runs.iter().zip(codes).zip(&mut block.pair_sums) {
            *sums = quantise(values, (scale, inverse), codes);
        }
        let pairs = block.pair_sums.as_chunks::<2>().0;
        for (sum, pairs) in block.sums.iter_mut().zip(pairs) {
            *sum = pairs.iter().flatten().sum();
        }
    }
}

/// Bits of the largest magnitude; they order as the magnitudes, NaN above all.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn amax(values: &[f32]) -> u32 {
    let mut largest = vdupq_n_u32(0);
    for values in values.as_chunks::<4>().0 {
        // SAFETY: 4 values.
        let bits = vreinterpretq_u32_f32(vabsq_f32(unsafe { vld1q_f32(values.as_ptr()) }));
        largest = vmaxq_u32(largest, bits);
    }
    vmaxvq_u32(largest)
}

/// Writes 16 codes, zeros for a NaN scale, and gives their sums over k % 4 in {0, 1} and in {2, 3}.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn quantise(values: &[f32; 16], (scale, inverse): (f32, f32), codes: &mut [i8; 16]) -> [i16; 2] {
    if scale.is_nan() {
        codes.fill(0);
        return [0; 2];
    }
    let mut words = [vdupq_n_s32(0); 4];
    for (words, values) in words.iter_mut().zip(values.as_chunks::<4>().0) {
        // SAFETY: 4 values. The conversion rounds half to even.
        let values = unsafe { vld1q_f32(values.as_ptr()) };
        *words = vcvtnq_s32_f32(vmulq_n_f32(values, inverse));
    }
    let [a, b, c, d] = words;
    let low = vmovn_high_s32(vmovn_s32(a), b);
    let high = vmovn_high_s32(vmovn_s32(c), d);
    let bytes = vmovn_high_s16(vmovn_s16(low), high);
    // SAFETY: 16 bytes.
    unsafe { vst1q_s8(codes.as_mut_ptr(), bytes) };
    // Sums of neighbours: those of {0, 1} in the even lanes.
    let pairs = vpaddlq_s8(bytes);
    [
        vaddv_s16(vget_low_s16(vuzp1q_s16(pairs, pairs))),
        vaddv_s16(vget_low_s16(vuzp2q_s16(pairs, pairs))),
    ]
}
