//! [`Lanes`] on AVX2, FMA and F16C.

use std::arch::x86_64::{
    __m128i, __m256, _MM_FROUND_TO_NEAREST_INT, _mm_add_ps, _mm_loadl_epi64, _mm_loadu_si128,
    _mm_storeu_ps, _mm_storeu_si128, _mm256_add_ps, _mm256_castps256_ps128, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_extractf128_ps, _mm256_fmadd_ps,
    _mm256_hadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_storeu_ps,
};

use crate::Isa;
use crate::lanes::{Kernel, Lanes};

/// Runs a kernel compiled with this tier's instructions.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.has_avx2(), "the tier was detected");
    // SAFETY: `Isa::available` saw AVX2, FMA and F16C, asserted above.
    unsafe { enter(kernel) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Made by [`enter`] alone: where there is one, the CPU has AVX2, FMA and F16C. Every `unsafe`
/// block below rests on that; the loads and stores go through references of the full size.
#[derive(Clone, Copy)]
struct Avx2(());

impl Lanes for Avx2 {
    type V = __m256;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> __m256 {
        // SAFETY: `self` proves AVX2; 32 bytes are readable.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32; 8]) {
        // SAFETY: `self` proves AVX2; 32 bytes are writable.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` proves AVX2; 16 bytes are writable.
        unsafe {
            // Two levels of pairs within each half, then the halves: the shape `sum4` promises.
            let quads = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let low = _mm256_castps256_ps128(quads);
            let high = _mm256_extractf128_ps::<1>(quads);
            _mm_storeu_ps(sums.as_mut_ptr(), _mm_add_ps(low, high));
        }
        sums
    }

    #[inline(always)]
    fn widen(self, from: &[u8; 16]) -> __m256 {
        // SAFETY: `self` proves F16C; 16 bytes are readable.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast::<__m128i>())) }
    }

    #[inline(always)]
    fn widen_i8(self, from: &[u8; 8]) -> __m256 {
        // SAFETY: `self` proves AVX2; 8 bytes are readable.
        unsafe {
            let codes = _mm_loadl_epi64(from.as_ptr().cast::<__m128i>());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes))
        }
    }

    #[inline(always)]
    fn narrow(self, value: __m256) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: `self` proves F16C; 16 bytes are writable.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value);
            _mm_storeu_si128(bytes.as_mut_ptr().cast::<__m128i>(), halves);
        }
        bytes
    }
}
