//! The inner loop of formats whose weights are signed bytes: `Q8_0` as stored, `IQ4_NL` and
//! `IQ4_XS` out of their codebook.
//!
//! The product of signed bytes is that of |w| as unsigned and x with the sign of w. |-128| is
//! 128 as unsigned, x is never -128, and two products are at most 2 * 128 * 127 = 32512: exact.

use std::arch::x86_64::*;

use super::codes::{GROUP_BYTES, broadcast, for_each_group, group, load};
use super::format::Format;
use super::run::{Lanes, Run};

/// Adds the products of a run, times a factor for each row, to 32-bit lanes. Factors are 16-bit
/// pairs, both halves alike: a sub-scale, or one.
///
/// # Safety
/// `run` is a run of the format, with its expanded codes if `EXPANDED`; `x` are 32 codes each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply_run<F: Format, const M: usize, const EXPANDED: bool>(
    run: Run,
    (x, factor): ([*const i8; M], [__m256i; 2]),
    sums: &mut Lanes<M>,
) {
    // SAFETY: the caller's promise; a run has 8 groups, 4 bytes of x each.
    unsafe {
        if EXPANDED || F::LAYOUT.code_bits == 8 {
            let bytes = if EXPANDED { run.codes } else { run.packed };
            for group in 0..run.groups {
                let w = bytes.add(group * GROUP_BYTES);
                multiply_group([load(w), load(w.add(32))], (x, factor), group, sums);
            }
            return;
        }
        for_each_group!(G => {
            multiply_group(group::<F, G>(run.packed), (x, factor), G, sums);
        });
    }
}

/// # Safety
/// `x` are at least `4 * (group + 1)` codes each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_group<const M: usize>(
    w: [__m256i; 2],
    (x, factor): ([*const i8; M], [__m256i; 2]),
    group: usize,
    sums: &mut Lanes<M>,
) {
    let size = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
    for t in 0..M {
        // SAFETY: the caller's promise.
        let x = unsafe { broadcast(x[t].add(4 * group)) };
        for h in 0..2 {
            let pairs = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(x, w[h]));
            let scaled = _mm256_madd_epi16(pairs, factor[h]);
            sums[t][h] = _mm256_add_epi32(sums[t][h], scaled);
        }
    }
}
