//! Whether it pays to ask the draft model, and for how many tokens.
//!
//! A guess costs a step of the draft model, which is over before it is known what the guess is worth, so
//! that has to be expected: a sequence whose guesses hold with probability `a` brings `a + a^2 + ... +
//! a^k` tokens more for `k` steps of the draft model and `k` rows of the served one's step.

use super::length::{GAIN_MIN, Plain};
use super::times::StepTimes;

/// What can be expected of the draft model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Prospect {
    /// How many tokens to ask for; 0: it does not pay.
    pub(crate) rounds: u32,
    /// Seconds saved for each token that the engine says.
    pub(crate) saved: f64,
}

/// A step as far as drafts have got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoFar {
    /// Tokens it is expected to bring.
    pub(crate) tokens: f64,
    /// Its rows.
    pub(crate) rows: u32,
    /// Seconds the draft model has taken.
    pub(crate) seconds: f64,
}

/// What steps of both models take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook<'a> {
    pub(crate) plain: Plain,
    pub(crate) served: &'a StepTimes,
    pub(crate) draft: &'a StepTimes,
}

impl Outlook<'_> {
    /// The number of guesses for each of `count` sequences, at most `rounds_max`, that makes the most tokens
    /// a second, where their next guesses hold with the probabilities `shares`. Nothing, where it is not
    /// known yet what the draft model takes; `None`, where even the served model's steps are not measured.
    pub(crate) fn best(
        &self,
        (shares, count): (impl Iterator<Item = f64> + Clone, u32),
        rounds_max: u32,
    ) -> Option<Prospect> {
        let sequences = f64::from(self.plain.sequences);
        let without = sequences / self.served.seconds(sequences)?;
        let mut best = Prospect::default();
        let Some(each) = self.draft.seconds(f64::from(count)) else {
            return Some(best);
        };
        let (mut tokens, mut best_rate) = (sequences, without * GAIN_MIN);
        for round in 1..=rounds_max {
            let power = i32::try_from(round).unwrap_or(i32::MAX);
            tokens += shares.clone().map(|share| share.powi(power)).sum::<f64>();
            let rows = (f64::from(count) * f64::from(round)).min(f64::from(self.plain.draft_max));
            let seconds = self.served.seconds(sequences + rows)? + each * f64::from(round);
            let rate = tokens / seconds;
            if rate > best_rate {
                best_rate = rate;
                best = Prospect {
                    rounds: round,
                    saved: 1.0 / without - 1.0 / rate,
                };
            }
        }
        Some(best)
    }

    /// Whether a sequence that has said `said` tokens is worth the `missing` rows that have to be computed
    /// before it can be guessed for: it is expected to say as much again.
    pub(crate) fn is_worth_catching_up(&self, (missing, said): (u32, u32), saved: f64) -> bool {
        let seconds = |rows: u32| self.draft.seconds(f64::from(rows)).unwrap_or(0.0);
        f64::from(said) * saved >= seconds(missing) - seconds(1)
    }

    /// Whether one more guess for each of `count` sequences, expected to bring `gain` tokens, makes more
    /// tokens a second than to leave it.
    pub(crate) fn pays_to_go_on(&self, so_far: SoFar, (gain, count): (f64, u32)) -> bool {
        let rows = f64::from(so_far.rows);
        let more = rows + f64::from(count);
        let (Some(now), Some(then)) = (self.served.seconds(rows), self.served.seconds(more)) else {
            return false;
        };
        let Some(draft) = self.draft.seconds(f64::from(count)) else {
            return false;
        };
        let rate = so_far.tokens / (now + so_far.seconds);
        (so_far.tokens + gain) / (then + so_far.seconds + draft) > rate
    }
}

/// Steps between two attempts with a draft model that did not pay, at first, and at most.
const GAP: (u32, u32) = (32, 1024);

/// When to ask a draft model that does not pay, to see whether it would by now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Probe {
    /// Steps to wait.
    gap: u32,
    waited: u32,
}

