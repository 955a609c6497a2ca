//! [`DotProbe`] in the instructions of the x86-64 tiers.

use std::arch::x86_64::{
    _mm256_add_epi16, _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_maddubs_epi16,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm512_dpbusd_epi32, _mm512_loadu_si512,
    _mm512_set1_epi32, _mm512_setzero_si512,
};
use std::hint::black_box;

use crate::Isa;
use crate::isa::{Tier, VnniEncoding};
use crate::probe::{DotProbe, TOKENS};

/// Returns the rows of the tier's tile.
pub(crate) fn run(isa: Isa, probe: &DotProbe, rounds: u32) -> usize {
    // SAFETY: an `Isa` of a tier exists only if the CPU was seen to have its features.
    unsafe {
        match isa.tier() {
            Tier::Scalar => unreachable!("plain Rust has a probe of its own"),
            Tier::Avx2 => avx2(probe, rounds),
            Tier::AvxVnni(VnniEncoding::Vex) => avxvnni(probe, rounds),
            // For tests of products alone: nobody asks for its ceiling.
            #[cfg(test)]
            Tier::AvxVnni(VnniEncoding::Evex) => avx2(probe, rounds),
            Tier::Avx512 => avx512(probe, rounds),
        }
    }
}

/// The same four bytes in every lane.
fn lane(x: [i8; 4]) -> i32 {
    i32::from_le_bytes(x.map(i8::cast_unsigned))
}

/// Pairs of products summed in 16 bits, added up in 16 bits: the inner loop of four- to six-bit
/// formats. Sums wrap; nobody reads them. Two registers of weights, eight rows each, leave room
/// for operands.
#[target_feature(enable = "avx2")]
fn avx2(probe: &DotProbe, rounds: u32) -> usize {
    let mut sums = [[_mm256_setzero_si256(); TOKENS]; 2];
    for _ in 0..rounds {
        let probe = black_box(probe);
        for (w, x) in probe.weights.iter().zip(&probe.activations) {
            // SAFETY: two registers are 64 of the row's bytes.
            let w = [0, 32].map(|at| unsafe { _mm256_loadu_si256(w[at..at + 32].as_ptr().cast()) });
            for (token, x) in x.iter().enumerate() {
                let x = _mm256_set1_epi32(lane(*x));
                for (sums, w) in sums.iter_mut().zip(w) {
                    sums[token] = _mm256_add_epi16(sums[token], _mm256_maddubs_epi16(w, x));
                }
            }
        }
    }
    black_box(sums);
    16
}

/// Four products summed in 32 bits in one instruction, on the registers of AVX2.
#[target_feature(enable = "avx2,avxvnni")]
fn avxvnni(probe: &DotProbe, rounds: u32) -> usize {
    let mut sums = [[_mm256_setzero_si256(); TOKENS]; 2];
    for _ in 0..rounds {
        let probe = black_box(probe);
        for (w, x) in probe.weights.iter().zip(&probe.activations) {
            // SAFETY: two registers are 64 of the row's bytes.
            let w = [0, 32].map(|at| unsafe { _mm256_loadu_si256(w[at..at + 32].as_ptr().cast()) });
            for (token, x) in x.iter().enumerate() {
                let x = _mm256_set1_epi32(lane(*x));
                for (sums, w) in sums.iter_mut().zip(w) {
                    sums[token] = _mm256_dpbusd_avx_epi32(sums[token], w, x);
                }
            }
        }
    }
    black_box(sums);
    16
}

/// The same on registers of twice the size, of which there are twice as many.
#[target_feature(enable = "avx512f,avx512vnni")]
fn avx512(probe: &DotProbe, rounds: u32) -> usize {
    let mut sums = [[_mm512_setzero_si512(); TOKENS]; 4];
    for _ in 0..rounds {
        let probe = black_box(probe);
        for (w, x) in probe.weights.iter().zip(&probe.activations) {
            // SAFETY: four registers are the row's 256 bytes.
            let w = [0, 64, 128, 192]
                .map(|at| unsafe { _mm512_loadu_si512(w[at..at + 64].as_ptr().cast()) });
            for (token, x) in x.iter().enumerate() {
                let x = _mm512_set1_epi32(lane(*x));
                for (sums, w) in sums.iter_mut().zip(w) {
                    sums[token] = _mm512_dpbusd_epi32(sums[token], w, x);
                }
            }
        }
    }
    black_box(sums);
    64
}
