//! The checked vocabulary: what every tokenizer needs to know about its tokens.

use kvist_base::TokenId;

use crate::error::TextError;
use crate::hash::VocabMap;
use crate::vocab::{SpecialIds, TokenType};

/// Control tokens that end a turn in the chat formats of published models. Files name one end
/// token, models trained on several formats produce others; counted only where the vocabulary
/// types them as control or user-defined tokens.
const END_TEXTS: [&str; 11] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "<|EOT|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// One token, before it is in the table.
pub(crate) struct TokenEntry {
    pub text: String,
    pub bytes: Vec<u8>,
    pub kind: TokenType,
}

/// Texts, bytes and roles of all tokens.
pub(crate) struct TokenTable {
    /// Bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// By token: where its bytes end in `bytes`; they begin where the token before ends.
    byte_ends: Vec<u32>,
    kinds: Vec<TokenType>,
    by_text: VocabMap<Box<str>, TokenId>,
    end_tokens: Vec<TokenId>,
    longest: usize,
}

impl TokenTable {
    /// # Errors
    /// If there are no tokens or too many, or a special id is not one of them.
    pub fn new(
        entries: impl ExactSizeIterator<Item = TokenEntry>,
        special: &SpecialIds,
    ) -> Result<Self, TextError> {
        let len = entries.len();
        check_len(len)?;
        check_special(special, len)?;
        let mut table = Self {
            bytes: Vec::new(),
            byte_ends: Vec::with_capacity(len),
            kinds: Vec::with_capacity(len),
            by_text: VocabMap::with_capacity_and_hasher(len, Default::default()),
            end_tokens: [special.eos, special.eot, special.eom]
                .into_iter()
                .flatten()
                .collect(),
            longest: 0,
        };
        for (id, entry) in (0..).map(TokenId).zip(entries) {
            table.push(id, entry)?;
        }
        table.end_tokens.sort_unstable();
        table.end_tokens.dedup();
        Ok(table)
    }

    fn push(&mut self, id: TokenId, entry: TokenEntry) -> Result<(), TextError> {
        let listed = matches!(entry.kind, TokenType::Control | TokenType::UserDefined);
        if listed && END_TEXTS.contains(&entry.text.as_str()) {
            self.end_tokens.push(id);
        }
        self.longest = self.longest.max(entry.bytes.len());
        self.bytes.extend_from_slice(&entry.bytes);
        let end = u32::try_from(self.bytes.len()).map_err(|_| TextError::VocabTooLarge {
            what: "bytes of token text",
            limit: u32::MAX as usize,
            given: self.bytes.len(),
        })?;
        self.byte_ends.push(end);
        self.kinds.push(entry.kind);
        self.by_text
            .entry(entry.text.into_boxed_str())
            .or_insert(id);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    pub fn kind(&self, token: TokenId) -> Option<TokenType> {
        self.kinds.get(token.idx()).copied()
    }

    pub fn bytes(&self, token: TokenId) -> Option<&[u8]> {
        let end = *self.byte_ends.get(token.idx())? as usize;
        let start = match token.idx() {
            0 => 0,
            idx => self.byte_ends[idx - 1] as usize,
        };
        Some(&self.bytes[start..end])
    }

    /// With equal texts, the lowest id.
    pub fn by_text(&self, text: &str) -> Option<TokenId> {
        self.by_text.get(text).copied()
    }

    /// A token that plain text may become: not a control, unknown, byte or unused one.
    pub fn text_token(&self, text: &str) -> Option<TokenId> {
        let token = self.by_text(text)?;
        let kind = self.kinds[token.idx()];
        matches!(kind, TokenType::Normal | TokenType::UserDefined).then_some(token)
    }

    /// The unknown token, if text may become it: some files name a control token, which would let
    /// text end a conversation.
    pub fn unknown_token(&self, special: &SpecialIds) -> Option<TokenId> {
        special
            .unk
            .filter(|&unk| self.kind(unk) != Some(TokenType::Control))
    }

    pub fn is_special(&self, token: TokenId) -> bool {
        matches!(
            self.kind(token),
            Some(TokenType::Control | TokenType::Unknown)
        )
    }

    pub fn end_tokens(&self) -> &[TokenId] {
        &self.end_tokens
    }

    pub fn longest_token_bytes(&self) -> usize {
        self.longest
    }
}

fn check_len(len: usize) -> Result<(), TextError> {
    if len == 0 {
        return Err(TextError::ListLength {
            field: "tokens",
            expected: 1,
            given: 0,
        });
    }
    if u32::try_from(len).is_err() {
        let limit = u32::MAX as usize;
        return Err(TextError::VocabTooLarge {
            what: "tokens",
            limit,
            given: len,
        });
    }
    Ok(())
}

fn check_special(special: &SpecialIds, vocab_len: usize) -> Result<(), TextError> {
    match special.named().find(|(_, id)| id.idx() >= vocab_len) {
        Some((name, given)) => Err(TextError::SpecialIdOutOfRange {
            name,
            given,
            vocab_len,
        }),
        None => Ok(()),
    }
}