impl Probe {
    /// Another step in which it was not asked; true if it is time to. Until [`Self::done`] it is.
    pub(crate) fn is_due(&mut self) -> bool {
        self.waited = self.waited.saturating_add(1);
        self.waited > self.gap
    }

    /// It was asked: the next time is twice as long away.
    pub(crate) fn done(&mut self) {
        self.waited = 0;
        self.gap = (self.gap * 2).clamp(GAP.0, GAP.1);
    }

    /// It pays.
    pub(crate) fn pays(&mut self) {
        self.waited = 0;
        self.gap = GAP.0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::times::linear as times;
    use super::*;

    fn outlook<'a>(sequences: u32, served: &'a StepTimes, draft: &'a StepTimes) -> Outlook<'a> {
        let plain = Plain {
            sequences,
            draft_max: 16,
        };
        Outlook {
            plain,
            served,
            draft,
        }
    }

    fn rounds(share: f64, sequences: u32, (served, draft): (&StepTimes, &StepTimes)) -> u32 {
        let shares = std::iter::repeat_n(share, sequences as usize);
        let best = outlook(sequences, served, draft).best((shares, sequences), 8);
        best.unwrap().rounds
    }

    #[test]
    fn a_small_model_that_is_right_is_asked_for_more() {
        let both = (&times(50.0, 1.0), &times(4.0, 0.1));
        let asked = [0.05, 0.5, 0.8, 0.99].map(|share| rounds(share, 1, both));
        assert_eq!(asked[0], 0);
        assert!(
            asked.is_sorted() && asked[1] > 0 && asked[3] == 8,
            "{asked:?}"
        );
    }

    #[test]
    fn a_model_as_slow_as_the_served_one_is_never_asked() {
        let served = times(50.0, 1.0);
        assert_eq!(rounds(0.99, 1, (&served, &served)), 0);
    }

    #[test]
    fn nothing_is_expected_of_what_was_not_measured() {
        let (served, unknown) = (times(50.0, 1.0), StepTimes::default());
        assert_eq!(rounds(0.9, 1, (&served, &unknown)), 0);
        let shares = std::iter::once(0.9);
        assert_eq!(outlook(1, &unknown, &served).best((shares, 1), 8), None);
    }

    #[test]
    fn a_long_prompt_is_caught_up_with_when_the_output_is_long_too() {
        let (served, draft) = (times(50.0, 1.0), times(4.0, 0.5));
        let outlook = outlook(1, &served, &draft);
        let best = outlook.best((std::iter::once(0.8), 1), 8).unwrap();
        assert!(best.saved > 0.01, "{best:?}");
        assert!(outlook.is_worth_catching_up((1, 0), best.saved));
        assert!(!outlook.is_worth_catching_up((2000, 5), best.saved));
        assert!(outlook.is_worth_catching_up((2000, 100), best.saved));
    }

    #[test]
    fn a_guess_that_is_in_doubt_ends_a_draft() {
        let (served, draft) = (times(50.0, 1.0), times(4.0, 0.1));
        let so_far = SoFar {
            tokens: 1.8,
            rows: 2,
            seconds: 0.004,
        };
        let goes_on = |gain| outlook(1, &served, &draft).pays_to_go_on(so_far, (gain, 1));
        assert!(goes_on(0.7) && !goes_on(0.05));
    }

    #[test]
    fn a_model_that_does_not_pay_is_asked_ever_more_seldom() {
        let mut probe = Probe::default();
        assert!(
            probe.is_due() && probe.is_due(),
            "at once, until it is done"
        );
        let mut waits = Vec::new();
        for _ in 0..8 {
            probe.done();
            let wait = (1..).take_while(|_| !probe.is_due()).count();
            waits.push(wait);
        }
        assert_eq!(waits, [32, 64, 128, 256, 512, 1024, 1024, 1024]);
        probe.pays();
        assert_eq!((1..).take_while(|_| !probe.is_due()).count(), 32);
    }
}
