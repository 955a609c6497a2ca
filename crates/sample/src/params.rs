//! Sampling parameters: as given, and as checked.

use std::collections::BTreeSet;

use kvist_base::TokenId;

use crate::error::{Given, ParamError, ParamLimit};

/// Most entries `logit_bias` may have.
pub const LOGIT_BIAS_COUNT_MAX: usize = 1024;
/// Most alternatives a request may ask log-probabilities for.
pub const LOGPROBS_MAX: u32 = 20;
/// Most tokens a request may name to be drawn from.
pub const ALLOWED_TOKENS_MAX: usize = 4096;
/// Most spellings of bad words a request may have.
pub const BAD_WORDS_MAX: usize = 256;
/// Longest spelling of a bad word, in tokens.
pub const BAD_WORD_TOKENS_MAX: usize = 32;
/// Most tokens a request may name to have their log-probabilities reported.
pub const LOGPROB_TOKENS_MAX: usize = 128;
/// Temperatures below this are greedy. It is vLLM's bound: at 1e-5 a lead of one thousandth in
/// the logits already makes the runner-up e^100 times less likely.
const GREEDY_BELOW: f32 = 1e-5;

/// Sampling parameters as a request gives them. The default is the OpenAI API's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingSpec {
    /// Divides the logits; 0 is greedy. 0..=2.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 is off. Among equals the lowest ids are kept.
    pub top_k: u32,
    /// Keep the fewest most likely tokens whose probabilities reach `top_p`. Above 0, 1 is off.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the most likely one. 0..=1, 0 is off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or the output.
    /// Above 0 and at most 2, 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the output. -2..=2.
    pub presence_penalty: f32,
    /// Subtracted once for each time the token is in the output. -2..=2.
    pub frequency_penalty: f32,
    /// Selects the stream of random numbers.
    pub seed: u64,
    /// Added to the logits of these tokens. -100..=100 each.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Tokens that may be drawn; none named: all.
    pub allowed_tokens: Vec<TokenId>,
    /// Runs of tokens that may not come to be in the output: the last token of one is masked where
    /// the output ends with the others.
    pub bad_words: Vec<Vec<TokenId>>,
    /// `Some(n)`: report the sampled token's log-probability and the `n` most likely tokens.
    pub logprobs: Option<u32>,
    /// With `logprobs`: report these tokens instead of the most likely ones.
    pub logprob_tokens: Vec<TokenId>,
    /// Output tokens before any of `end_tokens` may be drawn.
    pub min_tokens: u32,
    /// Tokens that end the output.
    pub end_tokens: Vec<TokenId>,
}

impl Default for SamplingSpec {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            logit_bias: Vec::new(),
            allowed_tokens: Vec::new(),
            bad_words: Vec::new(),
            logprobs: None,
            logprob_tokens: Vec::new(),
            min_tokens: 0,
            end_tokens: Vec::new(),
        }
    }
}

/// Sampling parameters that passed every check for a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    spec: SamplingSpec,
    vocab_len: usize,
}

impl SamplingParams {
    /// Checks every field against its range and every token id against `vocab_len`.
    pub fn new(spec: SamplingSpec, vocab_len: usize) -> Result<Self, ParamError> {
        let between = |min, max| ParamLimit::Between { min, max };
        let positive = |max| ParamLimit::PositiveUpTo { max };
        check_number("temperature", spec.temperature, between(0.0, 2.0))?;
        check_number("top_p", spec.top_p, positive(1.0))?;
        check_number("min_p", spec.min_p, between(0.0, 1.0))?;
        check_number("repetition_penalty", spec.repetition_penalty, positive(2.0))?;
        check_number(
            "presence_penalty",
            spec.presence_penalty,
            between(-2.0, 2.0),
        )?;
        check_number(
            "frequency_penalty",
            spec.frequency_penalty,
            between(-2.0, 2.0),
        )?;
        ParamError::check_logprobs("logprobs", spec.logprobs)?;
        let bias_count = spec.logit_bias.len() as u64;
        check_count("logit_bias", bias_count, LOGIT_BIAS_COUNT_MAX as u64)?;
        for &(token, bias) in &spec.logit_bias {
            check_token("logit_bias", token, vocab_len)?;
            check_number("logit_bias", bias, between(-100.0, 100.0))?;
        }
        for &token in &spec.end_tokens {
            check_token("end_tokens", token, vocab_len)?;
        }
        check_tokens(
            "allowed_token_ids",
            &spec.allowed_tokens,
            ALLOWED_TOKENS_MAX,
            vocab_len,
        )?;
        check_tokens(
            "logprob_token_ids",
            &spec.logprob_tokens,
            LOGPROB_TOKENS_MAX,
            vocab_len,
        )?;
        check_count(
            "bad_words",
            spec.bad_words.len() as u64,
            BAD_WORDS_MAX as u64,
        )?;
        for word in &spec.bad_words {
            check_tokens("bad_words", word, BAD_WORD_TOKENS_MAX, vocab_len)?;
        }
        check_some_left(&spec, vocab_len)?;
        Ok(Self { spec, vocab_len })
    }

