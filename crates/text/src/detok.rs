//! Tokens to text, a token at a time.

use std::sync::Arc;

use kvist_base::TokenId;

use crate::tokenizer::Tokenizer;

/// Text that can be sent now; may be empty.
pub type TextDelta = String;

/// What becomes of special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetokenizeOptions {
    /// Leave control and unknown tokens out of the text.
    pub skip_special_tokens: bool,
    /// But not these: marks that whoever reads the text tells its parts by.
    pub kept: Vec<TokenId>,
}

impl Default for DetokenizeOptions {
    fn default() -> Self {
        Self {
            skip_special_tokens: true,
            kept: Vec::new(),
        }
    }
}

/// Turns one sequence's output into text as it is produced.
///
/// A character may be spread over several tokens: its bytes are held until it is whole. The
/// concatenated deltas are exactly the lossy decoding of the concatenated token bytes, however the
/// tokens are split; what has been emitted is never taken back.
pub struct Detokenizer {
    tokenizer: Arc<dyn Tokenizer>,
    options: DetokenizeOptions,
    /// The beginning of a character: at most three bytes between calls.
    held: Vec<u8>,
}

impl Detokenizer {
    /// For one sequence.
    pub fn new(tokenizer: Arc<dyn Tokenizer>, options: DetokenizeOptions) -> Self {
        Self {
            tokenizer,
            options,
            held: Vec::new(),
        }
    }

    /// The text `token` completes. An id beyond the vocabulary (models pad their output layer)
    /// stands for no text.
    pub fn push(&mut self, token: TokenId) -> TextDelta {
        if self.is_skipped(token) {
            return TextDelta::new();
        }
        if let Some(bytes) = self.tokenizer.token_bytes(token) {
            self.held.extend_from_slice(&bytes);
        }
        self.take_certain()
    }

    fn is_skipped(&self, token: TokenId) -> bool {
        self.options.skip_special_tokens
            && self.tokenizer.is_special(token)
            && !self.options.kept.contains(&token)
    }

    /// What is left when no more tokens come: U+FFFD for a character that was never completed.
    pub fn finish(&mut self) -> TextDelta {
        let rest = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        rest
    }

    /// Everything but a trailing incomplete character, which later bytes may still complete.
    fn take_certain(&mut self) -> TextDelta {
        let mut text = TextDelta::new();
        let mut rest = self.held.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
            }
        }
        let taken = self.held.len() - rest.len();
        self.held.drain(..taken);
        text
    }
}

#[cfg(test)]
mod tests;
