//! A vocabulary as plain data: what a model file says, before anything is checked.

use std::str::FromStr;

use kvist_base::TokenId;

use crate::error::TextError;
use crate::split::PreTokenizer;

/// The algorithm a vocabulary was trained with. Parses from `tokenizer.ggml.model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabModel {
    /// Byte-level byte-pair encoding with ranked merges; GGUF says `gpt2`.
    Bpe,
    /// SentencePiece BPE: merges ordered by the score of their result; GGUF says `llama`.
    SentencePiece,
}

impl FromStr for VocabModel {
    type Err = TextError;

    fn from_str(name: &str) -> Result<Self, TextError> {
        match name {
            "gpt2" => Ok(Self::Bpe),
            "llama" => Ok(Self::SentencePiece),
            _ => Err(TextError::UnsupportedModel {
                given: name.to_owned(),
                supported: "gpt2, llama".to_owned(),
            }),
        }
    }
}

/// What a token is for. The numbers are ggml's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Ordinary text.
    Normal = 1,
    /// Stands for text the vocabulary cannot express.
    Unknown = 2,
    /// Structure: never produced from plain text, and not part of the answer's text.
    Control = 3,
    /// Text that is always one token, wherever it occurs.
    UserDefined = 4,
    /// A hole in the vocabulary.
    Unused = 5,
    /// One byte, written `<0xNN>`.
    Byte = 6,
}

impl TryFrom<i32> for TokenType {
    type Error = TextError;

    fn try_from(number: i32) -> Result<Self, TextError> {
        match number {
            1 => Ok(Self::Normal),
            2 => Ok(Self::Unknown),
            3 => Ok(Self::Control),
            4 => Ok(Self::UserDefined),
            5 => Ok(Self::Unused),
            6 => Ok(Self::Byte),
            given => Err(TextError::UnknownTokenType { given }),
        }
    }
}

/// Tokens with a role, as the model file names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a sequence.
    pub bos: Option<TokenId>,
    /// Ends a sequence.
    pub eos: Option<TokenId>,
    /// Ends a turn.
    pub eot: Option<TokenId>,
    /// Ends a message but not the turn: the model wants a tool's answer.
    pub eom: Option<TokenId>,
    /// Stands for what the vocabulary cannot express.
    pub unk: Option<TokenId>,
    /// Fills unused positions of a batch.
    pub pad: Option<TokenId>,
}

impl SpecialIds {
    /// The named ids that are set.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, TokenId)> {
        let all = [
            ("bos", self.bos),
            ("eos", self.eos),
            ("eot", self.eot),
            ("eom", self.eom),
            ("unk", self.unk),
            ("pad", self.pad),
        ];
        all.into_iter().filter_map(|(name, id)| Some((name, id?)))
    }
}

/// A vocabulary as a GGUF file holds it: `tokenizer.ggml.*`, copied.
#[derive(Clone, Debug)]
pub struct VocabSpec {
    /// `tokenizer.ggml.model`.
    pub model: VocabModel,
    /// `tokenizer.ggml.pre`; absent means `default`, which is ggml's rule. Ignored by
    /// SentencePiece vocabularies, which have no pre-tokeniser.
    pub pre: Option<String>,
    /// Token texts by id. Byte-level vocabularies write bytes in GPT-2's printable alphabet.
    pub tokens: Vec<String>,
    /// One entry a token, or empty: then all are [`TokenType::Normal`].
    pub token_types: Vec<TokenType>,
    /// One entry a token for SentencePiece; otherwise ignored.
    pub scores: Vec<f32>,
    /// `left right` by rank, best first, for byte-level BPE; otherwise ignored.
    pub merges: Vec<String>,
    /// Tokens with a role.
    pub special: SpecialIds,
    /// Prompts begin with `special.bos`. See [`default_add_bos`](Self::default_add_bos) for files
    /// that do not say.
    pub add_bos: bool,
    /// The model was trained with `special.eos` after each text. Recorded, never acted on: a
    /// prompt that ends with it would be finished before the model says a word.
    pub add_eos: bool,
    /// SentencePiece: text gets a space in front, so that its first word is like any other.
    pub add_space_prefix: bool,
}

impl VocabSpec {
    /// ggml's rule for files without `tokenizer.ggml.add_bos_token`.
    pub fn default_add_bos(model: VocabModel, pre: Option<&str>) -> bool {
        match model {
            VocabModel::SentencePiece => true,
            VocabModel::Bpe => pre
                .and_then(PreTokenizer::find)
                .is_some_and(|found| found.adds_bos_by_default()),
        }
    }
}
