//! The inner loop the formats with unsigned codes share: 32 k of 16 rows times `M` tokens, in 16-bit lanes.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::codes::{GROUP_BYTES, broadcast, for_each_group, group, load};
use super::format::Format;

/// For each of `M` tokens, lanes of rows 0-7 and of rows 8-15.
pub(super) type Lanes<const M: usize> = [[__m256i; 2]; M];

/// One run of 32 k in a panel block.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The run as packed.
    pub packed: *const u8,
    /// Its expanded codes, if there are any.
    pub codes: *const u8,
    /// What [`part_groups`] gave.
    pub groups: usize,
}

/// Groups summed before the lanes are full. A run has one such part, or two.
///
/// The compiler must not know the number. It would unroll the loop over expanded codes, turn
/// the additions into a tree, and spill: there are just enough registers for one group.
pub(super) fn part_groups<F: Format>() -> usize {
    black_box(F::MADD_K / 4)
}

/// Parts of a run.
pub(super) const fn parts<F: Format>() -> usize {
    32 / F::MADD_K
}

/// Lanes at the start of a part: what makes the zero point come out.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn start<F: Format>(pair_sums: __m256i) -> [__m256i; 2] {
    [_mm256_mullo_epi16(pair_sums, _mm256_set1_epi16(-F::ZERO)); 2]
}

/// Adds the products of part `PART` of a run to the lanes.
///
/// # Safety
/// `run` is a run of the format, with its expanded codes if `EXPANDED`; `x` are 32 codes each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply_part<
    F: Format,
    const M: usize,
    const EXPANDED: bool,
    const PART: usize,
>(
    run: Run,
    x: [*const i8; M],
    lanes: &mut Lanes<M>,
) {
    // SAFETY: the caller's promise; a run has 8 groups, 4 bytes of x each.
    unsafe {
        if EXPANDED {
            let first = PART * F::MADD_K / 4;
            for group in first..first + run.groups {
                let codes = run.codes.add(group * GROUP_BYTES);
                multiply_group([load(codes), load(codes.add(32))], x, group, lanes);
            }
            return;
        }
        for_each_group!(G => {
            if G * 4 / F::MADD_K == PART {
                multiply_group(group::<F, G>(run.packed), x, G, lanes);
            }
        });
    }
}

/// # Safety
/// `x` are at least `4 * (group + 1)` codes each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_group<const M: usize>(
    w: [__m256i; 2],
    x: [*const i8; M],
    group: usize,
    lanes: &mut Lanes<M>,
) {
    for t in 0..M {
        // SAFETY: the caller's promise.
        let x = unsafe { broadcast(x[t].add(4 * group)) };
        for h in 0..2 {
            lanes[t][h] = _mm256_add_epi16(lanes[t][h], _mm256_maddubs_epi16(w[h], x));
        }
    }
}
