//! How much of each draft to compute: as much as makes the most tokens a second.
//!
//! A draft's tokens are drawn one after another, so token `j` counts with the product of the
//! probabilities up to it. A step of `S` sequences with the `k` likeliest draft tokens of all is
//! expected to bring `S + q1 + ... + qk` tokens, and takes what its `rows + k` rows take. Products fall
//! along a draft, so the `k` likeliest are beginnings of drafts.

use super::times::StepTimes;

/// Drafts that promise less than this many times what a step without them does are left out: a
/// promise is a guess, and what is sure is better than a little more that is not.
pub(crate) const GAIN_MIN: f64 = 1.04;

/// A token of a draft.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Promise {
    /// Whose draft, by its place in the list of drafts.
    pub(crate) draft: usize,
    /// The probability that it is drawn, and all before it.
    pub(crate) probability: f64,
}

/// What a step would be without drafts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    /// Sequences that get a token.
    pub(crate) sequences: u32,
    /// Rows of logits there are for drafts.
    pub(crate) draft_max: u32,
}

/// How many of the promises to take: they are put in order, the likeliest first.
pub(crate) fn choose(promises: &mut [Promise], plain: Plain, times: &StepTimes) -> usize {
    promises.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let rows = f64::from(plain.sequences);
    let Some(seconds) = times.seconds(rows) else {
        return 0;
    };
    let without = rows / seconds;
    let (mut best, mut best_rate) = (0, without * GAIN_MIN);
    let (mut tokens, mut width) = (rows, rows);
    for (idx, promise) in promises.iter().take(plain.draft_max as usize).enumerate() {
        tokens += promise.probability;
        width += 1.0;
        let Some(seconds) = times.seconds(width) else {
            break;
        };
        if tokens / seconds > best_rate {
            (best, best_rate) = (idx + 1, tokens / seconds);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::times::linear as times;
    use super::*;

    fn promises(probability: f64, drafts: usize) -> Vec<Promise> {
        let of_draft = |draft| {
            (1..=16).map(move |place| Promise {
                draft,
                probability: probability.powi(place),
            })
        };
        (0..drafts).flat_map(of_draft).collect()
    }

    fn chosen(probability: f64, sequences: u32, times: &StepTimes) -> usize {
        let plain = Plain {
            sequences,
            draft_max: 16,
        };
        choose(&mut promises(probability, sequences as usize), plain, times)
    }

    #[test]
    fn the_likelier_the_longer() {
        let times = times(9.0, 1.0);
        let lens: Vec<usize> = [0.05, 0.3, 0.6, 0.9, 0.99]
            .map(|probability| chosen(probability, 1, &times))
            .to_vec();
        assert_eq!(lens[0], 0);
        assert!(lens.is_sorted() && lens[1] > 0, "{lens:?}");
        assert_eq!(lens[4], 16);
    }

    #[test]
    fn rows_that_cost_as_much_as_steps_do_not_pay() {
        assert_eq!(chosen(0.95, 1, &times(0.0, 1.0)), 0);
    }

    #[test]
    fn a_full_batch_wants_surer_drafts_than_one_sequence() {
        let times = times(9.0, 1.0);
        assert!(chosen(0.5, 1, &times) > 0);
        assert_eq!(chosen(0.5, 16, &times), 0);
        assert!(chosen(0.97, 16, &times) > 0);
    }

    #[test]
    fn without_measurements_nothing_is_risked() {
        assert_eq!(chosen(0.99, 1, &StepTimes::default()), 0);
    }

    #[test]
    fn the_surest_drafts_come_first_and_from_their_beginning() {
        let mut promises = [promises(0.5, 1), promises(0.9, 1)].concat();
        for promise in &mut promises[16..] {
            promise.draft = 1;
        }
        let plain = Plain {
            sequences: 2,
            draft_max: 4,
        };
        let count = choose(&mut promises, plain, &times(9.0, 0.1));
        let drafts: Vec<usize> = promises[..count].iter().map(|p| p.draft).collect();
        assert_eq!(drafts, [1, 1, 1, 1]);
    }
}