    /// The parameters as they were given.
    pub fn spec(&self) -> &SamplingSpec {
        &self.spec
    }

    /// Length of the rows these parameters were checked for.
    pub fn vocab_len(&self) -> usize {
        self.vocab_len
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.spec.temperature < GREEDY_BELOW
    }

    /// Whether any penalty is on.
    pub(crate) fn has_penalties(&self) -> bool {
        self.spec.repetition_penalty != 1.0
            || self.spec.presence_penalty != 0.0
            || self.spec.frequency_penalty != 0.0
    }
}

/// NaN and the infinities are outside every range.
fn check_number(field: &'static str, value: f32, limit: ParamLimit) -> Result<(), ParamError> {
    let allowed = match limit {
        ParamLimit::Between { min, max } => (min..=max).contains(&value),
        ParamLimit::PositiveUpTo { max } => value > 0.0 && value <= max,
        ParamLimit::EntriesMax(_) | ParamLimit::TokenBelow(_) | ParamLimit::SomeLeft => false,
    };
    if allowed {
        Ok(())
    } else {
        Err(ParamError {
            field,
            limit,
            given: Given::Number(value),
        })
    }
}

fn check_count(field: &'static str, count: u64, max: u64) -> Result<(), ParamError> {
    if count <= max {
        return Ok(());
    }
    Err(ParamError {
        field,
        limit: ParamLimit::EntriesMax(max),
        given: Given::Count(count),
    })
}

fn check_token(field: &'static str, token: TokenId, vocab_len: usize) -> Result<(), ParamError> {
    if token.idx() < vocab_len {
        return Ok(());
    }
    let limit = ParamLimit::TokenBelow(vocab_len as u64);
    Err(ParamError {
        field,
        limit,
        given: Given::Count(token.0.into()),
    })
}

impl ParamError {
    /// Refuses to report more than [`LOGPROBS_MAX`] of the likeliest tokens.
    ///
    /// # Errors
    /// Names `field`.
    pub fn check_logprobs(field: &'static str, count: Option<u32>) -> Result<(), Self> {
        check_count(field, count.unwrap_or(0).into(), LOGPROBS_MAX.into())
    }
}

fn check_tokens(
    field: &'static str,
    tokens: &[TokenId],
    max: usize,
    vocab_len: usize,
) -> Result<(), ParamError> {
    check_count(field, tokens.len() as u64, max as u64)?;
    tokens
        .iter()
        .try_for_each(|&token| check_token(field, token, vocab_len))
}

