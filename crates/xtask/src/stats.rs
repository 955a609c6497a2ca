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
}
