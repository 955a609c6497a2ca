//! Element by element: SiLU gating.

use crate::Isa;
use crate::exp::exp;
use crate::lanes::{self, Kernel, Lanes};

/// `gate = silu(gate) * up` with `silu(g) = g / (1 + e^-g)`; in place, since the gate is not
/// wanted again.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    lanes::run(isa, SiluMul { gate, up });
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for (gate, &up) in self.gate.iter_mut().zip(self.up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::naive::tests::{same_bits, values};

    const LENGTHS: [usize; 9] = [0, 1, 7, 8, 9, 31, 32, 33, 1537];

    #[test]
    fn silu_is_near_the_oracle_and_the_same_on_every_tier() {
        for len in LENGTHS {
            let gate: Vec<f32> = values(1, len).iter().map(|v| v * 30.0).collect();
            let up = values(2, len);
            let mut expected = vec![0.0; len];
            naive::silu_mul(&gate, &up, &mut expected);
            let mut scalar = gate.clone();
            silu_mul(Isa::SCALAR, &mut scalar, &up);
            for (got, exact) in scalar.iter().zip(&expected) {
                // exp is off by less than one ulp; then a sum, a quotient and a product.
                let error = (f64::from(*got) - exact).abs();
                assert!(
                    error <= 3.0 * f64::from(f32::EPSILON) * exact.abs(),
                    "{got} for {exact}"
                );
            }
            for isa in Isa::available() {
                let mut out = gate.clone();
                silu_mul(isa, &mut out, &up);
                assert!(same_bits(&out, &scalar), "{isa} at length {len}");
            }
        }
    }

    #[test]
    fn silu_of_extremes() {
        let gate = [
            0.0,
            200.0,
            -200.0,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NAN,
        ];
        for isa in Isa::available() {
            let mut out = gate;
            silu_mul(isa, &mut out, &[1.0; 7]);
            assert_eq!(out[..6], [0.0, 200.0, 0.0, f32::MAX, 0.0, f32::INFINITY]);
            assert!(out[6].is_nan());
        }
    }
}
