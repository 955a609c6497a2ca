//! [`Lanes`] on NEON: two vectors of four.

use std::arch::aarch64::*;

use crate::Isa;
use crate::lanes::{Kernel, Lanes, Registers};

/// Runs a kernel compiled with this tier's instructions.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.has_neon(), "the tier was detected");
    // SAFETY: `Isa::available` saw NEON, asserted above.
    unsafe { enter(kernel) }
}

#[target_feature(enable = "neon")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// Made by [`enter`] alone: where there is one, the CPU has NEON. Every `unsafe` block below rests
/// on that; the loads and stores go through references of the full size.
#[derive(Clone, Copy)]
struct Neon(());

/// Lanes 0-3 and 4-7.
#[derive(Clone, Copy)]
pub(crate) struct Two(float32x4_t, float32x4_t);

/// The two halves of sixteen values.
#[inline(always)]
fn halves(values: &[f32; 16]) -> [&[f32; 8]; 2] {
    let (halves, _) = values.as_chunks::<8>();
    [&halves[0], &halves[1]]
}

/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn transpose4([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let pair = |low, high| (vreinterpretq_f64_f32(low), vreinterpretq_f64_f32(high));
        let (even_ab, even_cd) = pair(vtrn1q_f32(a, b), vtrn1q_f32(c, d));
        let (odd_ab, odd_cd) = pair(vtrn2q_f32(a, b), vtrn2q_f32(c, d));
        [
            vreinterpretq_f32_f64(vtrn1q_f64(even_ab, even_cd)),
            vreinterpretq_f32_f64(vtrn1q_f64(odd_ab, odd_cd)),
            vreinterpretq_f32_f64(vtrn2q_f64(even_ab, even_cd)),
            vreinterpretq_f32_f64(vtrn2q_f64(odd_ab, odd_cd)),
        ]
    }
}

impl Lanes for Neon {
    type V = Two;
    type W = [Two; 2];
    /// Of four lanes each, thirty-two.
    const REGISTERS: Registers = Registers::Sixteen;

