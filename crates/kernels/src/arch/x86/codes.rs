//! Codes out of panels.

use std::arch::x86_64::*;

use super::format::Format;
use crate::panel::PANEL_ROWS;

/// Bytes of 4 k of 16 rows.
pub(super) const GROUP_BYTES: usize = 4 * PANEL_ROWS;
/// Bytes of the expanded codes of 32 k.
pub(super) const RUN_CODES: usize = 8 * GROUP_BYTES;

/// Runs the body for group 0..8, a constant each time, so that shifts are immediate.
macro_rules! for_each_group {
    ($group:ident => $body:block) => {
        for_each_group!(@each [0 1 2 3 4 5 6 7] $group $body);
    };
    (@each [] $group:ident $body:block) => {};
    (@each [$value:literal $($rest:literal)*] $group:ident $body:block) => {
        {
            const $group: usize = $value;
            $body
        }
        for_each_group!(@each [$($rest)*] $group $body);
    };
}
pub(super) use for_each_group;

/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load(from: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// The codes of group `G` of a run, or what a codebook makes of them: rows 0-7 and rows 8-15.
///
/// # Safety
/// `run` is a run of the format's panel block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn group<F: Format, const G: usize>(run: *const u8) -> [__m256i; 2] {
    // SAFETY: a run starts with four times 64 bytes.
    unsafe {
        let low = run.add(G / 2 * GROUP_BYTES);
        [
            unpack::<F, G>(run, load(low), 0),
            unpack::<F, G>(run, load(low.add(32)), 32),
        ]
    }
}

/// # Safety
/// As [`group`]; `half` is 0 or 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<F: Format, const G: usize>(run: *const u8, low: __m256i, half: usize) -> __m256i {
    let nibble = _mm256_set1_epi8(0x0F);
    let low = if G.is_multiple_of(2) {
        low
    } else {
        _mm256_srli_epi16::<4>(low)
    };
    let low = _mm256_and_si256(low, nibble);
    if let Some(values) = F::CODEBOOK {
        return look_up(values, low);
    }
    if F::LAYOUT.code_bits == 4 {
        return low;
    }
    // SAFETY: 5-bit codes have one vector of high bits, 6-bit codes two.
    unsafe {
        let high = run.add(F::LAYOUT.high_at + half);
        let high = if F::LAYOUT.code_bits == 5 {
            _mm256_and_si256(shift_left::<4>(load(high), G), _mm256_set1_epi8(0x10))
        } else {
            let high = load(high.add(G / 4 * GROUP_BYTES));
            _mm256_and_si256(shift_left::<4>(high, 2 * (G % 4)), _mm256_set1_epi8(0x30))
        };
        _mm256_or_si256(low, high)
    }
}

/// What 4-bit codes stand for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn look_up(values: &[i8; 16], codes: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), codes)
}

/// Bit `from` of each byte to bit `TO`; bits of neighbours come along and are masked later.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn shift_left<const TO: usize>(v: __m256i, from: usize) -> __m256i {
    // Both counts are constants after inlining.
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // 0..=7
    if from <= TO {
        _mm256_sll_epi16(v, _mm_cvtsi32_si128((TO - from) as i32))
    } else {
        _mm256_srl_epi16(v, _mm_cvtsi32_si128((from - TO) as i32))
    }
}

/// Expands the codes of some panel blocks to bytes, as [`group`] gives them, `[k / 4][64]`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn expand<F: Format>(panel: &[u8], codes: &mut [u8]) {
    let runs = panel
        .chunks_exact(F::LAYOUT.bytes)
        .flat_map(|block| block[..F::LAYOUT.sub_scales_at].chunks_exact(F::LAYOUT.run_bytes));
    for (run, codes) in runs.zip(codes.chunks_exact_mut(RUN_CODES)) {
        let (run, to) = (run.as_ptr(), codes.as_mut_ptr());
        for_each_group!(G => {
            // SAFETY: `run` is a whole run; `codes` has eight groups of 64 bytes.
            unsafe {
                let [low, high] = group::<F, G>(run);
                _mm256_storeu_si256(to.add(G * GROUP_BYTES).cast(), low);
                _mm256_storeu_si256(to.add(G * GROUP_BYTES + 32).cast(), high);
            }
        });
    }
}

/// How far ahead of the tile that unpacks weights they are fetched: they stream from memory, and
/// the hardware's own prefetch stops at page ends.
const PREFETCH_BYTES: usize = 8192;

/// Fetches the cache lines that `bytes` at `from` will reach [`PREFETCH_BYTES`] later, into the
/// second-level cache: the first level has too few misses under way at once to keep memory busy
/// (Zen 4, two cores: 25 GB/s into the first level, 36 GB/s into the second).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch(from: *const u8, bytes: usize) {
    let ahead = from.wrapping_add(PREFETCH_BYTES);
    for line in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line).cast());
    }
}

/// 16 f16 scales as f32, by rows 0-7 and 8-15.
///
/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn scales(from: *const u8) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast())),
        ]
    }
}

/// 16 f32, by rows 0-7 and 8-15.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_rows(from: &[f32; PANEL_ROWS]) -> [__m256; 2] {
    // SAFETY: 16 values.
    unsafe {
        [
            _mm256_loadu_ps(from.as_ptr()),
            _mm256_loadu_ps(from.as_ptr().add(8)),
        ]
    }
}

/// The reverse of [`load_rows`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_rows(rows: [__m256; 2], to: &mut [f32; PANEL_ROWS]) {
    // SAFETY: 16 values.
    unsafe {
        _mm256_storeu_ps(to.as_mut_ptr(), rows[0]);
        _mm256_storeu_ps(to.as_mut_ptr().add(8), rows[1]);
    }
}

/// Block `b` of each of `M` token rows. (A closure would be compiled without this tier's
/// instructions, here and in every kernel.)
///
/// # Safety
/// `M` rows have a block `b`: `(M - 1) * stride + b` is inside `x`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn token_blocks<B, const M: usize>(
    x: &[B],
    stride: usize,
    b: usize,
) -> [*const B; M] {
    let mut blocks = [x.as_ptr(); M];
    for (t, block) in blocks.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *block = unsafe { block.add(t * stride + b) };
    }
    blocks
}

/// The dword at `from` in all lanes.
///
/// # Safety
/// 4 bytes can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn broadcast<T>(from: *const T) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() })
}
