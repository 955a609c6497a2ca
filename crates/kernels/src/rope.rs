//! Rotary position embedding (Su et al. 2021).

use crate::Isa;
use crate::lanes::{self, Kernel, Lanes};

/// Which two values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `(2i, 2i + 1)`: as in the paper; ggml calls it normal.
    Pairs,
    /// `(i, i + rope_dim / 2)`: as in GPT-NeoX.
    Halves,
}

/// The rotation of one position: `rope_dim / 2` cosines and sines.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Which values turn together.
    pub style: RopeStyle,
    /// Cosine of each frequency's angle.
    pub cos: &'a [f32],
    /// Sine of each frequency's angle.
    pub sin: &'a [f32],
}

/// Cosines and sines of `position * inv_freq`, one of each a frequency.
///
/// The angle is taken in f64: far into a long context an f32 angle is off by more than the
/// difference between neighbouring positions of the slow frequencies.
///
/// # Panics
/// When the lengths differ.
pub fn rope_angles(position: u32, inv_freq: &[f32], cos: &mut [f32], sin: &mut [f32]) {
    assert_eq!(inv_freq.len(), cos.len());
    assert_eq!(inv_freq.len(), sin.len());
    for ((&freq, cos), sin) in inv_freq.iter().zip(cos).zip(sin) {
        let (s, c) = (f64::from(position) * f64::from(freq)).sin_cos();
        #[allow(clippy::cast_possible_truncation)] // rounding to f32 is meant
        let rounded = (c as f32, s as f32);
        (*cos, *sin) = rounded;
    }
}

/// Turns each head of one row in place. The first `rope_dim = 2 * cos.len()` values of a head
/// turn, the rest stay.
///
/// # Panics
/// When the row is not whole heads, `cos` and `sin` differ in length, or `rope_dim` is beyond
/// `head_dim`.
pub fn rope_row(isa: Isa, head_dim: usize, rotation: Rotation<'_>, row: &mut [f32]) {
    assert!(
        head_dim > 0 && row.len().is_multiple_of(head_dim),
        "a row is whole heads"
    );
    assert_eq!(rotation.cos.len(), rotation.sin.len());
    assert!(
        2 * rotation.cos.len() <= head_dim,
        "no more turns than a head has values"
    );
    lanes::run(
        isa,
        RopeRow {
            head_dim,
            rotation,
            row,
        },
    );
}

struct RopeRow<'a> {
    head_dim: usize,
    rotation: Rotation<'a>,
    row: &'a mut [f32],
}

impl Kernel for RopeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Rotation { style, cos, sin } = self.rotation;
        let half = cos.len();
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let turning = &mut head[..2 * half];
            match style {
                RopeStyle::Pairs => {
                    let (pairs, _) = turning.as_chunks_mut::<2>();
                    for (([x, y], &c), &s) in pairs.iter_mut().zip(cos).zip(sin) {
                        (*x, *y) = turn(*x, *y, c, s);
                    }
                }
                RopeStyle::Halves => {
                    let (first, second) = turning.split_at_mut(half);
                    for (((x, y), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        (*x, *y) = turn(*x, *y, c, s);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turn(x: f32, y: f32, cos: f32, sin: f32) -> (f32, f32) {
    (x.mul_add(cos, -(y * sin)), x.mul_add(sin, y * cos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::naive::tests::{same_bits, values};

    fn frequencies(rope_dim: usize) -> Vec<f32> {
        (0..rope_dim / 2)
            .map(|i| 1e4f32.powf(-2.0 * i as f32 / rope_dim as f32))
            .collect()
    }

    #[test]
    fn a_quarter_turn_by_hand() {
        let (mut cos, mut sin) = ([0.0; 2], [0.0; 2]);
        rope_angles(1, &[std::f32::consts::FRAC_PI_2; 2], &mut cos, &mut sin);
        let quarter = |style| Rotation {
            style,
            cos: &cos,
            sin: &sin,
        };
        let mut row = [1.0, 2.0, 3.0, 4.0];
        rope_row(Isa::SCALAR, 4, quarter(RopeStyle::Pairs), &mut row);
        let near = |row: &[f32], expected: [f32; 4]| {
            row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
        };
        assert!(near(&row, [-2.0, 1.0, -4.0, 3.0]), "{row:?}");
        let mut row = [1.0, 2.0, 3.0, 4.0];
        rope_row(Isa::SCALAR, 4, quarter(RopeStyle::Halves), &mut row);
        assert!(near(&row, [-3.0, -4.0, 1.0, 2.0]), "{row:?}");
    }

    #[test]
    fn near_the_oracle_and_the_same_on_every_tier() {
        let shapes = [
            (2, 2),
            (16, 16),
            (64, 64),
            (80, 80),
            (96, 48),
            (128, 128),
            (20, 14),
        ];
        for (head_dim, rope_dim) in shapes {
            for style in [RopeStyle::Pairs, RopeStyle::Halves] {
                for position in [0, 1, 511, 100_000, u32::MAX] {
                    check(head_dim, &frequencies(rope_dim), style, position);
                }
            }
        }
    }

    fn check(head_dim: usize, inv_freq: &[f32], style: RopeStyle, position: u32) {
        let row = values(7, 3 * head_dim);
        let mut expected: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        naive::rope_row(head_dim, style, (position, inv_freq), &mut expected);
        let mut cos = vec![0.0; inv_freq.len()];
        let mut sin = cos.clone();
        rope_angles(position, inv_freq, &mut cos, &mut sin);
        let rotation = Rotation {
            style,
            cos: &cos,
            sin: &sin,
        };
        let mut scalar = row.clone();
        rope_row(Isa::SCALAR, head_dim, rotation, &mut scalar);
        for (got, exact) in scalar.iter().zip(&expected) {
            // Values are below 1: cosine, sine, a product and a sum round once each.
            let error = (f64::from(*got) - exact).abs();
            assert!(
                error <= 4.0 * f64::from(f32::EPSILON),
                "{got} for {exact} at {position}"
            );
        }
        for isa in Isa::available() {
            let mut turned = row.clone();
            rope_row(isa, head_dim, rotation, &mut turned);
            assert!(
                same_bits(&turned, &scalar),
                "{isa} {head_dim} {style:?} {position}"
            );
        }
    }
}
