//! [`Lanes`] on AVX-512: sixteen lanes in one register where they stay apart; sums over lanes, and
//! with them all that has eight, as on AVX2.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, _mm_loadu_si128, _mm256_loadu_si256, _mm256_set1_epi16,
    _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

use super::x86_f32::Avx2;
use crate::Isa;
use crate::isa::Tier;
use crate::lanes::{Kernel, Lanes, Registers};

/// Runs a kernel compiled with this tier's instructions.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.tier() == Tier::Avx512, "the tier was detected");
    // SAFETY: an `Isa` of this tier exists only if `Isa::available` saw these features.
    unsafe { enter(kernel) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: AVX2, FMA and F16C are among the features of this function.
    kernel.run(Avx512(unsafe { Avx2::new() }))
}

/// Made by [`enter`] alone: where there is one, the CPU has AVX-512 F, BW, DQ and VL. Every `unsafe`
/// block below rests on that; the loads and stores go through references of the full size.
#[derive(Clone, Copy)]
struct Avx512(Avx2);

impl Lanes for Avx512 {
    type V = __m256;
    type W = __m512;
    const REGISTERS: Registers = Registers::ThirtyTwo;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        self.0.splat(value)
    }

    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> __m256 {
        self.0.load(from)
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32; 8]) {
        self.0.store(value, to);
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        self.0.add(a, b)
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        self.0.mul(a, b)
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.0.fma(a, b, c)
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        self.0.max(a, b)
    }

    #[inline(always)]
    fn wide_splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn wide_load(self, from: &[f32; 16]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F; 64 bytes are readable.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn wide_store(self, value: __m512, to: &mut [f32; 16]) {
        // SAFETY: `self` proves AVX-512 F; 64 bytes are writable.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn wide_mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn wide_fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn transpose(self, rows: [__m256; 8]) -> [__m256; 8] {
        self.0.transpose(rows)
    }

    #[inline(always)]
    fn max_lane(self, value: __m256) -> f32 {
        self.0.max_lane(value)
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8]) {
        self.0.prefetch(bytes);
    }

    #[inline(always)]
    fn sum4(self, vectors: [__m256; 4]) -> [f32; 4] {
        self.0.sum4(vectors)
    }

    #[inline(always)]
    fn widen(self, from: &[u8; 16]) -> __m256 {
        self.0.widen(from)
    }

    #[inline(always)]
    fn widen_i8(self, from: &[u8; 8]) -> __m256 {
        self.0.widen_i8(from)
    }

    #[inline(always)]
    fn splat_half(self, from: [u8; 2]) -> __m256 {
        self.0.splat_half(from)
    }

    #[inline(always)]
    fn wide_splat_half(self, from: [u8; 2]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(from))) }
    }

    #[inline(always)]
    fn wide_widen(self, from: &[u8; 32]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F; 32 bytes are readable.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast::<__m256i>())) }
    }

    #[inline(always)]
    fn wide_widen_i8(self, from: &[u8; 16]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F; 16 bytes are readable.
        unsafe {
            let codes = _mm_loadu_si128(from.as_ptr().cast::<__m128i>());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))
        }
    }

    #[inline(always)]
    fn narrow(self, value: __m256) -> [u8; 16] {
        self.0.narrow(value)
    }
}
