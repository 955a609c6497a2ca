//! Slow f64 versions of the kernels, straight from the formulas: the oracle of tests here and in
//! other crates. Not for use in the engine.

use crate::RopeStyle;

/// `out = x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f64]) {
    let squares: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let rms = (squares / x.len() as f64 + f64::from(eps)).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = f64::from(x) / rms * f64::from(weight);
    }
}

/// `out = gate / (1 + e^-gate) * up`.
pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f64]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = f64::from(gate) / (1.0 + (-f64::from(gate)).exp()) * f64::from(up);
    }
}

/// Turns the first `2 * inv_freq.len()` values of each head by `position * inv_freq`.
pub fn rope_row(
    head_dim: usize,
    style: RopeStyle,
    (position, inv_freq): (u32, &[f32]),
    row: &mut [f64],
) {
    for head in row.chunks_exact_mut(head_dim) {
        for (i, &freq) in inv_freq.iter().enumerate() {
            let (sin, cos) = (f64::from(position) * f64::from(freq)).sin_cos();
            let (a, b) = match style {
                RopeStyle::Pairs => (2 * i, 2 * i + 1),
                RopeStyle::Halves => (i, i + inv_freq.len()),
            };
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
        }
    }
}

/// One query head over contiguous keys and values (`[positions][head_dim]` each):
/// `out = softmax(scale * K q) V`.
pub fn attention(q: &[f32], keys: &[f32], values: &[f32], scale: f32, out: &mut [f64]) {
    let head_dim = q.len();
    let score = |key: &[f32]| -> f64 {
        let dot: f64 = q
            .iter()
            .zip(key)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum();
        dot * f64::from(scale)
    };
    let scores: Vec<f64> = keys.chunks_exact(head_dim).map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    out.fill(0.0);
    for (value, weight) in values.chunks_exact(head_dim).zip(&weights) {
        for (out, &v) in out.iter_mut().zip(value) {
            *out += weight / total * f64::from(v);
        }
    }
}

/// `out[t][r] = sum over k of weights[r][k] * x[t][k]`; both operands have rows of `cols`.
pub fn matmul(weights: &[f32], x: &[f32], cols: usize, out: &mut [f64]) {
    let rows = weights.len() / cols;
    for (token, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(rows)) {
        for (row, out) in weights.chunks_exact(cols).zip(out) {
            *out = row
                .iter()
                .zip(token)
                .map(|(&w, &x)| f64::from(w) * f64::from(x))
                .sum();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kvist_base::mix64;

    /// `len` pseudo-random values in `-1..1`.
    pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
        let value = |n: u64| {
            let bits = mix64(mix64(seed).wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            (bits >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (1..=len as u64).map(value).collect()
    }

    /// Equality of bits, any NaN equal to any other: a payload depends on operand order, which
    /// compilers may change.
    pub(crate) fn same_bits(a: &[f32], b: &[f32]) -> bool {
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        a.len() == b.len() && a.iter().zip(b).all(same)
    }

    #[test]
    fn attention_by_hand() {
        let mut out = [0.0; 1];
        // Scores 0 and ln 3: weights 1/4 and 3/4.
        attention(&[1.0], &[0.0, 3f32.ln()], &[8.0, 16.0], 1.0, &mut out);
        assert!((out[0] - 14.0).abs() < 1e-6);
    }

    #[test]
    fn matmul_by_hand() {
        let mut out = [0.0; 4];
        matmul(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0, 1.0, 1.0], 2, &mut out);
        assert_eq!(out, [1.0, 3.0, 3.0, 7.0]);
    }
}
