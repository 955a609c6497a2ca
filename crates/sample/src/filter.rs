//! Which tokens may be drawn, and with what weights: `min_p`, `top_k`, `top_p`.
//!
//! No filter sorts the row. `top_k` gathers and halves, `top_p` sorts only the part of the row that
//! its mass lies in. What they keep, its order, its weights and their sum are to the bit those of
//! sorting everything.

use crate::params::SamplingParams;
use crate::row::{Candidate, Peak, admitted, shortlist};

/// Rows so short are kept in order even where `top_k` leaves all of them.
const SORTED_LEN_MAX: usize = 64;
/// How many candidates `top_p` sorts first; a nucleus is usually smaller.
const NUCLEUS_HEAD: usize = 64;
/// By what factor that number grows while the nucleus is larger.
const NUCLEUS_GROWTH: usize = 8;
/// Bands of one nat each below the peak; the last one takes all that is further down.
const BANDS: usize = 64;
/// Sums of the same weights in different orders differ by less than this part of them.
const SUM_ERROR: f64 = 1e-9;

/// Fills `out` with the tokens that may be drawn and their weights; returns the weights' sum.
///
/// `top_k` and `min_p` both keep a head of the same order, so it does not matter which is
/// applied first. `top_p` is of what they leave, as in vLLM.
pub(crate) fn filter(
    row: &[f32],
    top: Peak,
    params: &SamplingParams,
    out: &mut Vec<Candidate>,
) -> f64 {
    let spec = params.spec();
    let temperature = f64::from(spec.temperature);
    let reach = f64::from(spec.min_p).ln().max(-negligible(row.len()));
    let floor = f64::from(top.logit) + reach * temperature;
    let top_k = match spec.top_k {
        0 => row.len(),
        top_k => top_k as usize,
    };
    if top_k <= SORTED_LEN_MAX || top_k < row.len() {
        shortlist(row, top_k, floor, out);
    } else {
        admitted(row, floor, out);
    }
    let mut total = 0.0;
    for candidate in out.iter_mut() {
        candidate.weight = (nats(candidate, top) / temperature).exp();
        total += candidate.weight;
    }
    if spec.top_p < 1.0 {
        let mass = f64::from(spec.top_p) * total;
        drop_tail(out, |candidate| nats(candidate, top) / temperature, mass);
        total = keep_nucleus(out, mass);
    }
    total
}

/// How far from the peak a logit is; at most 0.
fn nats(candidate: &Candidate, top: Peak) -> f64 {
    f64::from(candidate.logit) - f64::from(top.logit)
}

/// How far below the peak, in nats after temperature, a token is out of reach: all such tokens
/// together weigh less than 2^-53 of the peak, which is the resolution of the random number.
#[allow(clippy::cast_precision_loss)]
fn negligible(vocab_len: usize) -> f64 {
    53.0 * std::f64::consts::LN_2 + (vocab_len as f64).ln()
}

/// Drops candidates that a nucleus of `mass` cannot reach, in one pass and without comparing them
/// with each other: weights are added up by bands of their distance to the peak, and only bands
/// up to the one in which the mass is reached are kept, with something to spare for rounding.
fn drop_tail(candidates: &mut Vec<Candidate>, distance: impl Fn(&Candidate) -> f64, mass: f64) {
    let mut weights = [0.0; BANDS];
    let mut lowest = [f32::INFINITY; BANDS];
    for candidate in candidates.iter() {
        // Rounding is monotone: of two candidates the lower is never in the higher band.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 63
        let band = (-distance(candidate)).clamp(0.0, (BANDS - 1) as f64) as usize;
        weights[band] += candidate.weight;
        lowest[band] = lowest[band].min(candidate.logit);
    }
    let enough = mass * (1.0 + SUM_ERROR);
    let mut sum = 0.0;
    let mut bar = f32::NEG_INFINITY;
    for (weight, lowest) in weights.into_iter().zip(lowest) {
        sum += weight;
        if sum >= enough {
            bar = lowest;
            break;
        }
    }
    candidates.retain(|candidate| candidate.logit >= bar);
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

#[cfg(test)]
mod tests;
