//! [`Lanes`] on AVX2, FMA and F16C.

use std::arch::x86_64::{
    __m128i, __m256, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _mm_add_ps, _mm_cvtss_f32,
    _mm_loadl_epi64, _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehl_ps, _mm_prefetch,
    _mm_set1_epi16, _mm_shuffle_ps, _mm_storeu_ps, _mm_storeu_si128, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps,
    _mm256_cvtps_ph, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_loadu_ps,
    _mm256_max_ps, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_ps, _mm256_shuffle_ps,
    _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

use crate::Isa;
use crate::lanes::{Kernel, Lanes, Registers};

/// Runs a kernel compiled with this tier's instructions.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.has_avx2(), "the tier was detected");
    // SAFETY: `Isa::available` saw AVX2, FMA and F16C, asserted above.
    unsafe { enter(kernel) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: exactly the features of this function.
    kernel.run(unsafe { Avx2::new() })
}

/// Made by [`enter`], and by the entry of a tier that has more: where there is one, the CPU has AVX2,
/// FMA and F16C. Every `unsafe` block below rests on that; the loads and stores go through references of the full size.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[inline(always)]
    pub(super) const unsafe fn new() -> Self {
        Self(())
    }
}

#[inline(always)]
fn halves(values: &[f32; 16]) -> [&[f32; 8]; 2] {
    let (halves, _) = values.as_chunks::<8>();
    [&halves[0], &halves[1]]
}

/// The transposes of two 4 x 4 matrices: the left halves of the rows, and the right halves. (A closure
/// may be compiled without this tier's instructions, and each of its own then becomes a call.)
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose_quarters([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    [
        _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
        _mm256_shuffle_ps::<0xEE>(ab_low, cd_low),
        _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
        _mm256_shuffle_ps::<0xEE>(ab_high, cd_high),
    ]
}

impl Lanes for Avx2 {
    type V = __m256;
    type W = [__m256; 2];
    const REGISTERS: Registers = Registers::Sixteen;

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
    fn wide_splat(self, value: f32) -> [__m256; 2] {
        [self.splat(value); 2]
    }

    #[inline(always)]
    fn wide_load(self, from: &[f32; 16]) -> [__m256; 2] {
        let [low, high] = halves(from);
        [self.load(low), self.load(high)]
    }

    #[inline(always)]
    fn wide_store(self, [low, high]: [__m256; 2], to: &mut [f32; 16]) {
        let (to, _) = to.as_chunks_mut::<8>();
        self.store(low, &mut to[0]);
        self.store(high, &mut to[1]);
    }

    #[inline(always)]
    fn wide_mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [self.mul(a[0], b[0]), self.mul(a[1], b[1])]
    }

    #[inline(always)]
    fn wide_fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [self.fma(a[0], b[0], c[0]), self.fma(a[1], b[1], c[1])]
    }

    #[inline(always)]
    fn transpose(self, [a, b, c, d, e, f, g, h]: [__m256; 8]) -> [__m256; 8] {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let [a, b, c, d] = transpose_quarters([a, b, c, d]);
            let [e, f, g, h] = transpose_quarters([e, f, g, h]);
            [
                _mm256_permute2f128_ps::<0x20>(a, e),
                _mm256_permute2f128_ps::<0x20>(b, f),
                _mm256_permute2f128_ps::<0x20>(c, g),
                _mm256_permute2f128_ps::<0x20>(d, h),
                _mm256_permute2f128_ps::<0x31>(a, e),
                _mm256_permute2f128_ps::<0x31>(b, f),
                _mm256_permute2f128_ps::<0x31>(c, g),
                _mm256_permute2f128_ps::<0x31>(d, h),
            ]
        }
    }

    #[inline(always)]
    fn max_lane(self, value: __m256) -> f32 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let low = _mm256_castps256_ps128(value);
            let four = _mm_max_ps(low, _mm256_extractf128_ps::<1>(value));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8]) {
        const CACHE_LINE: usize = 64;
        for line in bytes.chunks(CACHE_LINE) {
            // SAFETY: `self` proves SSE; a hint reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
        }
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
    fn splat_half(self, from: [u8; 2]) -> __m256 {
        // SAFETY: `self` proves AVX2 and F16C.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(from))) }
    }

    #[inline(always)]
    fn wide_splat_half(self, from: [u8; 2]) -> [__m256; 2] {
        [self.splat_half(from); 2]
    }

    #[inline(always)]
    fn wide_widen(self, from: &[u8; 32]) -> [__m256; 2] {
        let (halves, _) = from.as_chunks::<16>();
        [self.widen(&halves[0]), self.widen(&halves[1])]
    }

    #[inline(always)]
    fn wide_widen_i8(self, from: &[u8; 16]) -> [__m256; 2] {
        let (halves, _) = from.as_chunks::<8>();
        [self.widen_i8(&halves[0]), self.widen_i8(&halves[1])]
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
