//! Passes over a row of logits.

use std::cmp::Ordering;

use kvist_base::TokenId;

use crate::error::SampleFault;

/// Values compared side by side, so that the compiler can use vector instructions.
const LANES: usize = 16;
/// Values per run. The best run is searched again for the index, from the nearest cache.
const RUN_LEN: usize = 1024;
/// Values that are passed over together when none of them is large enough.
const SKIP_LEN: usize = 64;
/// Least number of candidates that gather beyond those that are wanted.
const SPARE_MIN: usize = 64;

/// One token still in play, and its place in the order: larger logit first, then lower id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Unnormalised probability; 0 until computed.
    pub weight: f64,
    pub logit: f32,
    pub idx: u32,
}

impl Candidate {
    /// A candidate whose weight is not computed yet. A vocabulary index fits `TokenId`'s 32 bits.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn new(idx: usize, logit: f32) -> Self {
        Self {
            weight: 0.0,
            logit,
            idx: idx as u32,
        }
    }

    pub(crate) fn token(&self) -> TokenId {
        TokenId(self.idx)
    }

    /// The order of preference, by which every selection has one answer. The two zeros are
    /// equal, and a NaN never gets past `peak`.
    pub(crate) fn rank(&self, other: &Self) -> Ordering {
        let by_logit = other
            .logit
            .partial_cmp(&self.logit)
            .unwrap_or(Ordering::Equal);
        by_logit.then(self.idx.cmp(&other.idx))
    }
}

/// The largest logit and where it is first found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Peak {
    pub idx: usize,
    pub logit: f32,
}

/// Finds the largest logit, the lowest index among equals, and checks every value on the way.
/// -infinity is a masked token.
pub(crate) fn peak(row: &[f32]) -> Result<Peak, SampleFault> {
    let mut best = f32::NEG_INFINITY;
    let mut best_run = 0;
    for (run_idx, run) in row.chunks(RUN_LEN).enumerate() {
        let (run_max, clean) = run_peak(run);
        if !clean {
            return Err(first_non_finite(row, run_idx * RUN_LEN));
        }
        if run_max > best {
            best = run_max;
            best_run = run_idx * RUN_LEN;
        }
    }
    let offset = row[best_run..].iter().position(|&logit| logit == best);
    match offset {
        Some(offset) if best > f32::NEG_INFINITY => Ok(Peak {
            idx: best_run + offset,
            logit: best,
        }),
        _ => Err(SampleFault::NothingAllowed),
    }
}

/// The largest value of a run, and whether all are numbers below +infinity.
fn run_peak(run: &[f32]) -> (f32, bool) {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut clean = [1u32; LANES];
    let (groups, rest) = run.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            let logit = group[lane];
            max[lane] = if logit > max[lane] { logit } else { max[lane] };
            clean[lane] &= u32::from(logit < f32::INFINITY);
        }
    }
    for (lane, &logit) in rest.iter().enumerate() {
        max[lane] = if logit > max[lane] { logit } else { max[lane] };
        clean[lane] &= u32::from(logit < f32::INFINITY);
    }
    (
        max.into_iter().fold(f32::NEG_INFINITY, f32::max),
        clean == [1; LANES],
    )
}

#[cold]
fn first_non_finite(row: &[f32], start: usize) -> SampleFault {
    let is_bad = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
    let offset = row[start..]
        .iter()
        .position(is_bad)
        .expect("the run was found to hold one");
    SampleFault::NonFinite {
        index: start + offset,
        value: row[start + offset],
    }
}

/// Replaces `out` by the candidates with logits of at least `floor`, in order of their ids.
pub(crate) fn admitted(row: &[f32], floor: f64, out: &mut Vec<Candidate>) {
    out.clear();
    let bar = bar_of(floor);
    for_each_run(row, |start, run| {
        if reaches(run, bar) {
            let all = run.iter().enumerate().filter(|&(_, &logit)| logit >= bar);
            out.extend(all.map(|(offset, &logit)| Candidate::new(start + offset, logit)));
        }
    });
}

