//! The draw.

use kvist_base::{TokenId, TokenSet};

use crate::error::SampleFault;
use crate::filter::filter;
use crate::logprob::{TokenLogprob, log_sum_exp, logprob, named_logprobs, top_logprobs};
use crate::mask::{copy_allowed, goes_on};
use crate::params::SamplingParams;
use crate::row::{Candidate, Peak, peak};
use crate::state::SamplerState;
use crate::uniform::uniform;

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// ln p of the token in the model's own distribution, when asked for.
    pub logprob: Option<f32>,
    /// When asked for: the `n` most likely tokens of the model's own distribution, best first,
    /// then the sampled token if it is not one of them; or the tokens that were named, in their order,
    /// in place of the most likely. Masked tokens are left out.
    pub top: Vec<TokenLogprob>,
}

/// What a row says of a token that is known to follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The token, and ln p of it in the model's own distribution.
    pub chosen: TokenLogprob,
    /// Its place among all tokens, the most likely one being at 1.
    pub rank: u32,
    /// The most likely tokens, best first.
    pub top: Vec<TokenLogprob>,
}

/// A token that may be drawn later on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    /// The token.
    pub token: TokenId,
    /// How far the row's largest logit is above the second, in nats: how sure the row is.
    pub margin: f32,
}

/// Turns rows into tokens. Owns scratch for one row and allocates nothing per draw except the
/// log-probabilities it returns.
#[derive(Debug)]
pub struct Sampler {
    vocab_len: usize,
    /// The row after masks, bias and penalties.
    edited: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for rows of `vocab_len` logits.
    pub fn new(vocab_len: usize) -> Self {
        assert!(
            u32::try_from(vocab_len).is_ok(),
            "token ids are 32 bits wide"
        );
        Self {
            vocab_len,
            edited: Vec::with_capacity(vocab_len),
            candidates: Vec::with_capacity(vocab_len),
        }
    }

    /// Draws the next token of a sequence from its `row` of logits (`[vocab_len]`) and records
    /// it in `state`. On a fault `state` is unchanged.
    pub fn draw(
        &mut self,
        row: &[f32],
        params: &SamplingParams,
        state: &mut SamplerState,
    ) -> Result<Sampled, SampleFault> {
        self.draw_among(row, None, params, state)
    }

    /// [`draw`](Self::draw) from the `allowed` tokens alone; from all without a set. The
    /// log-probabilities reported are those of the row as it is.
    pub fn draw_among(
        &mut self,
        row: &[f32],
        allowed: Option<&TokenSet>,
        params: &SamplingParams,
        state: &mut SamplerState,
    ) -> Result<Sampled, SampleFault> {
        assert_eq!(row.len(), self.vocab_len);
        assert_eq!(params.vocab_len(), self.vocab_len);
        let raw_peak = peak(row)?;
        let at = state.output_count();
        let token = self.choose((row, raw_peak), allowed, params, (state, at))?;
        let sampled = self.with_logprobs(row, raw_peak, params, token);
        state.record(token);
        Ok(sampled)
    }

    /// What `row` would give if it were drawn from after `ahead` tokens more, whichever they are: with
    /// the random number of that place, so that a row like the one that will be drawn from gives the
    /// same token. Records nothing.
    pub fn guess(
        &mut self,
        row: &[f32],
        params: &SamplingParams,
        (state, ahead): (&SamplerState, u32),
    ) -> Result<Guess, SampleFault> {
        assert_eq!(row.len(), self.vocab_len);
        assert_eq!(params.vocab_len(), self.vocab_len);
        let raw_peak = peak(row)?;
        let at = state.output_count().saturating_add(ahead);
        let token = self.choose((row, raw_peak), None, params, (state, at))?;
        let (before, after) = (&row[..raw_peak.idx], &row[raw_peak.idx + 1..]);
        let second = [before, after].map(|part| peak(part).map_or(f32::NEG_INFINITY, |p| p.logit));
        let margin = raw_peak.logit - second[0].max(second[1]);
        Ok(Guess { token, margin })
    }

    /// The token of output place `at`.
    fn choose(
        &mut self,
        (raw, raw_peak): (&[f32], Peak),
        allowed: Option<&TokenSet>,
        params: &SamplingParams,
        (state, at): (&SamplerState, u32),
    ) -> Result<TokenId, SampleFault> {
        let Self {
            edited, candidates, ..
        } = self;
        let (row, top) = if allowed.is_some() || needs_edits(params, at) {
            copy_allowed(raw, (allowed, &params.spec().allowed_tokens), edited);
            edit(edited, allowed, params, (state, at));
            (&edited[..], peak(edited)?)
        } else {
            (raw, raw_peak)
        };
        if params.is_greedy() {
            return Ok(Candidate::new(top.idx, top.logit).token());
        }
        let total = filter(row, top, params, candidates);
        let target = uniform(params.spec().seed, at) * total;
        Ok(pick(candidates, target).token())
    }