    #[inline(always)]
    fn splat(self, value: f32) -> Two {
        // SAFETY: `self` proves NEON.
        unsafe { Two(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> Two {
        // SAFETY: `self` proves NEON; 8 values are readable.
        unsafe { Two(vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4))) }
    }

    #[inline(always)]
    fn store(self, value: Two, to: &mut [f32; 8]) {
        // SAFETY: `self` proves NEON; 8 values are writable.
        unsafe {
            vst1q_f32(to.as_mut_ptr(), value.0);
            vst1q_f32(to.as_mut_ptr().add(4), value.1);
        }
    }

    #[inline(always)]
    fn add(self, a: Two, b: Two) -> Two {
        // SAFETY: `self` proves NEON.
        unsafe { Two(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Two, b: Two) -> Two {
        // SAFETY: `self` proves NEON.
        unsafe { Two(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn fma(self, a: Two, b: Two, c: Two) -> Two {
        // SAFETY: `self` proves NEON.
        unsafe { Two(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }

    #[inline(always)]
    fn max(self, a: Two, b: Two) -> Two {
        // `fmax` gives NaN where either is; this order of comparing gives `b`.
        // SAFETY: `self` proves NEON.
        unsafe {
            Two(
                vbslq_f32(vcgtq_f32(a.0, b.0), a.0, b.0),
                vbslq_f32(vcgtq_f32(a.1, b.1), a.1, b.1),
            )
        }
    }

    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [Two; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` proves NEON; 4 values are writable.
        unsafe {
            // Pairs, pairs of pairs, then the halves: the shape `sum4` promises.
            let first = vpaddq_f32(vpaddq_f32(a.0, a.1), vpaddq_f32(b.0, b.1));
            let second = vpaddq_f32(vpaddq_f32(c.0, c.1), vpaddq_f32(d.0, d.1));
            vst1q_f32(sums.as_mut_ptr(), vpaddq_f32(first, second));
        }
        sums
    }

    #[inline(always)]
    fn widen(self, from: &[u8; 16]) -> Two {
        // SAFETY: `self` proves NEON; 16 bytes are readable.
        unsafe {
            let halves = vreinterpretq_f16_u8(vld1q_u8(from.as_ptr()));
            Two(
                vcvt_f32_f16(vget_low_f16(halves)),
                vcvt_high_f32_f16(halves),
            )
        }
    }

    #[inline(always)]
    fn widen_i8(self, from: &[u8; 8]) -> Two {
        // SAFETY: `self` proves NEON; 8 bytes are readable.
        unsafe {
            let words = vmovl_s8(vreinterpret_s8_u8(vld1_u8(from.as_ptr())));
            Two(
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))),
                vcvtq_f32_s32(vmovl_high_s16(words)),
            )
        }
    }

    #[inline(always)]
    fn wide_splat(self, value: f32) -> [Two; 2] {
        [self.splat(value); 2]
    }

    #[inline(always)]
    fn wide_load(self, from: &[f32; 16]) -> [Two; 2] {
        halves(from).map(|half| self.load(half))
    }

    #[inline(always)]
    fn wide_store(self, [low, high]: [Two; 2], to: &mut [f32; 16]) {
        let (halves, _) = to.as_chunks_mut::<8>();
        self.store(low, &mut halves[0]);
        self.store(high, &mut halves[1]);
    }

    #[inline(always)]
    fn wide_mul(self, a: [Two; 2], b: [Two; 2]) -> [Two; 2] {
        [self.mul(a[0], b[0]), self.mul(a[1], b[1])]
    }

    #[inline(always)]
    fn wide_fma(self, a: [Two; 2], b: [Two; 2], c: [Two; 2]) -> [Two; 2] {
        [self.fma(a[0], b[0], c[0]), self.fma(a[1], b[1], c[1])]
    }

    #[inline(always)]
    fn transpose(self, [a, b, c, d, e, f, g, h]: [Two; 8]) -> [Two; 8] {
        // SAFETY: `self` proves NEON.
        let [first, second, third, fourth] = unsafe {
            [
                transpose4([a.0, b.0, c.0, d.0]),
                transpose4([e.0, f.0, g.0, h.0]),
                transpose4([a.1, b.1, c.1, d.1]),
                transpose4([e.1, f.1, g.1, h.1]),
            ]
        };
        [
            Two(first[0], second[0]),
            Two(first[1], second[1]),
            Two(first[2], second[2]),
            Two(first[3], second[3]),
            Two(third[0], fourth[0]),
            Two(third[1], fourth[1]),
            Two(third[2], fourth[2]),
            Two(third[3], fourth[3]),
        ]
    }

    #[inline(always)]
    fn max_lane(self, value: Two) -> f32 {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        let mut four = [0.0; 4];
        // SAFETY: `self` proves NEON; 4 values are writable.
        unsafe {
            let (low, high) = (value.0, value.1);
            vst1q_f32(
                four.as_mut_ptr(),
                vbslq_f32(vcgtq_f32(low, high), low, high),
            );
        }
        max(max(four[0], four[2]), max(four[1], four[3]))
    }

    /// The intrinsic is not stable yet, and nobody has measured what it would bring.
    #[inline(always)]
    fn prefetch(self, _: &[u8]) {}

    #[inline(always)]
    fn splat_half(self, from: [u8; 2]) -> Two {
        // SAFETY: `self` proves NEON.
        unsafe {
            let halves = vreinterpret_f16_u16(vdup_n_u16(u16::from_le_bytes(from)));
            let value = vcvt_f32_f16(halves);
            Two(value, value)
        }
    }

    #[inline(always)]
    fn wide_splat_half(self, from: [u8; 2]) -> [Two; 2] {
        [self.splat_half(from); 2]
    }

    #[inline(always)]
    fn wide_widen(self, from: &[u8; 32]) -> [Two; 2] {
        let (halves, _) = from.as_chunks::<16>();
        [self.widen(&halves[0]), self.widen(&halves[1])]
    }

    #[inline(always)]
    fn wide_widen_i8(self, from: &[u8; 16]) -> [Two; 2] {
        let (halves, _) = from.as_chunks::<8>();
        [self.widen_i8(&halves[0]), self.widen_i8(&halves[1])]
    }

    #[inline(always)]
    fn narrow(self, value: Two) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: `self` proves NEON; 16 bytes are writable.
        unsafe {
            let halves = vcvt_high_f16_f32(vcvt_f16_f32(value.0), value.1);
            vst1q_u8(bytes.as_mut_ptr(), vreinterpretq_u8_f16(halves));
        }
        bytes
    }
}
