//! How likely the next token of a draft is the one that will be drawn, learnt from what was drawn.

/// Lengths of matches that are told apart: 2, 3, 4 to 7, 8 to 15, and longer ones.
const CLASSES: usize = 5;
/// What is assumed of each class before anything was seen.
const ASSUMED: [f64; CLASSES] = [0.15, 0.3, 0.5, 0.7, 0.85];
/// Tokens that the assumption weighs as much as.
const ASSUMED_WEIGHT: f64 = 8.0;
/// Tokens, of all sequences, that weigh as much as all before them.
const MEMORY_ALL: f64 = 256.0;
/// As that, of one sequence.
const MEMORY_OWN: f64 = 24.0;
/// Tokens of a sequence that what is known of all sequences weighs as much as.
const ALL_WEIGHT: f64 = 4.0;

/// Hits and tries by class, the old ones counting less and less.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    tries: [f64; CLASSES],
    hits: [f64; CLASSES],
}

impl Tally {
    fn observe(&mut self, class: usize, (is_hit, memory): (bool, f64)) {
        let keep = 1.0 - 1.0 / memory;
        self.tries[class] = self.tries[class] * keep + 1.0;
        self.hits[class] = self.hits[class] * keep + f64::from(u8::from(is_hit));
    }

    /// The share of hits, if `share` of `weight` tries more had been hits.
    fn share(&self, class: usize, (share, weight): (f64, f64)) -> f64 {
        (self.hits[class] + share * weight) / (self.tries[class] + weight)
    }
}

/// What was seen of all sequences together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acceptance(Tally);

impl Acceptance {
    /// Takes in that the token after a match of `match_len` tokens was, or was not, what was drawn.
    pub(crate) fn observe(&mut self, own: &mut Tally, match_len: usize, is_hit: bool) {
        let class = class(match_len);
        self.0.observe(class, (is_hit, MEMORY_ALL));
        own.observe(class, (is_hit, MEMORY_OWN));
    }

    /// The probability that the token after a match of `match_len` tokens will be drawn, for a sequence
    /// of which `own` was seen.
    pub(crate) fn probability(&self, own: &Tally, match_len: usize) -> f64 {
        let class = class(match_len);
        let all = self.0.share(class, (ASSUMED[class], ASSUMED_WEIGHT));
        own.share(class, (all, ALL_WEIGHT))
    }
}

fn class(match_len: usize) -> usize {
    match match_len {
        ..=2 => 0,
        3 => 1,
        4..=7 => 2,
        8..=15 => 3,
        16.. => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_assumed_gives_way_to_what_was_seen() {
        let (mut all, mut own) = (Acceptance::default(), Tally::default());
        assert!((all.probability(&own, 3) - ASSUMED[1]).abs() < 1e-9);
        for _ in 0..100 {
            all.observe(&mut own, 3, true);
        }
        assert!(all.probability(&own, 3) > 0.95);
        assert!((all.probability(&own, 2) - ASSUMED[0]).abs() < 1e-9);
        let other = Tally::default();
        assert!(all.probability(&other, 3) > 0.9, "it is known of all");
        for _ in 0..50 {
            all.observe(&mut own, 3, false);
        }
        let (here, elsewhere) = (all.probability(&own, 3), all.probability(&other, 3));
        assert!(here < 0.2 && elsewhere > here + 0.3, "{here} {elsewhere}");
    }

    #[test]
    fn probabilities_stay_between_none_and_all() {
        let (mut all, mut own) = (Acceptance::default(), Tally::default());
        for step in 0..1000_usize {
            all.observe(&mut own, step % 40, step % 3 == 0);
            let found = all.probability(&own, step % 40);
            assert!(found > 0.0 && found < 1.0);
        }
    }
}
