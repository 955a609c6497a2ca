//! Root mean square normalisation.

use crate::Isa;
use crate::lanes::{self, Kernel, Lanes, padded};

/// `out = x / sqrt(mean(x^2) + eps) * weight` for one row.
///
/// # Panics
/// When the three rows differ in length, or are empty.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(!x.is_empty(), "a row has a mean");
    assert_eq!(x.len(), weight.len());
    assert_eq!(x.len(), out.len());
    lanes::run(
        isa,
        RmsNorm {
            x,
            weight,
            eps,
            out,
        },
    );
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        #[allow(clippy::cast_precision_loss)] // rows are far shorter than 2^24
        let mean = square_sum(lanes, self.x) / self.x.len() as f32;
        let scale = 1.0 / (mean + self.eps).sqrt();
        for ((out, &x), &weight) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = x * scale * weight;
        }
    }
}

/// Four chains of eight lanes, by position modulo 32, so that additions overlap.
#[inline(always)]
fn square_sum<L: Lanes>(lanes: L, x: &[f32]) -> f32 {
    let mut chains = [lanes.splat(0.0); 4];
    let (octs, tail) = x.as_chunks::<8>();
    let (quads, rest) = octs.as_chunks::<4>();
    for quad in quads {
        for (chain, oct) in chains.iter_mut().zip(quad) {
            let v = lanes.load(oct);
            *chain = lanes.fma(v, v, *chain);
        }
    }
    for (chain, oct) in chains.iter_mut().zip(rest) {
        let v = lanes.load(oct);
        *chain = lanes.fma(v, v, *chain);
    }
    let v = lanes.load(&padded(tail));
    chains[3] = lanes.fma(v, v, chains[3]);
    let [a, b, c, d] = lanes.sum4(chains);
    (a + b) + (c + d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::naive::tests::{same_bits, values};

    #[test]
    fn by_hand() {
        let mut out = [0.0; 2];
        rms_norm(Isa::SCALAR, &[3.0, -4.0], &[1.0, 2.0], 0.0, &mut out);
        let rms = 12.5f32.sqrt();
        assert!((out[0] - 3.0 / rms).abs() < 1e-6 && (out[1] + 8.0 / rms).abs() < 1e-6);
    }

    #[test]
    fn near_the_oracle_and_the_same_on_every_tier() {
        for len in [1, 2, 7, 8, 9, 31, 32, 33, 40, 63, 64, 65, 576, 896, 1537] {
            let (x, weight) = (values(1, len), values(2, len));
            let mut expected = vec![0.0; len];
            naive::rms_norm(&x, &weight, 1e-5, &mut expected);
            let mut scalar = vec![0.0; len];
            rms_norm(Isa::SCALAR, &x, &weight, 1e-5, &mut scalar);
            // A chain adds len / 32 squares, the scale and each product round a few times.
            let relative = f64::from(f32::EPSILON) * (len as f64 / 64.0 + 8.0);
            for (got, exact) in scalar.iter().zip(&expected) {
                let error = (f64::from(*got) - exact).abs();
                assert!(
                    error <= relative * exact.abs(),
                    "length {len}: {got} for {exact}"
                );
            }
            for isa in Isa::available() {
                let mut out = vec![0.0; len];
                rms_norm(isa, &x, &weight, 1e-5, &mut out);
                assert!(same_bits(&out, &scalar), "{isa} at length {len}");
            }
        }
    }

    #[test]
    fn not_a_number_is_not_hidden() {
        for isa in Isa::available() {
            let mut x = values(3, 50);
            x[49] = f32::NAN;
            let mut out = vec![0.0; 50];
            rms_norm(isa, &x, &values(4, 50), 1e-5, &mut out);
            assert!(out.iter().all(|v| v.is_nan()));
        }
    }
}
