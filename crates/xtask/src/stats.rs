//! Numbers of several runs as one.

/// The middle value, or the mean of the two in the middle; not a number when there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (half, is_odd) = (sorted.len() / 2, sorted.len() % 2 == 1);
    match sorted.len() {
        0 => f64::NAN,
        _ if is_odd => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The distance from the least to the greatest value, as a part of the median.
pub fn spread(values: &[f64]) -> f64 {
    let (least, greatest) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| {
            (a.min(*value), b.max(*value))
        });
    (greatest - least) / median(values)
}

/// The least value that at least `percent` of all are not above; not a number when there are none.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// The slope of the line with the least squared distance from the points (x, y); not a number when
/// they do not define one.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    #[allow(clippy::cast_precision_loss)] // a few thousand samples
    let count = points.len() as f64;
    let mean = |axis: fn(&(f64, f64)) -> f64| points.iter().map(axis).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let (mut products, mut squares) = (0.0, 0.0);
    for (x, y) in points {
        products += (x - x_mean) * (y - y_mean);
        squares += (x - x_mean).powi(2);
    }
    products / squares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads_by_hand() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(close(spread(&[1.0, 2.0, 4.0]), 1.5));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentiles_by_hand() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        let of = |percent| percentile(&values, percent);
        assert_eq!(
            [of(0), of(20), of(50), of(90), of(100)],
            [1.0, 1.0, 3.0, 5.0, 5.0]
        );
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn a_slope_ignores_what_is_symmetric_about_the_line() {
        let line: Vec<_> = (0..10)
            .map(|x| (f64::from(x), 3.0 - 2.0 * f64::from(x)))
            .collect();
        assert!((slope(&line) + 2.0).abs() < 1e-12);
        assert!((slope(&[(0.0, 1.0), (0.0, -1.0), (2.0, 5.0), (2.0, 3.0)]) - 2.0).abs() < 1e-12);
        assert!(slope(&[(1.0, 1.0)]).is_nan());
    }
}
