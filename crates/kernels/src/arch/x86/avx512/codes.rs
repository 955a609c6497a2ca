//! Codes out of panels, and their products.

use std::arch::x86_64::*;

use super::super::codes::GROUP_BYTES;
use super::format::Format;
use crate::panel::PANEL_ROWS;

/// The integer sums of 16 rows, for each of `M` tokens.
pub(super) type Lanes<const M: usize> = [__m512i; M];

/// The codes of group `G` of a run, or what a codebook makes of them, unsigned.
///
/// # Safety
/// `run` is a run of the format's panel block.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn group<F: Format, const G: usize>(run: *const u8) -> __m512i {
    // SAFETY: a run is 8 vectors of 8-bit codes, or 4 of low bits and then one vector of high bits
    // for 5-bit codes, two for 6-bit codes.
    unsafe {
        if F::LAYOUT.code_bits == 8 {
            let codes = load(run.add(G * GROUP_BYTES));
            return _mm512_xor_si512(codes, _mm512_set1_epi8(i8::MIN));
        }
        let low = load(run.add(G / 2 * GROUP_BYTES));
        let low = if G.is_multiple_of(2) {
            low
        } else {
            _mm512_srli_epi16::<4>(low)
        };
        let low = _mm512_and_si512(low, _mm512_set1_epi8(0x0F));
        if let Some(values) = F::CODEBOOK {
            let values = _mm_loadu_si128(values.as_ptr().cast());
            return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), low);
        }
        let high = run.add(F::LAYOUT.high_at);
        match F::LAYOUT.code_bits {
            5 => {
                let high = shift_left::<4>(load(high), G);
                _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x10)))
            }
            6 => {
                let high = shift_left::<4>(load(high.add(G / 4 * GROUP_BYTES)), 2 * (G % 4));
                _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)))
            }
            _ => low,
        }
    }
}

/// Bit `from` of each byte to bit `TO`; bits of neighbours come along and are masked later.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
fn shift_left<const TO: usize>(v: __m512i, from: usize) -> __m512i {
    // Both counts are constants after inlining.
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // 0..=7
    if from <= TO {
        _mm512_sll_epi16(v, _mm_cvtsi32_si128((TO - from) as i32))
    } else {
        _mm512_srl_epi16(v, _mm_cvtsi32_si128((from - TO) as i32))
    }
}

/// Lanes at the start of a dot product: what makes the zero point come out.
///
/// # Safety
/// `pair_sums` are two sums that can be read.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn start<F: Format>(pair_sums: *const [i16; 2]) -> __m512i {
    if F::ZERO == 0 {
        return _mm512_setzero_si512();
    }
    // SAFETY: the caller's promise.
    _mm512_madd_epi16(unsafe { broadcast(pair_sums) }, _mm512_set1_epi16(-F::ZERO))
}

/// # Safety
/// 64 bytes can be read.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn load(from: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// The dword at `from` in all lanes.
///
/// # Safety
/// 4 bytes can be read.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn broadcast<T>(from: *const T) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
}

/// 16 f16 scales as f32.
///
/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn scales(from: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
}

/// Adds the products of group `G` of a run to the lanes.
///
/// # Safety
/// `run` is a run of the format's panel block; `x` are at least `4 * (G + 1)` codes each.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply_group<F: Format, const M: usize, const G: usize>(
    run: *const u8,
    x: [*const i8; M],
    lanes: &mut Lanes<M>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let w = group::<F, G>(run);
        for t in 0..M {
            lanes[t] = _mm512_dpbusd_epi32(lanes[t], w, broadcast(x[t].add(4 * G)));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn load_rows(from: &[f32; PANEL_ROWS]) -> __m512 {
    // SAFETY: 16 values.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512vnni")]
pub(super) fn store_rows(rows: __m512, to: &mut [f32; PANEL_ROWS]) {
    // SAFETY: 16 values.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), rows) }
}
