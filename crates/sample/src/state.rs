//! What a sequence remembers between draws.

use std::collections::{BTreeMap, VecDeque};

use kvist_base::TokenId;

use crate::params::BAD_WORD_TOKENS_MAX;

/// The tokens of one sequence, as counts. Size follows the sequence, never the vocabulary.
#[derive(Clone, Debug)]
pub struct SamplerState {
    /// Distinct prompt tokens, ascending.
    prompt: Vec<TokenId>,
    /// How often each token is in the output. Ordered, so that edits happen in one order.
    output: BTreeMap<TokenId, u32>,
    output_count: u32,
    /// The end of the output: as much as a bad word may have before its last token.
    recent: VecDeque<TokenId>,
}

impl SamplerState {
    /// The state of a sequence that has no output yet.
    pub fn new(prompt: &[TokenId]) -> Self {
        let mut distinct = prompt.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        distinct.shrink_to_fit();
        Self {
            prompt: distinct,
            output: BTreeMap::new(),
            output_count: 0,
            recent: VecDeque::new(),
        }
    }

    /// Tokens drawn so far. The next draw's random number has this index.
    pub fn output_count(&self) -> u32 {
        self.output_count
    }

    pub(crate) fn record(&mut self, token: TokenId) {
        *self.output.entry(token).or_insert(0) += 1;
        self.output_count += 1;
        if self.recent.len() == BAD_WORD_TOKENS_MAX - 1 {
            self.recent.pop_front();
        }
        self.recent.push_back(token);
    }

    /// Whether the output ends with these tokens; they are fewer than a bad word may have.
    pub(crate) fn ends_with(&self, tokens: &[TokenId]) -> bool {
        let recent = self.recent.iter().rev();
        tokens.len() <= self.recent.len() && tokens.iter().rev().eq(recent.take(tokens.len()))
    }

    /// Each token of the output with its count, ascending by id.
    pub(crate) fn output(&self) -> impl Iterator<Item = (TokenId, u32)> {
        self.output.iter().map(|(&token, &count)| (token, count))
    }

    /// Each token of prompt or output once.
    pub(crate) fn seen(&self) -> impl Iterator<Item = TokenId> {
        let output_only = self
            .output
            .keys()
            .filter(|t| self.prompt.binary_search(t).is_err());
        self.prompt.iter().chain(output_only).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_output_is_remembered() {
        let mut state = SamplerState::new(&[TokenId(1)]);
        assert!(state.ends_with(&[]));
        assert!(!state.ends_with(&[TokenId(1)]), "the prompt is no output");
        for token in 0..100 {
            state.record(TokenId(token));
        }
        let end: Vec<_> = (69..100).map(TokenId).collect();
        assert!(state.ends_with(&end));
        assert!(state.ends_with(&end[30..]));
        assert!(!state.ends_with(&end[..30]));
        assert!(!state.ends_with(&[68].map(TokenId).into_iter().chain(end).collect::<Vec<_>>()));
    }

    #[test]
    fn prompt_and_output_are_counted_apart() {
        let mut state = SamplerState::new(&[5, 2, 5, 9].map(TokenId));
        assert_eq!(state.output_count(), 0);
        for token in [7, 2, 7] {
            state.record(TokenId(token));
        }
        assert_eq!(state.output_count(), 3);
        assert_eq!(
            state.output().collect::<Vec<_>>(),
            [(TokenId(2), 1), (TokenId(7), 2)]
        );
        assert_eq!(state.seen().collect::<Vec<_>>(), [2, 5, 9, 7].map(TokenId));
    }
}
