//! `e^x` with the same bits everywhere: only additions, fused multiply-adds and integer shifts.

/// Below this the result, less than 2^-124, is taken for zero.
pub(crate) const EXP_MIN: f32 = -86.6;
/// Above this the result is beyond f32.
const EXP_MAX: f32 = 88.722_83;

/// Adding it leaves the nearest integer (ties to even) in the low bits of the sum.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
const LN2_HIGH: f32 = std::f32::consts::LN_2;
const LN2_LOW: f32 = -1.904_654_3e-9; // ln 2 - LN2_HIGH

/// `(e^r - 1 - r) / r^2` for `|r| <= ln(2) / 2`, lowest power first: the polynomial with the least
/// greatest relative error in `e^r` (found with the Remez exchange in 50 digits).
const TAIL: [f32; 5] = [
    0.499_999_94,
    0.166_665_21,
    0.041_668_393,
    0.008_368_727,
    0.001_381_427_7,
];

/// `e^x`. Off by at most 1.01 units in the last place on `EXP_MIN..=EXP_MAX`;
/// zero below, infinite above, NaN for NaN; exactly 1 at 0.
///
/// Free of branches and inlined, so a loop over it becomes vector code with unchanged bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r, so e^x = 2^n e^r
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let [c2, c3, c4, c5, c6] = TAIL;
    let tail = c6
        .mul_add(r, c5)
        .mul_add(r, c4)
        .mul_add(r, c3)
        .mul_add(r, c2);
    let e_r = (r * r).mul_add(tail, r) + 1.0;
    // 2^(n - 1), built in the exponent field: 2^n itself overflows for the largest x. `ROUND` has
    // nine zero bits at the bottom, so the shift leaves n - 1 + 127 alone.
    let half_scale = f32::from_bits(shifted.to_bits().wrapping_add(126) << 23);
    let half = e_r * half_scale;
    let y = half + half;
    let y = if x < EXP_MIN { 0.0 } else { y };
    if x > EXP_MAX { f32::INFINITY } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the header of [`exp`] promises.
    const ULP_MAX: f64 = 1.01;

    #[test]
    fn error_is_below_its_bound() {
        let mut worst = (0.0f64, 0.0f32);
        let steps = 2_000_000u32;
        for step in 0..=steps {
            let x = (EXP_MIN + (EXP_MAX - EXP_MIN) * (step as f32 / steps as f32)).min(EXP_MAX);
            let exact = f64::from(x).exp();
            #[allow(clippy::cast_possible_truncation)] // an exponent
            let exponent = exact.log2().floor() as i32;
            // The spacing of f32 values around the exact result.
            let ulp = 2.0f64.powi(exponent - 23);
            let error = (f64::from(exp(x)) - exact).abs() / ulp;
            if error > worst.0 {
                worst = (error, x);
            }
        }
        println!("worst error: {} ulp at {}", worst.0, worst.1);
        assert!(worst.0 <= ULP_MAX, "{} ulp at {}", worst.0, worst.1);
    }

    #[test]
    fn extremes() {
        assert_eq!(exp(0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(-0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(-1e30).to_bits(), 0);
        assert_eq!(exp(EXP_MIN - 0.01).to_bits(), 0);
        assert!(exp(EXP_MIN) > 0.0);
        assert!(exp(88.72).is_finite() && exp(EXP_MAX) > 3.4e38);
        assert_eq!(exp(88.73), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::MAX), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
