//! A vocabulary's bytes as llguidance takes them.

use std::borrow::Cow;
use std::sync::Arc;

use toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};

/// Longer tokens are never allowed: the trie has no room for them, and no published vocabulary has
/// any.
const TOKEN_BYTES_MAX: usize = 1000;

/// What a token is for, as far as grammars must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// It stands for its bytes.
    Text,
    /// Structure: allowed only where a grammar names it.
    Control,
    /// Structure that ends an output: allowed only where a grammar may end.
    End,
}

/// Tokens as bytes, with their roles.
pub struct Vocabulary {
    env: TokEnv,
    /// Control and end tokens by their text, for texts that spell them.
    specials: Vec<(String, u32)>,
}

impl Vocabulary {
    /// From the tokens in order of their ids.
    ///
    /// Bytes are those that appear in the output's text, so that what a grammar reads is what a
    /// client reads.
    pub fn new<'t>(tokens: impl Iterator<Item = (Cow<'t, [u8]>, TokenRole)>) -> Self {
        let mut words = Vec::new();
        let mut ends = Vec::new();
        let mut specials = Vec::new();
        for (id, (bytes, role)) in (0u32..).zip(tokens) {
            if role == TokenRole::End {
                ends.push(id);
            }
            if role != TokenRole::Text
                && let Ok(text) = str::from_utf8(&bytes)
                && !text.is_empty()
            {
                specials.push((text.to_owned(), id));
            }
            words.push(word(&bytes, role));
        }
        let vocab_len = u32::try_from(words.len()).expect("token ids are 32 bits wide");
        let first_end = ends.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(vocab_len, first_end), &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        // Not canonical: tokens are never forced, the model chooses among those that fit.
        Self {
            env: Arc::new(ApproximateTokEnv::new(trie)),
            specials,
        }
    }

    pub(crate) fn env(&self) -> &TokEnv {
        &self.env
    }

    /// The control token `text` begins with, the longest if several.
    pub(crate) fn special_at(&self, text: &str) -> Option<(&str, u32)> {
        let all = self.specials.iter();
        all.filter(|(spelled, _)| text.starts_with(spelled))
            .max_by_key(|(spelled, id)| (spelled.len(), std::cmp::Reverse(*id)))
            .map(|(spelled, id)| (&**spelled, *id))
    }
}

/// A token in the trie. Behind the marker, no text leads to it. The marker is a byte that no text
/// contains; a token that is this byte is left out.
fn word(bytes: &[u8], role: TokenRole) -> Vec<u8> {
    if bytes.len() > TOKEN_BYTES_MAX {
        return Vec::new();
    }
    match role {
        TokenRole::Text if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
        TokenRole::Text => bytes.to_vec(),
        TokenRole::Control | TokenRole::End => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
    }
}