/// Replaces `out` by the `count` best candidates with logits of at least `floor`, best first.
///
/// One pass. Candidates gather until there are a good many more than wanted; then the best stay,
/// and from there on only what beats the last of them is worth a look. Most runs hold nothing of
/// the kind, which a few vector instructions tell.
pub(crate) fn shortlist(row: &[f32], count: usize, floor: f64, out: &mut Vec<Candidate>) {
    out.clear();
    if count == 0 {
        return;
    }
    let gathered_max = count.saturating_add(count.max(SPARE_MIN));
    let mut bar = bar_of(floor);
    for_each_run(row, |start, run| {
        if !reaches(run, bar) {
            return;
        }
        for (offset, &logit) in run.iter().enumerate() {
            if logit < bar {
                continue;
            }
            out.push(Candidate::new(start + offset, logit));
            if out.len() == gathered_max {
                keep_best(out, count);
                // An equal logit would come after it: its id is higher.
                bar = bar.max(out[count - 1].logit.next_up());
            }
        }
    });
    keep_best(out, count);
    out.sort_unstable_by(Candidate::rank);
}

/// Keeps the `count` best; the last of them comes last.
fn keep_best(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, Candidate::rank);
        candidates.truncate(count);
    }
}

/// The smallest f32 that is at least `floor`.
fn bar_of(floor: f64) -> f32 {
    #[allow(clippy::cast_possible_truncation)] // put right below
    let near = floor as f32;
    if f64::from(near) < floor {
        near.next_up()
    } else {
        near
    }
}

/// Hands out the row in runs with the index of their first logit.
fn for_each_run(row: &[f32], mut each: impl FnMut(usize, &[f32])) {
    for (idx, run) in row.chunks(SKIP_LEN).enumerate() {
        each(idx * SKIP_LEN, run);
    }
}

/// Whether a logit of the run is at least `bar`.
fn reaches(run: &[f32], bar: f32) -> bool {
    let mut found = [0u32; LANES];
    let (groups, rest) = run.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            found[lane] |= u32::from(group[lane] >= bar);
        }
    }
    found != [0; LANES] || rest.iter().any(|&logit| logit >= bar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvist_base::mix64;

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        (0..len as u64)
            .map(|i| (mix64(seed ^ (i << 8)) >> 44) as f32 / 65_536.0 - 8.0)
            .collect()
    }

    #[test]
    fn the_peak_is_the_first_largest_at_every_length() {
        for len in [1, 2, 15, 16, 17, 1023, 1024, 1025, 2048, 5000] {
            let row = noise(len, len as u64);
            let naive = (0..len)
                .reduce(|a, b| if row[b] > row[a] { b } else { a })
                .unwrap();
            assert_eq!(
                peak(&row),
                Ok(Peak {
                    idx: naive,
                    logit: row[naive]
                }),
                "length {len}"
            );
        }
    }

    #[test]
    fn equal_logits_go_to_the_lowest_index() {
        let mut row = vec![0.0f32; 3000];
        for idx in [2999, 2047, 1030, 1029] {
            row[idx] = 1.0;
            assert_eq!(peak(&row).unwrap().idx, idx);
        }
        assert_eq!(peak(&[-0.0, 0.0]).unwrap().idx, 0);
        assert_eq!(peak(&[0.0, -0.0]).unwrap().idx, 0);
    }

    #[test]
    fn faults_name_the_first_bad_value() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
            for idx in [0, 15, 16, 1023, 1024, 2500, 2999] {
                let mut row = noise(3000, 5);
                row[idx] = bad;
                row[2999] = f32::NAN;
                match peak(&row) {
                    Err(SampleFault::NonFinite { index, value }) => {
                        assert_eq!(index, idx);
                        assert_eq!(value.is_nan(), row[idx].is_nan());
                    }
                    other => panic!("{bad} at {idx} gave {other:?}"),
                }
            }
        }
        assert_eq!(
            peak(&[f32::NEG_INFINITY; 40]),
            Err(SampleFault::NothingAllowed)
        );
        assert_eq!(peak(&[]), Err(SampleFault::NothingAllowed));
    }

    #[test]
    fn the_shortlist_is_the_head_of_a_full_sort() {
        let mut row = noise(2000, 9);
        for idx in (0..2000).step_by(3) {
            row[idx] = row[idx].round(); // many ties
        }
        let mut sorted: Vec<_> = row
            .iter()
            .enumerate()
            .map(|(i, &l)| Candidate::new(i, l))
            .collect();
        sorted.sort_by(Candidate::rank);
        let mut out = Vec::new();
        for count in [0, 1, 2, 20, 64, 2000, 3000] {
            shortlist(&row, count, f64::NEG_INFINITY, &mut out);
            assert!(out == sorted[..count.min(2000)], "{count} best");
        }
        shortlist(&row, 2000, 7.0, &mut out);
        assert_eq!(out.len(), row.iter().filter(|&&l| l >= 7.0).count());
    }
}
