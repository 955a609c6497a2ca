//! Activation quantisation: the same blocks the scalar tier makes.

use std::arch::x86_64::*;

use crate::acts::{ActBlock32, ActBlock256, block_factors};

/// `values` is exactly what the blocks hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise32(values: &[f32], blocks: &mut [ActBlock32]) {
    for (values, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let (scale, inverse) = block_factors(largest(amax(values)));
        let codes = codes(values, scale, inverse);
        let [first, second] = pair_sums(codes);
        block.scale = scale;
        block.pair_sums = [first[0] + second[0], first[1] + second[1]];
        block.scaled_sum = scale * f32::from(block.pair_sums[0] + block.pair_sums[1]);
        store(codes, &mut block.codes);
    }
}

/// `values` is exactly what the blocks hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantise256(values: &[f32], blocks: &mut [ActBlock256]) {
    for (values, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        let runs = values.as_chunks::<32>().0;
        let mut largest_bits = _mm256_setzero_si256();
        for run in runs {
            largest_bits = _mm256_max_epi32(largest_bits, amax(run));
        }
        let (scale, inverse) = block_factors(largest(largest_bits));
        block.scale = scale;
        for (index, (values, to)) in runs
            .iter()
            .zip(block.codes.as_chunks_mut::<32>().0)
            .enumerate()
        {
            let codes = codes(values, scale, inverse);
            let [first, second] = pair_sums(codes);
            block.pair_sums[2 * index] = first;
            block.pair_sums[2 * index + 1] = second;
            block.sums[index] = first[0] + first[1] + second[0] + second[1];
            store(codes, to);
        }
    }
}

/// Magnitude bits of the largest of each 8th value; they order as the magnitudes, NaN above all.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn amax(values: &[f32; 32]) -> __m256i {
    let magnitude = _mm256_set1_epi32(i32::MAX);
    let mut largest = _mm256_setzero_si256();
    for values in values.as_chunks::<8>().0 {
        // SAFETY: 8 values.
        let bits = _mm256_castps_si256(unsafe { _mm256_loadu_ps(values.as_ptr()) });
        largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
    }
    largest
}

/// The largest lane; lanes are not negative.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(lanes: __m256i) -> u32 {
    let four = _mm_max_epi32(
        _mm256_castsi256_si128(lanes),
        _mm256_extracti128_si256::<1>(lanes),
    );
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    let one = _mm_max_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two));
    _mm_cvtsi128_si32(one).cast_unsigned()
}

/// 32 codes; zeros for a NaN scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes(values: &[f32; 32], scale: f32, inverse: f32) -> __m256i {
    if scale.is_nan() {
        return _mm256_setzero_si256();
    }
    let inverse = _mm256_set1_ps(inverse);
    let low = _mm256_packs_epi32(words::<0>(values, inverse), words::<8>(values, inverse));
    let high = _mm256_packs_epi32(words::<16>(values, inverse), words::<24>(values, inverse));
    // Packing works within 128-bit halves: put the dwords back in k order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order)
}

/// The codes of 8 values from `AT` on, as dwords.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn words<const AT: usize>(values: &[f32; 32], inverse: __m256) -> __m256i {
    const { assert!(AT + 8 <= 32) };
    // SAFETY: 8 values from AT on are inside. The conversion rounds half to even.
    _mm256_cvtps_epi32(_mm256_mul_ps(
        unsafe { _mm256_loadu_ps(values.as_ptr().add(AT)) },
        inverse,
    ))
}

/// For each half of the codes: the sums over k % 4 in {0, 1} and in {2, 3}.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair_sums(codes: __m256i) -> [[i16; 2]; 2] {
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
    let two = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b00_00_11_10>(pairs));
    let one = _mm256_add_epi16(two, _mm256_shuffle_epi32::<0b00_00_00_01>(two));
    [
        split(_mm256_extract_epi32::<0>(one)),
        split(_mm256_extract_epi32::<4>(one)),
    ]
}

/// The low and the high half of a dword.
fn split(dword: i32) -> [i16; 2] {
    let [a, b, c, d] = dword.to_le_bytes();
    [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(codes: __m256i, to: &mut [i8; 32]) {
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), codes) }
}