/// Refuses masks that together could leave nothing to draw, whatever comes. What may be masked at
/// some place is taken to be masked at all of them.
fn check_some_left(spec: &SamplingSpec, vocab_len: usize) -> Result<(), ParamError> {
    if spec.allowed_tokens.is_empty() && spec.bad_words.is_empty() {
        return Ok(());
    }
    let mut masked: BTreeSet<TokenId> = spec
        .bad_words
        .iter()
        .filter_map(|word| word.last())
        .copied()
        .collect();
    if spec.min_tokens > 0 {
        masked.extend(&spec.end_tokens);
    }
    let is_left = match spec.allowed_tokens.as_slice() {
        [] => masked.len() < vocab_len,
        allowed => allowed.iter().any(|token| !masked.contains(token)),
    };
    if is_left {
        return Ok(());
    }
    Err(ParamError {
        field: "allowed_token_ids",
        limit: ParamLimit::SomeLeft,
        given: Given::Count(spec.allowed_tokens.len() as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB_LEN: usize = 10;

    fn refusal(edit: impl FnOnce(&mut SamplingSpec)) -> Option<ParamError> {
        let mut spec = SamplingSpec::default();
        edit(&mut spec);
        SamplingParams::new(spec, VOCAB_LEN).err()
    }

    #[test]
    fn every_range_has_its_two_ends() {
        type Set = fn(&mut SamplingSpec, f32);
        let above_two = 2.0f32.next_up();
        let above_one = 1.0f32.next_up();
        let fields: [(&str, Set, [f32; 2], [f32; 2]); 7] = [
            (
                "temperature",
                |s, v| s.temperature = v,
                [0.0, 2.0],
                [-1e-9, above_two],
            ),
            ("top_p", |s, v| s.top_p = v, [1e-30, 1.0], [0.0, above_one]),
            ("min_p", |s, v| s.min_p = v, [0.0, 1.0], [-1e-9, above_one]),
            (
                "repetition_penalty",
                |s, v| s.repetition_penalty = v,
                [1e-30, 2.0],
                [0.0, above_two],
            ),
            (
                "presence_penalty",
                |s, v| s.presence_penalty = v,
                [-2.0, 2.0],
                [-2.1, above_two],
            ),
            (
                "frequency_penalty",
                |s, v| s.frequency_penalty = v,
                [-2.0, 2.0],
                [-2.1, above_two],
            ),
            (
                "logit_bias",
                |s, v| s.logit_bias = vec![(TokenId(3), v)],
                [-100.0, 100.0],
                [-100.1, 100.1],
            ),
        ];
        for (field, set, allowed, refused) in fields {
            for value in allowed {
                assert_eq!(refusal(|s| set(s, value)), None, "{field} = {value}");
            }
            for value in [
                refused[0],
                refused[1],
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
            ] {
                let err = refusal(|s| set(s, value)).unwrap();
                assert_eq!(err.field, field, "{field} = {value}");
                assert_eq!(format!("{}", err.given), format!("{value}"));
            }
        }
    }

    #[test]
    fn counts_and_tokens_are_bounded() {
        let bias = |count: usize, token: u32| {
            refusal(move |s| s.logit_bias = vec![(TokenId(token), 1.0); count])
        };
        assert_eq!(bias(1024, 9), None);
        assert_eq!(
            bias(1025, 9).unwrap().to_string(),
            "logit_bias must be at most 1024, but is 1025"
        );
        assert_eq!(
            bias(1, 10).unwrap().to_string(),
            "logit_bias must be a token id below 10, but is 10"
        );
        assert_eq!(refusal(|s| s.logprobs = Some(20)), None);
        assert_eq!(
            refusal(|s| s.logprobs = Some(21)).unwrap().given,
            Given::Count(21)
        );
        assert_eq!(
            refusal(|s| s.end_tokens = vec![TokenId(10)]).unwrap().field,
            "end_tokens"
        );
    }

    #[test]
    fn named_tokens_are_bounded_and_leave_something_to_draw() {
        let ids = |ids: &[u32]| ids.iter().copied().map(TokenId).collect::<Vec<_>>();
        type Set = fn(&mut SamplingSpec, Vec<TokenId>);
        let lists: [(&str, usize, Set); 3] = [
            ("allowed_token_ids", 4096, |s, v| s.allowed_tokens = v),
            ("logprob_token_ids", 128, |s, v| s.logprob_tokens = v),
            ("bad_words", 32, |s, v| s.bad_words = vec![v]),
        ];
        for (field, max, set) in lists {
            assert_eq!(refusal(|s| set(s, vec![TokenId(9); max])), None);
            for bad in [vec![TokenId(9); max + 1], ids(&[10])] {
                assert_eq!(refusal(|s| set(s, bad)).unwrap().field, field);
            }
        }
        let words = |count| refusal(|s| s.bad_words = vec![vec![TokenId(1), TokenId(2)]; count]);
        assert_eq!(words(256), None);
        assert_eq!(words(257).unwrap().given, Given::Count(257));

        let masks = |allowed: &[u32], bad: &[&[u32]], ends: &[u32], min_tokens| {
            let spec = SamplingSpec {
                allowed_tokens: ids(allowed),
                bad_words: bad.iter().map(|word| ids(word)).collect(),
                end_tokens: ids(ends),
                min_tokens,
                ..SamplingSpec::default()
            };
            SamplingParams::new(spec, VOCAB_LEN).err()
        };
        assert_eq!(masks(&[4, 5], &[&[5]], &[], 0), None);
        assert_eq!(masks(&[4, 5], &[&[5]], &[4], 0), None);
        for refused in [
            masks(&[4, 5], &[&[5]], &[4], 1),
            masks(&[4, 5], &[&[5], &[9, 4]], &[], 0),
            masks(&[4], &[&[4, 4]], &[], 0),
            masks(&[], &[&[0], &[1], &[2], &[3], &[4]], &[5, 6, 7, 8, 9], 1),
        ] {
            let error = refused.unwrap();
            assert_eq!(error.field, "allowed_token_ids", "{error}");
        }
    }

    #[test]
    fn a_message_names_field_limit_and_given() {
        let err = refusal(|s| s.temperature = 2.5).unwrap();
        assert_eq!(
            err.to_string(),
            "temperature must be between 0 and 2, but is 2.5"
        );
        let err = refusal(|s| s.top_p = 0.0).unwrap();
        assert_eq!(
            err.to_string(),
            "top_p must be above 0 and at most 1, but is 0"
        );
    }
}