    /// What a `row` of logits (`[vocab_len]`) says of `token`, and its `count` most likely tokens.
    ///
    /// # Errors
    /// The row is not finite.
    pub fn score(
        &mut self,
        row: &[f32],
        token: TokenId,
        count: u32,
    ) -> Result<Scored, SampleFault> {
        assert_eq!(row.len(), self.vocab_len);
        let log_sum = log_sum_exp(row, peak(row)?);
        let own = Candidate::new(token.idx(), row[token.idx()]);
        let is_before = |&(idx, &logit): &(usize, &f32)| {
            Candidate::new(idx, logit).rank(&own) == std::cmp::Ordering::Less
        };
        let before = row.iter().enumerate().filter(is_before).count();
        Ok(Scored {
            chosen: TokenLogprob {
                token,
                logprob: logprob(own.logit, log_sum),
            },
            rank: u32::try_from(before + 1).expect("token ids are 32 bits wide"),
            top: top_logprobs(row, count, log_sum, &mut self.candidates),
        })
    }

    fn with_logprobs(
        &mut self,
        row: &[f32],
        raw_peak: Peak,
        params: &SamplingParams,
        token: TokenId,
    ) -> Sampled {
        let Some(count) = params.spec().logprobs else {
            return Sampled {
                token,
                logprob: None,
                top: Vec::new(),
            };
        };
        let log_sum = log_sum_exp(row, raw_peak);
        let own = TokenLogprob {
            token,
            logprob: logprob(row[token.idx()], log_sum),
        };
        let mut top = match params.spec().logprob_tokens.as_slice() {
            [] => top_logprobs(row, count, log_sum, &mut self.candidates),
            named => named_logprobs(row, named, log_sum),
        };
        if !top.iter().any(|entry| entry.token == token) {
            top.push(own);
        }
        Sampled {
            token,
            logprob: Some(own.logprob),
            top,
        }
    }
}

fn ends_are_masked(params: &SamplingParams, at: u32) -> bool {
    at < params.spec().min_tokens && !params.spec().end_tokens.is_empty()
}

fn needs_edits(params: &SamplingParams, at: u32) -> bool {
    let spec = params.spec();
    ends_are_masked(params, at)
        || !spec.logit_bias.is_empty()
        || !spec.allowed_tokens.is_empty()
        || !spec.bad_words.is_empty()
        || params.has_penalties()
}

/// Masks, bias and penalties. Touches only tokens that are named or seen, never the whole row.
fn edit(
    row: &mut [f32],
    allowed: Option<&TokenSet>,
    params: &SamplingParams,
    (state, at): (&SamplerState, u32),
) {
    let spec = params.spec();
    // A grammar that is at its end is not made to go on.
    let may_go_on = || {
        let goes_on = |allowed| goes_on(allowed, &spec.allowed_tokens, &spec.end_tokens);
        allowed.is_none_or(goes_on)
    };
    if ends_are_masked(params, at) && may_go_on() {
        for token in &spec.end_tokens {
            row[token.idx()] = f32::NEG_INFINITY;
        }
    }
    for word in &spec.bad_words {
        if let Some((last, before)) = word.split_last()
            && state.ends_with(before)
        {
            row[last.idx()] = f32::NEG_INFINITY;
        }
    }
    for &(token, bias) in &spec.logit_bias {
        row[token.idx()] += bias;
    }
    // A prompt may hold ids the output layer has no row for, such as an image's place holder.
    if spec.repetition_penalty != 1.0 {
        let penalty = spec.repetition_penalty;
        for token in state.seen() {
            if let Some(logit) = row.get_mut(token.idx()).filter(|logit| logit.is_finite()) {
                let scaled = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
                // Overflow must neither mask a token nor look like a fault of the model.
                *logit = scaled.clamp(f32::MIN, f32::MAX);
            }
        }
    }
    if spec.frequency_penalty != 0.0 || spec.presence_penalty != 0.0 {
        for (token, count) in state.output() {
            #[allow(clippy::cast_precision_loss)] // beyond 2^24 repeats one more changes nothing
            let frequency = spec.frequency_penalty * count as f32;
            row[token.idx()] -= frequency + spec.presence_penalty;
        }
    }
}

/// The candidate in whose share of the cumulative weights `target` lies. Rounding may put the
/// target at or past the sum: then it is the last candidate, which is admissible like any other.
fn pick(candidates: &[Candidate], target: f64) -> Candidate {
    let mut cumulative = 0.0;
    for candidate in candidates {
        cumulative += candidate.weight;
        if cumulative > target {
            return *candidate;
        }
    }
    *candidates.last().expect("the peak passes every filter")
}

#[cfg(test)]
mod tests;
