//! Packing: 32 codes of 16 rows into a run of a panel, as the scalar tier stores them.

use std::arch::x86_64::*;

use super::codes::GROUP_BYTES;
use crate::panel::PANEL_ROWS;
use crate::quant::Parts;

/// Rows of a vector: one dword of 4 codes each.
const HALF_ROWS: usize = PANEL_ROWS / 2;

/// Writes codes `32 * index` and on of all rows to `run`. `BITS` are those of a code.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn put_run<const BITS: usize>(rows: &[Parts; PANEL_ROWS], index: usize, run: &mut [u8]) {
    const { assert!(BITS >= 4 && BITS <= 6 || BITS == 8) };
    assert_eq!(run.len(), if BITS == 8 { 8 } else { BITS } * GROUP_BYTES);
    for (half, rows) in rows.as_chunks::<HALF_ROWS>().0.iter().enumerate() {
        let mut codes = [_mm256_setzero_si256(); HALF_ROWS];
        for (codes, row) in codes.iter_mut().zip(rows) {
            let from = &row.codes.as_chunks::<32>().0[index];
            // SAFETY: 32 bytes.
            *codes = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
        }
        let groups = transpose(codes);
        if BITS == 8 {
            for (at, group) in groups.into_iter().enumerate() {
                store(run, 2 * at + half, group);
            }
            continue;
        }
        let mut high = [_mm256_setzero_si256(); 2];
        for (pair, [even, odd]) in groups.as_chunks::<2>().0.iter().enumerate() {
            let low = _mm256_or_si256(
                _mm256_and_si256(*even, _mm256_set1_epi8(0x0F)),
                _mm256_slli_epi16::<4>(_mm256_and_si256(*odd, _mm256_set1_epi8(0x0F))),
            );
            store(run, 2 * pair + half, low);
            let (bits, vector) = (high_bits::<BITS>(*even, *odd), high_place::<BITS>(pair));
            high[vector.0] = _mm256_or_si256(high[vector.0], _mm256_sll_epi16(bits, vector.1));
        }
        for (at, bits) in high[..BITS - 4].iter().enumerate() {
            store(run, 2 * (4 + at) + half, *bits);
        }
    }
}

/// What codes of more than 4 bits have above those, an even group's below an odd one's.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_bits<const BITS: usize>(even: __m256i, odd: __m256i) -> __m256i {
    // Bits of neighbours that the shifts bring along are masked.
    match BITS {
        5 => _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi16::<4>(even), _mm256_set1_epi8(1)),
            _mm256_and_si256(_mm256_srli_epi16::<3>(odd), _mm256_set1_epi8(2)),
        ),
        6 => _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi16::<4>(even), _mm256_set1_epi8(3)),
            _mm256_and_si256(_mm256_srli_epi16::<2>(odd), _mm256_set1_epi8(12)),
        ),
        _ => _mm256_setzero_si256(),
    }
}

/// Which vector of high bits a pair of groups belongs to, and how far up.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_place<const BITS: usize>(pair: usize) -> (usize, __m128i) {
    let (vector, shift) = match BITS {
        5 => (0, 2 * pair),
        _ => (pair / 2, 4 * (pair % 2)),
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // 0..=6
    (vector, _mm_cvtsi32_si128(shift as i32))
}

/// Writes 32 bytes at 32 times `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(run: &mut [u8], at: usize, bytes: __m256i) {
    let to = &mut run.as_chunks_mut::<32>().0[at];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes) }
}

/// 8 rows of 8 dwords to 8 columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = [_mm256_setzero_si256(); 8];
    for i in 0..2 {
        for j in 0..2 {
            let (low, high) = (pairs[4 * i + j], pairs[4 * i + j + 2]);
            fours[4 * i + 2 * j] = _mm256_unpacklo_epi64(low, high);
            fours[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(low, high);
        }
    }
    let mut columns = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        columns[i] = _mm256_permute2x128_si256::<0x20>(fours[i], fours[i + 4]);
        columns[i + 4] = _mm256_permute2x128_si256::<0x31>(fours[i], fours[i + 4]);
    }
    columns
}
