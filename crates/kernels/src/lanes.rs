//! Eight or sixteen f32 at once, and how code written for them is compiled for each tier.
//!
//! A kernel is written once, over [`Lanes`] and plain loops, and [`run`] instantiates it for each
//! tier. Every operation here is exactly rounded and every sum has one fixed shape, so all tiers
//! give the same bits (NaN payloads aside).

use crate::isa::{Isa, Tier};

/// Sixteen values on a cache line of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(64))]
pub(crate) struct Wide(pub(crate) [f32; 16]);

impl Wide {
    /// The eight values from `8 * half` on.
    #[inline(always)]
    pub(crate) fn half(&self, half: usize) -> &[f32; 8] {
        &self.0.as_chunks::<8>().0[half]
    }

    /// The eight values from `8 * half` on.
    #[inline(always)]
    pub(crate) fn half_mut(&mut self, half: usize) -> &mut [f32; 8] {
        &mut self.0.as_chunks_mut::<8>().0[half]
    }
}

/// The vector registers of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registers {
    /// None to speak of.
    None,
    /// Of eight lanes.
    Sixteen,
    /// Of sixteen lanes.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other tier has them
    ThirtyTwo,
}

impl Registers {
    pub(crate) const fn are_none(self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) const fn are_32(self) -> bool {
        matches!(self, Self::ThirtyTwo)
    }
}

/// The vector operations of one tier. A value of the implementing type is the proof that the CPU
/// has them.
pub(crate) trait Lanes: Copy {
    /// Eight f32, in a register where there is one.
    type V: Copy;
    /// Sixteen f32, for sums whose lanes never meet: one register, or two.
    type W: Copy;
    /// What register tiles may use.
    const REGISTERS: Registers;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &[f32; 8]) -> Self::V;
    fn store(self, value: Self::V, to: &mut [f32; 8]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// By lane `a` where `a > b`, else `b`: `b` when either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn wide_splat(self, value: f32) -> Self::W;
    fn wide_load(self, from: &[f32; 16]) -> Self::W;
    fn wide_store(self, value: Self::W, to: &mut [f32; 16]);
    fn wide_mul(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a * b + c`, rounded once.
    fn wide_fma(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W;
    /// Vector `i` of the result has lane `i` of each vector given.
    fn transpose(self, rows: [Self::V; 8]) -> [Self::V; 8];
    /// [`Lanes::max`] of lanes four apart, of those two apart, of the last two.
    fn max_lane(self, value: Self::V) -> f32;
    /// Advice that these bytes will be read soon.
    fn prefetch(self, bytes: &[u8]);
    /// The sum of each vector's lanes, `((0+1)+(2+3)) + ((4+5)+(6+7))`.
    fn sum4(self, vectors: [Self::V; 4]) -> [f32; 4];
    /// From the bytes of IEEE half precision: exact.
    fn widen(self, from: &[u8; 16]) -> Self::V;
    /// From signed integers: exact.
    fn widen_i8(self, from: &[u8; 8]) -> Self::V;
    /// The same value in every lane, from the bytes of IEEE half precision: exact.
    fn splat_half(self, from: [u8; 2]) -> Self::V;
    /// As [`Lanes::splat_half`].
    fn wide_splat_half(self, from: [u8; 2]) -> Self::W;
    /// As [`Lanes::widen`].
    fn wide_widen(self, from: &[u8; 32]) -> Self::W;
    /// As [`Lanes::widen_i8`].
    fn wide_widen_i8(self, from: &[u8; 16]) -> Self::W;
    /// To the bytes of IEEE half precision, nearest even; infinite beyond its range.
    fn narrow(self, value: Self::V) -> [u8; 16];
}

/// Code to be compiled once a tier. `run` must be `#[inline(always)]`, and so must all it calls:
/// only what is inlined into the tier's entry point is compiled with the tier's instructions.
pub(crate) trait Kernel {
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs the kernel on a tier.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.tier() {
        Tier::Scalar => kernel.run(Plain),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::AvxVnni(_) => crate::arch::x86_f32::run(isa, kernel),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => crate::arch::x86_f32_512::run(isa, kernel),
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => crate::arch::neon_f32::run(isa, kernel),
    }
}

/// Plain Rust.
#[derive(Clone, Copy, Debug)]
struct Plain;

impl Lanes for Plain {
    type V = [f32; 8];
    type W = [f32; 16];
    const REGISTERS: Registers = Registers::None;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; 8]
    }

    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::V, to: &mut [f32; 8]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn wide_splat(self, value: f32) -> Self::W {
        [value; 16]
    }

    #[inline(always)]
    fn wide_load(self, from: &[f32; 16]) -> Self::W {
        *from
    }

    #[inline(always)]
    fn wide_store(self, value: Self::W, to: &mut [f32; 16]) {
        *to = value;
    }

    #[inline(always)]
    fn wide_mul(self, a: Self::W, b: Self::W) -> Self::W {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn wide_fma(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::V; 8]) -> [Self::V; 8] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }

    #[inline(always)]
    fn max_lane(self, [a, b, c, d, e, f, g, h]: Self::V) -> f32 {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        max(max(max(a, e), max(c, g)), max(max(b, f), max(d, h)))
    }

    #[inline(always)]
    fn prefetch(self, _: &[u8]) {}

    #[inline(always)]
    fn sum4(self, vectors: [Self::V; 4]) -> [f32; 4] {
        vectors.map(|[a, b, c, d, e, f, g, h]| ((a + b) + (c + d)) + ((e + f) + (g + h)))
    }

    #[inline(always)]
    fn widen(self, from: &[u8; 16]) -> Self::V {
        let (from, _) = from.as_chunks::<2>();
        std::array::from_fn(|i| half::f16::from_le_bytes(from[i]).to_f32())
    }

    #[inline(always)]
    fn widen_i8(self, from: &[u8; 8]) -> Self::V {
        std::array::from_fn(|i| f32::from(from[i].cast_signed()))
    }

    #[inline(always)]
    fn splat_half(self, from: [u8; 2]) -> Self::V {
        self.splat(half::f16::from_le_bytes(from).to_f32())
    }

    #[inline(always)]
    fn wide_splat_half(self, from: [u8; 2]) -> Self::W {
        self.wide_splat(half::f16::from_le_bytes(from).to_f32())
    }

    #[inline(always)]
    fn wide_widen(self, from: &[u8; 32]) -> Self::W {
        let (from, _) = from.as_chunks::<2>();
        std::array::from_fn(|i| half::f16::from_le_bytes(from[i]).to_f32())
    }

    #[inline(always)]
    fn wide_widen_i8(self, from: &[u8; 16]) -> Self::W {
        std::array::from_fn(|i| f32::from(from[i].cast_signed()))
    }

    #[inline(always)]
    fn narrow(self, value: Self::V) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (to, v) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(value) {
            *to = half::f16::from_f32(v).to_le_bytes();
        }
        bytes
    }
}

/// The first eight values of `values`, zeros where there are fewer.
#[inline(always)]
pub(crate) fn padded(values: &[f32]) -> [f32; 8] {
    let mut oct = [0.0; 8];
    for (slot, &value) in oct.iter_mut().zip(values) {
        *slot = value;
    }
    oct
}
