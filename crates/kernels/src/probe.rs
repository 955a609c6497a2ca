//! What the arithmetic of a tier comes to at best: the ceiling that products are held against.

use std::hint::black_box;

use crate::Isa;
use crate::isa::Tier;

/// Groups of four k that a probe's operands hold: a few KiB, so that they never leave the
/// first-level cache.
pub(crate) const GROUPS: usize = 16;
/// Activation rows of a register tile.
pub(crate) const TOKENS: usize = 6;
/// Weight rows of a register tile; no tier's tile has more.
pub(crate) const ROWS_MAX: usize = 64;

/// Operands of the probe: bytes as panels and activations hold them, four k of a row together.
#[repr(align(64))]
#[derive(Debug)]
pub struct DotProbe {
    /// `[k / 4][row][k % 4]`.
    pub(crate) weights: [[u8; 4 * ROWS_MAX]; GROUPS],
    /// `[k / 4][token][k % 4]`.
    pub(crate) activations: [[[i8; 4]; TOKENS]; GROUPS],
}

impl Default for DotProbe {
    fn default() -> Self {
        Self {
            weights: [[15; 4 * ROWS_MAX]; GROUPS],
            activations: [[[-127; 4]; TOKENS]; GROUPS],
        }
    }
}

impl DotProbe {
    /// Multiplies one register tile of bytes, in cache, as often as asked: dot products with nothing
    /// around them, in the instructions of `isa`'s kernels. Returns how many additions and
    /// multiplications that was.
    pub fn run(&self, isa: Isa, rounds: u32) -> u64 {
        let rows = match isa.tier() {
            Tier::Scalar => self.scalar(rounds),
            // What the compiler makes of the plain loop: a lower bound of the ceiling.
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => self.scalar(rounds),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 | Tier::AvxVnni(_) | Tier::Avx512 => {
                crate::arch::x86_probe::run(isa, self, rounds)
            }
        };
        let products = rows * TOKENS * GROUPS * 4;
        2 * products as u64 * u64::from(rounds)
    }

    /// Returns the rows of its tile, as the other tiers' probes do.
    fn scalar(&self, rounds: u32) -> usize {
        const ROWS: usize = 4;
        let mut sums = [[0i32; TOKENS]; ROWS];
        for _ in 0..rounds {
            let Self {
                weights,
                activations,
            } = black_box(self);
            for (w, x) in weights.iter().zip(activations) {
                for (sums, w) in sums.iter_mut().zip(w.chunks_exact(4)) {
                    for (sum, x) in sums.iter_mut().zip(x) {
                        let products = w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x));
                        *sum = sum.wrapping_add(products.sum());
                    }
                }
            }
        }
        black_box(sums);
        ROWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_counts_the_operations_of_whole_tiles() {
        for isa in Isa::available() {
            let probe = DotProbe::default();
            let once = probe.run(isa, 1);
            let tile = (2 * 4 * TOKENS * GROUPS) as u64;
            assert!(once >= tile && once.is_multiple_of(tile), "{isa}");
            assert_eq!(probe.run(isa, 7), 7 * once, "{isa}");
        }
    }
}
