//! The filters beside the plain way to do it: sort everything.
#![allow(clippy::cast_possible_truncation)] // test rows are short

use kvist_base::mix64;

use super::*;
use crate::params::SamplingSpec;
use crate::row::peak;

/// What [`filter`] promises, with whole rows sorted.
fn sorted(row: &[f32], params: &SamplingParams) -> (Vec<Candidate>, f64) {
    let spec = params.spec();
    let top = peak(row).unwrap();
    let temperature = f64::from(spec.temperature);
    let reach = f64::from(spec.min_p).ln().max(-negligible(row.len()));
    let floor = f64::from(top.logit) + reach * temperature;
    let mut out: Vec<Candidate> = row
        .iter()
        .enumerate()
        .filter(|&(_, &logit)| f64::from(logit) >= floor)
        .map(|(idx, &logit)| Candidate::new(idx, logit))
        .collect();
    let top_k = match spec.top_k {
        0 => row.len(),
        top_k => top_k as usize,
    };
    if top_k <= 64 || top_k < row.len() {
        out.sort_by(Candidate::rank);
        out.truncate(top_k);
    }
    let mut total = 0.0;
    for candidate in &mut out {
        let distance = f64::from(candidate.logit) - f64::from(top.logit);
        candidate.weight = (distance / temperature).exp();
        total += candidate.weight;
    }
    if spec.top_p < 1.0 {
        let mass = f64::from(spec.top_p) * total;
        out.sort_by(Candidate::rank);
        total = 0.0;
        let mut len = 0;
        for candidate in &out {
            total += candidate.weight;
            len += 1;
            if total >= mass {
                break;
            }
        }
        out.truncate(len);
    }
    (out, total)
}

/// Rows like a model's and unlike any: bell-shaped, flat, full of ties, falling, rising, masked.
fn row(len: usize, seed: u64) -> Vec<f32> {
    let uniform = |idx: usize, salt: u64| {
        let bits = mix64(seed ^ mix64(idx as u64 ^ salt << 40)) >> 40;
        bits as f32 / (1u64 << 24) as f32
    };
    let bell = |idx: usize| (0..6).map(|salt| uniform(idx, salt)).sum::<f32>() * 8.0 - 24.0;
    let logit = |idx: usize| match seed % 6 {
        0 => bell(idx),
        1 => uniform(idx, 0) * 0.01,
        2 => bell(idx).round(),
        3 => bell(idx) * 4.0,
        4 => idx as f32 * 0.01,
        _ if idx.is_multiple_of(3) && idx > 0 => f32::NEG_INFINITY,
        _ => -(idx as f32) * 0.003,
    };
    (0..len).map(logit).collect()
}

fn compare(row: &[f32], params: &SamplingParams) {
    let (expected, expected_total) = sorted(row, params);
    let mut found = Vec::new();
    let total = filter(row, peak(row).unwrap(), params, &mut found);
    let bits = |all: &[Candidate]| -> Vec<(u32, u32, u64)> {
        all.iter()
            .map(|each| (each.idx, each.logit.to_bits(), each.weight.to_bits()))
            .collect()
    };
    let spec = params.spec();
    let what = (
        spec.temperature,
        spec.top_k,
        spec.top_p,
        spec.min_p,
        row.len(),
    );
    assert_eq!(total.to_bits(), expected_total.to_bits(), "{what:?}");
    assert!(bits(&found) == bits(&expected), "{what:?}");
}

#[test]
fn filters_are_to_the_bit_those_of_a_full_sort() {
    for len in [1, 2, 5, 63, 64, 65, 300, 5000] {
        for seed in 0..6 {
            let row = row(len, seed);
            for temperature in [0.3, 1.0, 2.0] {
                for top_k in [0, 1, 2, 20, 64, 65, 200, 4999, 5000] {
                    for top_p in [1e-30, 0.5, 0.9, 0.999_999_9, 1.0] {
                        for min_p in [0.0, 1e-4, 0.3] {
                            let spec = SamplingSpec {
                                temperature,
                                top_k,
                                top_p,
                                min_p,
                                ..SamplingSpec::default()
                            };
                            compare(&row, &SamplingParams::new(spec, len).unwrap());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn filters_of_a_large_vocabulary_are_those_of_a_full_sort() {
    for seed in 0..3 {
        let row = row(152_064, seed);
        for (top_k, top_p, min_p) in [
            (0, 0.95, 0.0),
            (0, 1.0, 0.05),
            (20, 0.8, 0.0),
            (2000, 0.99, 0.0),
        ] {
            let spec = SamplingSpec {
                top_k,
                top_p,
                min_p,
                ..SamplingSpec::default()
            };
            compare(&row, &SamplingParams::new(spec, row.len()).unwrap());
        }
    }
}
