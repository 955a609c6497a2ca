//! SentencePiece BPE (Kudo and Richardson 2018): merges ordered by the score of their result.

use kvist_base::TokenId;

use crate::bpe::{check_text_len, token_kinds};
use crate::error::TextError;
use crate::merge::{Joined, Merger};
use crate::special::{Fragment, SpecialTokens};
use crate::table::{TokenEntry, TokenTable};
use crate::tokenizer::{Encoder, SpecialText};
use crate::vocab::{TokenType, VocabSpec};

/// Stands for a space inside tokens.
const SPACE: char = '▁';

/// A symbol that is a character without a token.
const NO_TOKEN: u32 = u32::MAX;

/// A SentencePiece vocabulary, ready to use.
pub(crate) struct Spm {
    table: TokenTable,
    special: SpecialTokens,
    /// By token: its place in the order of merging, best first.
    ranks: Vec<u32>,
    /// Bytes of the longest token as written, with `▁`: longer pairs are not worth looking up.
    longest_text: usize,
    /// By byte: its `<0xNN>` token, or the unknown token.
    byte_tokens: Vec<Option<TokenId>>,
    add_space_prefix: bool,
    bos: Option<TokenId>,
}

impl Spm {
    pub fn new(spec: VocabSpec) -> Result<Self, TextError> {
        let kinds = token_kinds(&spec)?;
        let ranks = ranks(&spec)?;
        let longest_text = spec.tokens.iter().map(String::len).max().unwrap_or(0);
        let mut byte_tokens = vec![None; 256];
        let mut entries = Vec::with_capacity(spec.tokens.len());
        // In user-defined tokens too, `▁` may stand for a space: text is searched for the latter.
        let literal: Vec<String> = spec
            .tokens
            .iter()
            .map(|text| text.replace(SPACE, " "))
            .collect();
        for ((id, text), kind) in (0..)
            .map(TokenId)
            .zip(spec.tokens)
            .zip(kinds.iter().copied())
        {
            let bytes = match kind {
                TokenType::Byte => {
                    let byte = parse_byte(&text).ok_or_else(|| TextError::BadByteToken {
                        token: id,
                        text: text.clone(),
                    })?;
                    byte_tokens[byte as usize] = Some(id);
                    vec![byte]
                }
                TokenType::Normal | TokenType::UserDefined => literal[id.idx()].as_bytes().to_vec(),
                _ => text.as_bytes().to_vec(),
            };
            entries.push(TokenEntry { text, bytes, kind });
        }
        let special = SpecialTokens::new((0..).map(TokenId).zip(&entries).map(|(id, entry)| {
            let text = match entry.kind {
                TokenType::UserDefined => literal[id.idx()].as_str(),
                _ => entry.text.as_str(),
            };
            (id, text, entry.kind)
        }));
        let table = TokenTable::new(entries.into_iter(), &spec.special)?;
        let unknown = table.unknown_token(&spec.special);
        let byte_tokens = byte_tokens
            .into_iter()
            .map(|token| token.or(unknown))
            .collect();
        Ok(Self {
            table,
            special,
            ranks,
            longest_text,
            byte_tokens,
            add_space_prefix: spec.add_space_prefix,
            bos: spec.special.bos.filter(|_| spec.add_bos),
        })
    }

    /// Merges a fragment as a whole: this family has no pre-tokens.
    fn encode_text(&self, text: &str, state: &mut EncodeState) -> Result<(), TextError> {
        state.text.clear();
        if self.add_space_prefix {
            state.text.push(SPACE);
        }
        state
            .text
            .extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        check_text_len(&state.text)?;
        let text = state.text.as_str();
        state.merger.start(text.char_indices().map(|(at, c)| {
            let token = self.table.text_token(&text[at..at + c.len_utf8()]);
            // A character is at most four bytes long.
            #[allow(clippy::cast_possible_truncation)]
            (token.map_or(NO_TOKEN, |token| token.0), c.len_utf8() as u32)
        }));
        state.merger.merge(|left, right| {
            let len = (left.len + right.len) as usize;
            if len > self.longest_text {
                return None;
            }
            let start = left.start as usize;
            let token = self.table.text_token(&text[start..start + len])?;
            Some(Joined {
                rank: self.ranks[token.idx()],
                id: token.0,
            })
        });
        for symbol in state.merger.symbols() {
            if symbol.id != NO_TOKEN {
                state.tokens.push(TokenId(symbol.id));
                continue;
            }
            let start = symbol.start as usize;
            let bytes = &text.as_bytes()[start..start + symbol.len as usize];
            let tokens = bytes
                .iter()
                .filter_map(|&byte| self.byte_tokens[byte as usize]);
            state.tokens.extend(tokens);
        }
        Ok(())
    }
}

#[derive(Default)]
struct EncodeState {
    tokens: Vec<TokenId>,
    merger: Merger,
    text: String,
}

impl Encoder for Spm {
    fn encode(&self, text: &str, mode: SpecialText) -> Result<Vec<TokenId>, TextError> {
        let mut state = EncodeState::default();
        for fragment in self.special.split(text, mode) {
            match fragment {
                Fragment::Token(token) => state.tokens.push(token),
                Fragment::Text(text) => self.encode_text(text, &mut state)?,
            }
        }
        Ok(state.tokens)
    }

    fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    fn table(&self) -> &TokenTable {
        &self.table
    }
}

/// Scores as ranks: equal scores share a rank, so that the leftmost of such pairs comes first.
fn ranks(spec: &VocabSpec) -> Result<Vec<u32>, TextError> {
    let (expected, given) = (spec.tokens.len(), spec.scores.len());
    if given != expected {
        return Err(TextError::ListLength {
            field: "scores",
            expected,
            given,
        });
    }
    if let Some((token, _)) = (0..)
        .map(TokenId)
        .zip(&spec.scores)
        .find(|(_, s)| s.is_nan())
    {
        return Err(TextError::BadScore { token });
    }
    Ok(spec
        .scores
        .iter()
        .map(|&score| !ascending_bits(score))
        .collect())
}

/// Bits that order like the number: IEEE 754 orders like sign and magnitude. Both zeros are equal.
fn ascending_bits(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// The byte of `<0xNN>`.
pub(crate) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    two.then(|| u8::from_str_radix(digits, 16).ok())?
}
