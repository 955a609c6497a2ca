//! How likely the next token of a draft is the one that will be drawn, learnt from what was drawn.

/// Kinds of guesses that are told apart, from the vaguest to the surest.
const CLASSES: usize = 5;
/// What is assumed of lookups before anything was seen: matches of 2 tokens, 3, 4 to 7, 8 to 15, and more.
const LOOKUPS: [f64; CLASSES] = [0.15, 0.3, 0.5, 0.7, 0.85];
/// What is assumed of the draft model, by how sure it is.
const MODEL: [f64; CLASSES] = [0.35, 0.5, 0.65, 0.8, 0.9];
/// By how many nats its first choice is before the second, at least, to be of the next class.
const MARGINS: [f32; CLASSES - 1] = [0.5, 1.0, 2.0, 4.0];
/// What is assumed of the draft model before it has said anything.
const MODEL_SHARE: f64 = 0.65;
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

/// How sure a guess is, among those from the same source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(usize);

impl Class {
    /// The token after a match of so many tokens.
    pub(crate) fn of_match(len: usize) -> Self {
        Self(match len {
            ..=2 => 0,
            3 => 1,
            4..=7 => 2,
            8..=15 => 3,
            16.. => 4,
        })
    }

    /// A token whose logit was so much above the next one's.
    pub(crate) fn of_margin(margin: f32) -> Self {
        Self(MARGINS.iter().filter(|least| margin >= **least).count())
    }
}

impl Tally {
    fn observe(&mut self, Class(class): Class, (is_hit, memory): (bool, f64)) {
        let keep = 1.0 - 1.0 / memory;
        self.tries[class] = self.tries[class] * keep + 1.0;
        self.hits[class] = self.hits[class] * keep + f64::from(u8::from(is_hit));
    }

    /// The share of hits, if `share` of `weight` tries more had been hits.
    fn share(&self, Class(class): Class, (share, weight): (f64, f64)) -> f64 {
        (self.hits[class] + share * weight) / (self.tries[class] + weight)
    }

    /// As that, of all classes together.
    fn share_of_all(&self, (share, weight): (f64, f64)) -> f64 {
        let [hits, tries] = [self.hits, self.tries].map(|counts| counts.iter().sum::<f64>());
        (hits + share * weight) / (tries + weight)
    }
}

/// What was seen of all sequences together, of guesses from one source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acceptance {
    seen: Tally,
    assumed: [f64; CLASSES],
}

impl Acceptance {
    /// Nothing was seen of lookups.
    pub(crate) fn of_lookups() -> Self {
        let (seen, assumed) = (Tally::default(), LOOKUPS);
        Self { seen, assumed }
    }

    /// Nothing was seen of the draft model.
    pub(crate) fn of_model() -> Self {
        let (seen, assumed) = (Tally::default(), MODEL);
        Self { seen, assumed }
    }

    /// Takes in that a guess was, or was not, what was drawn.
    pub(crate) fn observe(&mut self, own: &mut Tally, class: Class, is_hit: bool) {
        self.seen.observe(class, (is_hit, MEMORY_ALL));
        own.observe(class, (is_hit, MEMORY_OWN));
    }

    /// The probability that a guess will be drawn, for a sequence of which `own` was seen.
    pub(crate) fn probability(&self, own: &Tally, class: Class) -> f64 {
        let all = self
            .seen
            .share(class, (self.assumed[class.0], ASSUMED_WEIGHT));
        own.share(class, (all, ALL_WEIGHT))
    }

    /// The same of the draft model's next guess, before it is made.
    pub(crate) fn model_share(&self, own: &Tally) -> f64 {
        let all = self.seen.share_of_all((MODEL_SHARE, ASSUMED_WEIGHT));
        own.share_of_all((all, ALL_WEIGHT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_assumed_gives_way_to_what_was_seen() {
        let (mut all, mut own) = (Acceptance::of_lookups(), Tally::default());
        let [two, three] = [2, 3].map(Class::of_match);
        assert!((all.probability(&own, three) - LOOKUPS[1]).abs() < 1e-9);
        for _ in 0..100 {
            all.observe(&mut own, three, true);
        }
        assert!(all.probability(&own, three) > 0.95);
        assert!((all.probability(&own, two) - LOOKUPS[0]).abs() < 1e-9);
        let other = Tally::default();
        assert!(all.probability(&other, three) > 0.9, "it is known of all");
        for _ in 0..50 {
            all.observe(&mut own, three, false);
        }
        let (here, elsewhere) = (all.probability(&own, three), all.probability(&other, three));
        assert!(here < 0.2 && elsewhere > here + 0.3, "{here} {elsewhere}");
    }

    #[test]
    fn probabilities_stay_between_none_and_all() {
        for mut all in [Acceptance::of_lookups(), Acceptance::of_model()] {
            let mut own = Tally::default();
            for step in 0..1000_usize {
                let class = Class::of_match(step % 40);
                all.observe(&mut own, class, step % 3 == 0);
                for found in [all.probability(&own, class), all.model_share(&own)] {
                    assert!(found > 0.0 && found < 1.0);
                }
            }
        }
    }

    #[test]
    fn a_model_is_asked_by_what_became_of_all_its_guesses() {
        let (mut all, mut own) = (Acceptance::of_model(), Tally::default());
        assert!((all.model_share(&own) - MODEL_SHARE).abs() < 1e-9);
        for step in 0..200 {
            let margin = [0.1, 9.0][step % 2];
            all.observe(&mut own, Class::of_margin(margin), margin > 1.0);
        }
        assert!((all.model_share(&own) - 0.5).abs() < 0.1);
        assert!(all.probability(&own, Class::of_margin(0.0)) < 0.1);
        assert!(all.probability(&own, Class::of_margin(4.0)) > 0.9);
    }

    #[test]
    fn a_wider_margin_is_surer() {
        let classes = [0.0, 0.5, 1.9, 2.0, f32::INFINITY].map(|margin| Class::of_margin(margin).0);
        assert_eq!(classes, [0, 1, 2, 3, 4]);
        assert_eq!(Class::of_margin(f32::NAN).0, 0);
    }
}
