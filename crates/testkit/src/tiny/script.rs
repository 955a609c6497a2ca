//! Models that say what a test wants.

use std::path::Path;

use kvist_base::{QuantFormat, mix64};

use super::TinyModel;
use super::gguf::{Content, Encoding, convert_with};
use super::vocab::{BYTES_ID, EOS_ID, UNUSED_ID, Vocab};

/// What a model says, and how conversations are written for it.
///
/// A real model with weights made for the purpose: attention and MLP add nothing, so that what
/// follows a token depends on that token alone, and the head gives each piece to its predecessor.
/// Each piece is one token of its vocabulary. The first follows the byte `after`, and behind the
/// last the answer ends.
#[derive(Clone, Copy, Debug)]
pub struct Script<'s> {
    /// The chat template. Its prompts end with the byte `after`.
    pub template: &'s str,
    /// The byte that the answer follows.
    pub after: u8,
    /// What is said, at most [`Self::PIECES_MAX`].
    pub pieces: &'s [&'s str],
    /// Texts among the pieces that are control tokens.
    pub controls: &'s [&'s str],
}

impl Script<'_> {
    /// As many as the vocabulary has places.
    pub const PIECES_MAX: usize = 512 - UNUSED_ID;

    /// Writes the model as a GGUF file.
    ///
    /// # Panics
    /// With too many pieces, or when the file cannot be written.
    pub fn write_gguf(&self, path: &Path) {
        assert!(self.pieces.len() <= Self::PIECES_MAX, "too many pieces");
        let model = TinyModel::load("llama3");
        let mut vocab = Vocab::new(512);
        for (id, piece) in (UNUSED_ID..).zip(self.pieces) {
            vocab.respell(id, piece, self.controls.contains(piece));
        }
        let content = Content {
            vocab,
            template: self.template,
            weights: &|name, shape| self.weights(name, shape),
        };
        let encoding = Encoding {
            format: QuantFormat::F32,
            encode: &|row| row.iter().flat_map(|weight| weight.to_le_bytes()).collect(),
        };
        let file = convert_with(&model, &encoding, content);
        file.write_file(path).expect("a tiny model can be written");
    }

    fn weights(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let len = shape.iter().product();
        match name {
            "model.embed_tokens.weight" => (0..shape[0])
                .flat_map(|token| embedding(token, shape[1]))
                .collect(),
            "lm_head.weight" => {
                let rows = (0..shape[0]).flat_map(|token| match self.predecessor(token) {
                    Some(before) => embedding(before, shape[1]),
                    None => vec![0.0; shape[1]],
                });
                rows.collect()
            }
            _ if name.ends_with("norm.weight") => vec![1.0; len],
            _ => vec![0.0; len],
        }
    }

    /// The token that `token` follows, if it is one of the script.
    fn predecessor(&self, token: usize) -> Option<usize> {
        let end = UNUSED_ID + self.pieces.len();
        match token {
            UNUSED_ID => Some(BYTES_ID + usize::from(self.after)),
            _ if token == EOS_ID as usize => Some(end - 1),
            _ => (UNUSED_ID + 1..end).contains(&token).then(|| token - 1),
        }
    }
}

/// Signs that no two tokens share more than by chance: of 64, all with itself, few with another.
fn embedding(token: usize, width: usize) -> Vec<f32> {
    let word = mix64(token as u64 ^ 0x5C71_77ED);
    let sign = |bit: usize| {
        if word >> (bit % 64) & 1 == 1 {
            1.0
        } else {
            -1.0
        }
    };
    (0..width).map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::{UNUSED_ID, embedding};

    #[test]
    fn tokens_of_a_script_are_told_apart() {
        let dot = |a: usize, b: usize| -> f32 {
            let pairs = embedding(a, 64).into_iter().zip(embedding(b, 64));
            pairs.map(|(x, y)| x * y).sum()
        };
        for a in (3..259).chain(UNUSED_ID..512) {
            assert!((dot(a, a) - 64.0).abs() < 1e-6);
            for b in UNUSED_ID..512 {
                assert!(a == b || dot(a, b) <= 44.0, "{a} and {b}: {}", dot(a, b));
            }
        }
    }
}
