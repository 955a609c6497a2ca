//! Log-probabilities of the row as the model wrote it.

use kvist_base::TokenId;

use crate::row::{Candidate, Peak, shortlist};

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// ln p, at most 0, at least -9999.
    pub logprob: f32,
}

/// ln of the sum of e^logit over the row. `peak` is the row's.
pub(crate) fn log_sum_exp(row: &[f32], peak: Peak) -> f64 {
    let top = f64::from(peak.logit);
    let sum: f64 = row
        .iter()
        .map(|&logit| (f64::from(logit) - top).exp())
        .sum();
    top + sum.ln()
}

/// What is said of a token that the model holds impossible: JSON has no infinity, and vLLM says this.
const LOGPROB_MIN: f32 = -9999.0;

/// ln p of a token with this logit.
#[allow(clippy::cast_possible_truncation)] // rounding to f32 is meant
pub(crate) fn logprob(logit: f32, log_sum: f64) -> f32 {
    ((f64::from(logit) - log_sum).min(0.0) as f32).max(LOGPROB_MIN)
}

/// The `count` most likely tokens, best first. Masked tokens are left out. `scratch` is
/// overwritten.
pub(crate) fn top_logprobs(
    row: &[f32],
    count: u32,
    log_sum: f64,
    scratch: &mut Vec<Candidate>,
) -> Vec<TokenLogprob> {
    shortlist(row, count as usize, f64::from(f32::MIN), scratch);
    let entry = |candidate: &Candidate| TokenLogprob {
        token: candidate.token(),
        logprob: logprob(candidate.logit, log_sum),
    };
    scratch.iter().map(entry).collect()
}

/// Of these tokens those that are not masked, in their order.
pub(crate) fn named_logprobs(row: &[f32], named: &[TokenId], log_sum: f64) -> Vec<TokenLogprob> {
    let is_open = |token: &&TokenId| row[token.idx()] > f32::NEG_INFINITY;
    let entry = |&token: &TokenId| TokenLogprob {
        token,
        logprob: logprob(row[token.idx()], log_sum),
    };
    named.iter().filter(is_open).map(entry).collect()
}
