//! What is told of a prompt beside its text.

use std::sync::Arc;

use kvist_base::TokenId;
use kvist_engine::{RequestHandle, Scored, TokenLogprob};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Vocabulary, lossy};
use crate::error::ApiError;
use crate::state::App;
use crate::wire::extras::{PromptLogprobs, RankedToken, TokenMap};

/// Log-probabilities of prompts that one request may ask for: positions times tokens told at each.
pub(crate) const REQUEST_SCORES_MAX: usize = 1 << 16;
/// All that may be held at once.
pub(crate) const SCORES_MAX: usize = 1 << 18;

/// A share of the log-probabilities all answers together may hold, given back when dropped.
pub(crate) type ScoreShare = Option<OwnedSemaphorePermit>;

/// Room for the log-probabilities of these prompts, `top` and one at each position; none if none are
/// told.
pub(super) fn share(
    app: &App,
    handles: &[RequestHandle],
    top: Option<u32>,
) -> Result<ScoreShare, ApiError> {
    let Some(top) = top else {
        return Ok(None);
    };
    let positions: usize = handles.iter().map(|handle| handle.prompt_len().len()).sum();
    let given = positions.saturating_mul(top as usize + 1);
    if given > REQUEST_SCORES_MAX {
        return Err(ApiError::TooManyScores {
            limit: REQUEST_SCORES_MAX,
            given,
        });
    }
    reserve(&app.scores, given).map(Some)
}

fn reserve(all: &Arc<Semaphore>, given: usize) -> Result<OwnedSemaphorePermit, ApiError> {
    let permits = u32::try_from(given).map_err(|_| ApiError::TellingTooMuch)?;
    let share = all.clone().try_acquire_many_owned(permits);
    share.map_err(|_| ApiError::TellingTooMuch)
}

/// Log-probabilities of a prompt in vLLM's form.
pub(super) fn prompt_logprobs(vocabulary: &Vocabulary, scored: &[Scored]) -> PromptLogprobs {
    let entry = |token: TokenId, logprob, rank| {
        let decoded_token = vocabulary.name(token, || lossy(&vocabulary.bytes(token)));
        let entry = RankedToken {
            logprob,
            rank,
            decoded_token,
        };
        (token.0, entry)
    };
    let position = |each: &Scored| {
        let TokenLogprob { token, logprob } = each.chosen;
        let own = entry(token, logprob, each.rank);
        let top = (1..).zip(&each.top);
        let others = top
            .filter(|(_, likely)| likely.token != token)
            .map(|(rank, likely)| entry(likely.token, likely.logprob, rank));
        TokenMap(std::iter::once(own).chain(others).collect())
    };
    let first = std::iter::once(None);
    PromptLogprobs(first.chain(scored.iter().map(position).map(Some)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_share_a_bound_and_give_it_back() {
        let all = Arc::new(Semaphore::new(SCORES_MAX));
        let one = reserve(&all, SCORES_MAX - 10);
        let other = reserve(&all, 10);
        assert!(one.is_ok() && other.is_ok());
        assert!(matches!(reserve(&all, 1), Err(ApiError::TellingTooMuch)));
        drop(other);
        assert!(reserve(&all, 10).is_ok());
    }
}
