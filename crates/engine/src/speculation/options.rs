//! What an operator may say about speculation.

use kvist_base::Tokens;
use thiserror::Error;

use super::ngram::MATCH_MIN;

/// How drafts are found, and how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// Who decides how much of a draft is computed.
    pub length: DraftLength,
    /// Most tokens of one draft.
    pub tokens_max: Tokens,
    /// Most draft tokens of one step, of all sequences together.
    pub step_max: Tokens,
    /// Fewest known tokens that must agree with an earlier place for it to be gone on from.
    pub match_min: usize,
    /// Most tokens that are compared to choose among such places.
    pub match_max: usize,
}

/// Who decides how much of a draft is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DraftLength {
    /// The engine: as much as makes the most tokens a second, as measured, and nothing where that is
    /// none.
    Adaptive,
    /// As much as there is.
    Fixed,
}

/// Options that make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{field} must be between {min} and {max}, not {given}")]
pub struct SpeculationError {
    /// The option.
    pub field: &'static str,
    /// The least it may be.
    pub min: u64,
    /// The most.
    pub max: u64,
    /// What it is.
    pub given: u64,
}

/// Most tokens a draft may have.
const TOKENS_MAX: u64 = 64;
/// Longest match that may be asked for.
const MATCH_MAX: u64 = 64;
/// Draft tokens of a step, of all sequences together, unless one draft may have more.
const STEP_TOKENS: Tokens = Tokens(16);
/// Tokens compared unless told otherwise.
const MATCH_DEFAULT: usize = 32;

impl Speculation {
    /// Drafts whose length the engine decides on.
    pub const fn adaptive() -> Self {
        Self {
            length: DraftLength::Adaptive,
            tokens_max: STEP_TOKENS,
            step_max: STEP_TOKENS,
            match_min: MATCH_MIN,
            match_max: MATCH_DEFAULT,
        }
    }

    /// Drafts of `tokens_max` tokens wherever something is found, after matches of `match_min` to
    /// `match_max` tokens.
    ///
    /// # Errors
    /// A number is out of range.
    pub fn fixed(
        tokens_max: u32,
        (match_min, match_max): (Option<u32>, Option<u32>),
    ) -> Result<Self, SpeculationError> {
        let least = MATCH_MIN as u64;
        let match_max = match_max.map_or(MATCH_DEFAULT as u64, u64::from);
        let match_min = match_min.map_or(least.min(match_max), u64::from);
        for (field, given, (min, max)) in [
            (
                "num_speculative_tokens",
                u64::from(tokens_max),
                (1, TOKENS_MAX),
            ),
            ("prompt_lookup_max", match_max, (least, MATCH_MAX)),
            ("prompt_lookup_min", match_min, (least, match_max)),
        ] {
            if !(min..=max).contains(&given) {
                return Err(SpeculationError {
                    field,
                    min,
                    max,
                    given,
                });
            }
        }
        let tokens_max = Tokens(tokens_max);
        // Both are at most `MATCH_MAX`.
        let narrow = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        Ok(Self {
            length: DraftLength::Fixed,
            tokens_max,
            step_max: tokens_max.max(STEP_TOKENS),
            match_min: narrow(match_min),
            match_max: narrow(match_max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let refused = |tokens, lookup| {
            let error = Speculation::fixed(tokens, lookup).unwrap_err();
            (error.field, error.given)
        };
        assert_eq!(refused(0, (None, None)), ("num_speculative_tokens", 0));
        assert_eq!(refused(65, (None, None)), ("num_speculative_tokens", 65));
        assert_eq!(refused(5, (None, Some(1))), ("prompt_lookup_max", 1));
        assert_eq!(refused(5, (Some(1), None)), ("prompt_lookup_min", 1));
        assert_eq!(refused(5, (Some(5), Some(4))), ("prompt_lookup_min", 5));
        let error = Speculation::fixed(5, (Some(5), Some(4))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "prompt_lookup_min must be between 2 and 4, not 5"
        );
    }

    #[test]
    fn a_step_has_room_for_the_longest_draft() {
        let long = Speculation::fixed(40, (None, None)).unwrap();
        assert_eq!((long.tokens_max, long.step_max), (Tokens(40), Tokens(40)));
        let short = Speculation::fixed(3, (Some(3), Some(4))).unwrap();
        assert_eq!((short.tokens_max, short.step_max), (Tokens(3), Tokens(16)));
        assert_eq!((short.match_min, short.match_max), (3, 4));
    }
}
