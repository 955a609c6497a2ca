//! `tokenizer.json`, read by the tokenizers library.

use std::sync::Arc;

use kvist_base::TokenId;
use serde::Deserialize;

use crate::byte_alphabet;
use crate::error::TextError;
use crate::spm::parse_byte;
use crate::table::{TokenEntry, TokenTable};
use crate::tokenizer::{Encoder, SpecialText, Tokenizer};
use crate::vocab::{SpecialIds, TokenType};

/// What a `tokenizer.json` does not say; published models have it in `tokenizer_config.json` and
/// `generation_config.json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerJsonOptions {
    /// Tokens with a role.
    pub special: SpecialIds,
    /// Prompts begin with `special.bos`.
    pub add_bos: bool,
}

/// Builds the tokenizer a `tokenizer.json` describes.
///
/// Unlike [`from_vocab`](crate::from_vocab)'s, its pre-tokeniser is whatever expression the file
/// has, run by a backtracking engine with a step limit; a run of white space of a million
/// characters can reach it, and such a text is then tokenised differently from the model's
/// training. Keeping two copies of the vocabulary (one for each [`SpecialText`]) is what the
/// library's interface asks for.
///
/// # Errors
/// If the library refuses the file, if a special id is out of range, or if the decoder is not one
/// of those whose tokens stand for bytes by themselves.
pub fn from_tokenizer_json(
    json: &[u8],
    options: &TokenizerJsonOptions,
) -> Result<Arc<dyn Tokenizer>, TextError> {
    let refused = |detail: String| TextError::TokenizerJson { detail };
    let decoder = decoder(json)?;
    let mut parse = tokenizers::Tokenizer::from_bytes(json).map_err(|e| refused(e.to_string()))?;
    // A prompt has no fixed length, whatever the file was saved with.
    parse.with_padding(None);
    parse
        .with_truncation(None)
        .map_err(|e| refused(e.to_string()))?;
    let table = table(&parse, decoder, &options.special)?;
    let mut plain = parse.clone();
    plain.set_encode_special_tokens(true);
    let bos = options.special.bos.filter(|_| options.add_bos);
    Ok(Arc::new(JsonTokenizer {
        parse,
        plain,
        table,
        bos,
    }))
}

struct JsonTokenizer {
    parse: tokenizers::Tokenizer,
    plain: tokenizers::Tokenizer,
    table: TokenTable,
    bos: Option<TokenId>,
}

impl Encoder for JsonTokenizer {
    fn encode(&self, text: &str, mode: SpecialText) -> Result<Vec<TokenId>, TextError> {
        let tokenizer = match mode {
            SpecialText::Parse => &self.parse,
            SpecialText::Plain => &self.plain,
        };
        let encoding = tokenizer
            .encode_fast(text, false)
            .map_err(|error| TextError::Encode {
                detail: error.to_string(),
            })?;
        Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
    }

    fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    fn table(&self) -> &TokenTable {
        &self.table
    }
}

/// How ordinary tokens are written.
#[derive(Clone, Copy)]
enum Writing {
    /// GPT-2's byte alphabet.
    ByteLevel,
    /// `▁` for a space and `<0xNN>` for bytes.
    Metaspace,
}

/// The parts of the file that say how tokens are written.
#[derive(Deserialize)]
struct File {
    decoder: Option<Decoder>,
}

#[derive(Deserialize)]
struct Decoder {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    decoders: Vec<Decoder>,
}

fn decoder(json: &[u8]) -> Result<Writing, TextError> {
    let file: File = serde_json::from_slice(json).map_err(|error| TextError::TokenizerJson {
        detail: error.to_string(),
    })?;
    let steps: Vec<&str> = match &file.decoder {
        None => vec!["none"],
        Some(one) if one.kind == "Sequence" => {
            one.decoders.iter().map(|step| step.kind.as_str()).collect()
        }
        Some(one) => vec![one.kind.as_str()],
    };
    if steps.contains(&"ByteLevel") {
        Ok(Writing::ByteLevel)
    } else if steps.contains(&"ByteFallback") || steps.contains(&"Metaspace") {
        Ok(Writing::Metaspace)
    } else {
        Err(TextError::UnsupportedDecoder {
            given: steps.join(", "),
            supported: "ByteLevel, ByteFallback, Metaspace",
        })
    }
}

fn table(
    tokenizer: &tokenizers::Tokenizer,
    writing: Writing,
    special: &SpecialIds,
) -> Result<TokenTable, TextError> {
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let vocab = tokenizer.get_vocab(true);
    // Ids may have holes; a hole is a token without text.
    let len = vocab.values().max().map_or(0, |&max| max as usize + 1);
    let holes_max = 1 << 16;
    if len > vocab.len() + holes_max {
        return Err(TextError::VocabTooLarge {
            what: "unused token ids",
            limit: holes_max,
            given: len - vocab.len(),
        });
    }
    let entries = (0..len).map(|id| {
        #[allow(clippy::cast_possible_truncation)] // ids are 32 bits wide in the file
        let id = id as u32;
        let text = tokenizer.id_to_token(id).unwrap_or_default();
        let (bytes, kind) = match added.get(&id) {
            Some(token) if token.special => (text.clone().into_bytes(), TokenType::Control),
            Some(_) => (text.clone().into_bytes(), TokenType::UserDefined),
            None if text.is_empty() => (Vec::new(), TokenType::Unused),
            None => written(&text, writing),
        };
        TokenEntry { text, bytes, kind }
    });
    TokenTable::new(entries, special)
}

fn written(text: &str, writing: Writing) -> (Vec<u8>, TokenType) {
    match writing {
        Writing::ByteLevel => {
            let bytes = byte_alphabet::decode(text).unwrap_or_else(|| text.as_bytes().to_vec());
            (bytes, TokenType::Normal)
        }
        Writing::Metaspace => match parse_byte(text) {
            Some(byte) => (vec![byte], TokenType::Byte),
            None => (text.replace('▁', " ").into_bytes(), TokenType::Normal),
        },
    }
}
