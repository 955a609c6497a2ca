//! Byte-level byte-pair encoding (Sennrich et al. 2016; over bytes: Radford et al. 2019).

use kvist_base::TokenId;

use crate::byte_alphabet;
use crate::error::TextError;
use crate::hash::VocabMap;
use crate::merge::{Joined, Merger, TEXT_BYTES_MAX};
use crate::special::{Fragment, SpecialTokens};
use crate::split::PreTokenizer;
use crate::table::{TokenEntry, TokenTable};
use crate::tokenizer::{Encoder, SpecialText};
use crate::vocab::{TokenType, VocabSpec};

/// By left and right token: what they merge into.
type PairMap = VocabMap<u64, Joined>;

fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// A byte-level vocabulary, ready to use.
pub(crate) struct Bpe {
    table: TokenTable,
    special: SpecialTokens,
    pre: &'static PreTokenizer,
    /// By byte: its token, or the unknown token.
    byte_tokens: Vec<Option<TokenId>>,
    merges: PairMap,
    bos: Option<TokenId>,
}

impl Bpe {
    pub fn new(spec: VocabSpec) -> Result<Self, TextError> {
        let pre = PreTokenizer::named(spec.pre.as_deref())?;
        let kinds = token_kinds(&spec)?;
        let special = SpecialTokens::new(
            (0..)
                .map(TokenId)
                .zip(&spec.tokens)
                .zip(&kinds)
                .map(|((id, text), &kind)| (id, text.as_str(), kind)),
        );
        let entries = spec.tokens.into_iter().zip(kinds).map(|(text, kind)| {
            let bytes = token_bytes(&text, kind);
            TokenEntry { text, bytes, kind }
        });
        let table = TokenTable::new(entries, &spec.special)?;
        let merges = parse_merges(&spec.merges, &table)?;
        let unknown = table.unknown_token(&spec.special);
        let byte_tokens = (0..=255u8)
            .map(|byte| {
                let mut buffer = [0; 4];
                let letter = byte_alphabet::letter(byte).encode_utf8(&mut buffer);
                table.text_token(letter).or(unknown)
            })
            .collect();
        let bos = spec.special.bos.filter(|_| spec.add_bos);
        Ok(Self {
            table,
            special,
            pre,
            byte_tokens,
            merges,
            bos,
        })
    }

    fn encode_text(&self, text: &str, state: &mut EncodeState) {
        let text = self.pre.normalize(text);
        let mut rest: &str = &text;
        while !rest.is_empty() {
            let piece;
            (piece, rest) = rest.split_at(self.pre.piece_len(rest));
            self.encode_piece(piece, state);
        }
    }

    /// Merges one pre-token. Merges never reach across pre-tokens.
    fn encode_piece(&self, piece: &str, state: &mut EncodeState) {
        if self.pre.ignores_merges() {
            state.letters.clear();
            state
                .letters
                .extend(piece.bytes().map(byte_alphabet::letter));
            if let Some(token) = self.table.text_token(&state.letters) {
                state.tokens.push(token);
                return;
            }
        }
        let bytes = piece
            .bytes()
            .filter_map(|byte| self.byte_tokens[byte as usize]);
        state.merger.start(bytes.map(|token| (token.0, 1)));
        state
            .merger
            .merge(|left, right| self.merges.get(&pair_key(left.id, right.id)).copied());
        state
            .tokens
            .extend(state.merger.symbols().map(|symbol| TokenId(symbol.id)));
    }
}

#[derive(Default)]
struct EncodeState {
    tokens: Vec<TokenId>,
    merger: Merger,
    letters: String,
}

impl Encoder for Bpe {
    fn encode(&self, text: &str, mode: SpecialText) -> Result<Vec<TokenId>, TextError> {
        check_text_len(text)?;
        let mut state = EncodeState::default();
        for fragment in self.special.split(text, mode) {
            match fragment {
                Fragment::Token(token) => state.tokens.push(token),
                Fragment::Text(text) => self.encode_text(text, &mut state),
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

/// Symbols of one text are numbered in 32 bits.
pub(crate) fn check_text_len(text: &str) -> Result<(), TextError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TextError::TextTooLong {
            limit: TEXT_BYTES_MAX,
            given: text.len(),
        });
    }
    Ok(())
}

/// The type of each token; all normal if the file does not say.
pub(crate) fn token_kinds(spec: &VocabSpec) -> Result<Vec<TokenType>, TextError> {
    let (expected, given) = (spec.tokens.len(), spec.token_types.len());
    match given {
        0 => Ok(vec![TokenType::Normal; expected]),
        _ if given == expected => Ok(spec.token_types.clone()),
        _ => Err(TextError::ListLength {
            field: "token_types",
            expected,
            given,
        }),
    }
}

/// Only normal tokens are written in the byte alphabet; the others were added to the vocabulary
/// literally. Published vocabularies have a few normal ones outside the alphabet: literal too.
fn token_bytes(text: &str, kind: TokenType) -> Vec<u8> {
    match kind {
        TokenType::Normal => byte_alphabet::decode(text),
        _ => None,
    }
    .unwrap_or_else(|| text.as_bytes().to_vec())
}

fn parse_merges(merges: &[String], table: &TokenTable) -> Result<PairMap, TextError> {
    let mut map = PairMap::with_capacity_and_hasher(merges.len(), Default::default());
    let mut whole = String::new();
    for ((index, text), rank) in merges.iter().enumerate().zip(0u32..) {
        let bad = |reason| TextError::BadMerge {
            index,
            text: text.clone(),
            reason,
        };
        let (left, right) = text.split_once(' ').ok_or_else(|| bad("not two tokens"))?;
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        let token = |text, reason| table.text_token(text).ok_or_else(|| bad(reason));
        let left = token(left, "the left token is not in the vocabulary")?;
        let right = token(right, "the right token is not in the vocabulary")?;
        let id = token(&whole, "the result is not in the vocabulary")?.0;
        if map
            .insert(pair_key(left.0, right.0), Joined { rank, id })
            .is_some()
        {
            return Err(bad("the same pair occurs earlier in the list"));
        }
    }
    Ok(map)
}
