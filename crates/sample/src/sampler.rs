//! The draw.

use kvist_base::TokenId;

use crate::error::SampleFault;
use crate::logprob::{TokenLogprob, log_sum_exp, logprob, top_logprobs};
use crate::params::SamplingParams;
use crate::row::{Candidate, Peak, peak, shortlist};
use crate::state::SamplerState;
use crate::uniform::uniform;

/// Largest `top_k` served by one pass with a sorted shortlist; beyond it, selecting among all
/// candidates costs less than keeping the list sorted.
const SHORTLIST_MAX: usize = 64;
/// How many candidates `top_p` sorts first; a nucleus is usually smaller.
const NUCLEUS_HEAD: usize = 64;
/// By what factor that number grows while the nucleus is larger.
const NUCLEUS_GROWTH: usize = 8;

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// ln p of the token in the model's own distribution, when asked for.
    pub logprob: Option<f32>,
    /// When asked for: the `n` most likely tokens of the model's own distribution, best first,
    /// then the sampled token if it is not one of them. Masked tokens are left out.
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
        assert_eq!(row.len(), self.vocab_len);
        assert_eq!(params.vocab_len(), self.vocab_len);
        let raw_peak = peak(row)?;
        let at = state.output_count();
        let token = self.choose((row, raw_peak), params, (state, at))?;
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
        let token = self.choose((row, raw_peak), params, (state, at))?;
        let (before, after) = (&row[..raw_peak.idx], &row[raw_peak.idx + 1..]);
        let second = [before, after].map(|part| peak(part).map_or(f32::NEG_INFINITY, |p| p.logit));
        let margin = raw_peak.logit - second[0].max(second[1]);
        Ok(Guess { token, margin })
    }

    /// The token of output place `at`.
    fn choose(
        &mut self,
        (raw, raw_peak): (&[f32], Peak),
        params: &SamplingParams,
        (state, at): (&SamplerState, u32),
    ) -> Result<TokenId, SampleFault> {
        let Self {
            edited, candidates, ..
        } = self;
        let (row, top) = if needs_edits(params, at) {
            edited.clear();
            edited.extend_from_slice(raw);
            edit(edited, params, (state, at));
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
        let mut top = top_logprobs(row, count, log_sum, &mut self.candidates);
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
    ends_are_masked(params, at) || !params.spec().logit_bias.is_empty() || params.has_penalties()
}

/// Masks, bias and penalties. Touches only tokens that are named or seen, never the whole row.
fn edit(row: &mut [f32], params: &SamplingParams, (state, at): (&SamplerState, u32)) {
    let spec = params.spec();
    if ends_are_masked(params, at) {
        for token in &spec.end_tokens {
            row[token.idx()] = f32::NEG_INFINITY;
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

/// Fills `out` with the tokens that may be drawn and their weights; returns the weights' sum.
///
/// `top_k` and `min_p` both keep a head of the same order, so it does not matter which is
/// applied first. `top_p` is of what they leave, as in vLLM.
fn filter(row: &[f32], top: Peak, params: &SamplingParams, out: &mut Vec<Candidate>) -> f64 {
    let spec = params.spec();
    let temperature = f64::from(spec.temperature);
    let reach = f64::from(spec.min_p).ln().max(-negligible(row.len()));
    let floor = f64::from(top.logit) + reach * temperature;
    let top_k = if spec.top_k == 0 {
        row.len()
    } else {
        spec.top_k as usize
    };

    let is_sorted = top_k < row.len();
    if top_k <= SHORTLIST_MAX {
        shortlist(row, top_k, floor, out);
    } else {
        out.clear();
        let admitted = row
            .iter()
            .enumerate()
            .filter(|&(_, &logit)| f64::from(logit) >= floor);
        out.extend(admitted.map(|(idx, &logit)| Candidate::new(idx, logit)));
        if is_sorted {
            keep_head(out, top_k);
        }
    }
    let mut total = 0.0;
    for candidate in out.iter_mut() {
        let distance = f64::from(candidate.logit) - f64::from(top.logit);
        candidate.weight = (distance / temperature).exp();
        total += candidate.weight;
    }
    if spec.top_p < 1.0 {
        total = keep_nucleus(out, f64::from(spec.top_p) * total);
    }
    total
}

/// How far below the peak, in nats after temperature, a token is out of reach: all such tokens
/// together weigh less than 2^-53 of the peak, which is the resolution of the random number.
#[allow(clippy::cast_precision_loss)]
fn negligible(vocab_len: usize) -> f64 {
    53.0 * std::f64::consts::LN_2 + (vocab_len as f64).ln()
}

/// Keeps the `count` best, sorted.
fn keep_head(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, Candidate::rank);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(Candidate::rank);
}

/// Keeps the fewest best candidates whose weights reach `mass`, sorted; returns their sum.
///
/// Sorts a small head first and a larger one only while the mass is not reached.
fn keep_nucleus(candidates: &mut Vec<Candidate>, mass: f64) -> f64 {
    let mut sum = 0.0;
    let mut sorted_len = 0;
    let mut head_len = NUCLEUS_HEAD;
    while sorted_len < candidates.len() {
        let tail = &mut candidates[sorted_len..];
        let take = head_len.min(tail.len());
        if take < tail.len() {
            tail.select_nth_unstable_by(take, Candidate::rank);
        }
        tail[..take].sort_unstable_by(Candidate::rank);
        for (offset, candidate) in tail[..take].iter().enumerate() {
            sum += candidate.weight;
            if sum >= mass {
                candidates.truncate(sorted_len + offset + 1);
                return sum;
            }
        }
        sorted_len += take;
        head_len *= NUCLEUS_GROWTH;
    }
    sum
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
