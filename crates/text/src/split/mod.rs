//! Pre-tokenisation: cutting text into pieces that merges never cross.
//!
//! Models publish this step as regular expressions that need look-ahead, which in a backtracking
//! engine means a step limit that long runs of one character reach. Each pattern is a handful of
//! character runs, so here it is a scanner: one pass, linear for any text. The tests hold each
//! scanner against the published expression.

mod class;
mod scan;

use std::borrow::Cow;

use tokenizers::normalizers::NFC;
use tokenizers::{NormalizedString, Normalizer};

use crate::error::TextError;

/// How a family of models cuts text.
pub(crate) struct PreTokenizer {
    /// Values of `tokenizer.ggml.pre` that mean this family.
    names: &'static [&'static str],
    /// Length of the first piece of a text that is not empty, at least one character.
    piece_len: fn(&str) -> usize,
    /// Text is first brought into Unicode's composed form NFC.
    composes: bool,
    /// A piece that is a token as a whole is that token, even if no merges lead there.
    ignores_merges: bool,
    /// ggml's rule for files that do not say whether prompts begin with BOS.
    adds_bos_by_default: bool,
}

const GPT2: PreTokenizer = PreTokenizer {
    names: &["gpt-2", "phi-2"],
    piece_len: scan::gpt2,
    composes: false,
    ignores_merges: false,
    adds_bos_by_default: false,
};

static FAMILIES: [PreTokenizer; 6] = [
    GPT2,
    PreTokenizer {
        names: &["default"],
        piece_len: scan::ggml_default,
        ..GPT2
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact"],
        piece_len: scan::single_digits,
        ..GPT2
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        piece_len: scan::case_insensitive::<1>,
        composes: true,
        ..GPT2
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        piece_len: scan::case_insensitive::<3>,
        ignores_merges: true,
        adds_bos_by_default: true,
        ..GPT2
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe"],
        piece_len: scan::case_insensitive::<3>,
        ..GPT2
    },
];

impl PreTokenizer {
    /// The family a model file names, `default` if it names none.
    ///
    /// # Errors
    /// [`TextError::UnsupportedPre`].
    pub fn named(name: Option<&str>) -> Result<&'static Self, TextError> {
        let name = name.unwrap_or("default");
        Self::find(name).ok_or_else(|| TextError::UnsupportedPre {
            given: name.to_owned(),
            supported: FAMILIES
                .iter()
                .flat_map(|family| family.names)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    pub fn find(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.names.contains(&name))
    }

    /// The text that is cut into pieces.
    pub fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        // No character below U+0300 is a combining one or has another composed form.
        if !self.composes || text.chars().all(|c| c < '\u{300}') {
            return Cow::Borrowed(text);
        }
        let mut normalized = NormalizedString::from(text);
        match NFC.normalize(&mut normalized) {
            Ok(()) => Cow::Owned(normalized.get().to_owned()),
            Err(error) => unreachable!("composing characters has no failure: {error}"),
        }
    }

    /// Bytes of the first piece of `text`, which is not empty.
    pub fn piece_len(&self, text: &str) -> usize {
        (self.piece_len)(text)
    }

    pub fn ignores_merges(&self) -> bool {
        self.ignores_merges
    }

    pub fn adds_bos_by_default(&self) -> bool {
        self.adds_bos_by_default
    }
}

#[cfg(test)]
mod tests;
