//! The trait the engine knows, whatever file a tokenizer came from.

use std::borrow::Cow;
use std::sync::Arc;

use kvist_base::TokenId;

use crate::bpe::Bpe;
use crate::error::TextError;
use crate::spm::Spm;
use crate::table::TokenTable;
use crate::vocab::{VocabModel, VocabSpec};

/// How text that looks like a control token is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialText {
    /// `<|im_end|>` is the control token: for the output of a chat template.
    Parse,
    /// `<|im_end|>` is ten characters: for text that came from a user.
    Plain,
}

/// Text to tokens and back.
pub trait Tokenizer: Send + Sync {
    /// The tokens of `text`. Never adds a begin or end token of its own.
    ///
    /// A byte the vocabulary has no token for (some lack bytes of rare characters) becomes the
    /// unknown token, or nothing if there is none: what the published tokenizers do.
    ///
    /// # Errors
    /// [`TextError::TextTooLong`] for 4 GiB of text; [`TextError::Encode`] from `tokenizer.json`.
    fn encode(&self, text: &str, mode: SpecialText) -> Result<Vec<TokenId>, TextError>;

    /// The token every prompt of this model begins with, if it is one of those models.
    fn bos_if_wanted(&self) -> Option<TokenId>;

    /// The bytes a token stands for: byte-level alphabet undone, `<0xNN>` one byte, `▁` a space.
    /// May be part of a character. `None` for ids beyond the vocabulary.
    fn token_bytes(&self, token: TokenId) -> Option<Cow<'_, [u8]>>;

    /// Whether the token is structure rather than text: control and unknown tokens.
    fn is_special(&self, token: TokenId) -> bool;

    /// Whether the model's answer is over when it produces this token.
    fn is_end(&self, token: TokenId) -> bool {
        self.end_tokens().contains(&token)
    }

    /// The tokens that end an answer, ascending.
    fn end_tokens(&self) -> &[TokenId];

    /// Tokens in the vocabulary.
    fn vocab_len(&self) -> usize;

    /// The token written `text` in the vocabulary; with equal texts, the lowest id.
    fn token_id(&self, text: &str) -> Option<TokenId>;

    /// Bytes of the longest token. A text of `n` bytes has at least `n / longest` tokens (bytes
    /// without a token aside), which tells without tokenising that some texts are too long.
    fn longest_token_bytes(&self) -> usize;
}

/// What tokenizers differ in; everything else is looked up in their tables.
pub(crate) trait Encoder: Send + Sync {
    /// As [`Tokenizer::encode`].
    fn encode(&self, text: &str, mode: SpecialText) -> Result<Vec<TokenId>, TextError>;

    /// As [`Tokenizer::bos_if_wanted`].
    fn bos(&self) -> Option<TokenId>;

    /// The vocabulary.
    fn table(&self) -> &TokenTable;
}

impl<E: Encoder> Tokenizer for E {
    fn encode(&self, text: &str, mode: SpecialText) -> Result<Vec<TokenId>, TextError> {
        Encoder::encode(self, text, mode)
    }

    fn bos_if_wanted(&self) -> Option<TokenId> {
        self.bos()
    }

    fn token_bytes(&self, token: TokenId) -> Option<Cow<'_, [u8]>> {
        self.table().bytes(token).map(Cow::Borrowed)
    }

    fn is_special(&self, token: TokenId) -> bool {
        self.table().is_special(token)
    }

    fn end_tokens(&self) -> &[TokenId] {
        self.table().end_tokens()
    }

    fn vocab_len(&self) -> usize {
        self.table().len()
    }

    fn token_id(&self, text: &str) -> Option<TokenId> {
        self.table().by_text(text)
    }

    fn longest_token_bytes(&self) -> usize {
        self.table().longest_token_bytes()
    }
}

/// Builds the tokenizer of a GGUF file.
///
/// # Errors
/// Names the entry of `spec` that is out of range, contradicts another, or asks for something
/// unsupported.
pub fn from_vocab(spec: VocabSpec) -> Result<Arc<dyn Tokenizer>, TextError> {
    Ok(match spec.model {
        VocabModel::Bpe => Arc::new(Bpe::new(spec)?),
        VocabModel::SentencePiece => Arc::new(Spm::new(spec)?),
    })
}

/// A whole prompt: the tokens of `text` behind the begin token, if the model wants one and the
/// text does not begin with it already, as the output of many chat templates does.
///
/// # Errors
/// Those of [`Tokenizer::encode`].
pub fn encode_prompt(
    tokenizer: &dyn Tokenizer,
    text: &str,
    mode: SpecialText,
) -> Result<Vec<TokenId>, TextError> {
    let mut tokens = tokenizer.encode(text, mode)?;
    if let Some(bos) = tokenizer.bos_if_wanted()
        && tokens.first() != Some(&bos)
    {
        tokens.insert(0, bos);
    }
    Ok(tokens)
}
