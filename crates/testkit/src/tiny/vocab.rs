//! A made-up vocabulary of 512 tokens for byte-level BPE.
//!
//! ```text
//! 0 <pad>  1 <bos>  2 <eos>   control
//! 3 ..= 258                   the 256 bytes, in the printable alphabet of GPT-2
//! 259 ..= 468                 210 merges: "ba" "be" … "zu", then the same after a space
//! 469 ..= 511                 unused, as converters pad a vocabulary
//! ```

/// `tokenizer.ggml.token_type` of ordinary text.
const NORMAL: i32 = 1;
/// … of tokens that text does not produce, such as the end of a sequence.
const CONTROL: i32 = 3;
/// … of fillers.
const UNUSED: i32 = 5;

pub(super) const PAD_ID: u32 = 0;
pub(super) const BOS_ID: u32 = 1;
pub(super) const EOS_ID: u32 = 2;
/// The byte 0; the others follow.
pub(super) const BYTES_ID: usize = 3;
/// The first of those that nothing produces.
pub(super) const UNUSED_ID: usize = 469;

/// Tokens with their types, and merges as GGUF writes them: both halves, a space between.
#[derive(Default)]
pub(super) struct Vocab {
    pub(super) tokens: Vec<String>,
    pub(super) token_types: Vec<i32>,
    pub(super) merges: Vec<String>,
}

impl Vocab {
    pub(super) fn new(len: usize) -> Self {
        let mut vocab = Self::default();
        for control in ["<pad>", "<bos>", "<eos>"] {
            vocab.push(control.to_owned(), CONTROL);
        }
        for byte in 0..=255 {
            vocab.push(byte_char(byte).to_string(), NORMAL);
        }
        let consonants = ('b'..='z').filter(|letter| !"eiou".contains(*letter));
        let syllables: Vec<(char, char)> = consonants
            .flat_map(|first| "aeiou".chars().map(move |second| (first, second)))
            .collect();
        for (first, second) in &syllables {
            vocab.merge(&first.to_string(), &second.to_string());
        }
        for (first, second) in &syllables {
            vocab.merge(&byte_char(b' ').to_string(), &format!("{first}{second}"));
        }
        for idx in vocab.tokens.len()..len {
            vocab.push(format!("[PAD{idx}]"), UNUSED);
        }
        vocab
    }

    /// Spells an ordinary or a control token anew.
    pub(super) fn respell(&mut self, id: usize, text: &str, is_control: bool) {
        (self.tokens[id], self.token_types[id]) = if is_control {
            (text.to_owned(), CONTROL)
        } else {
            (text.bytes().map(byte_char).collect(), NORMAL)
        };
    }

    fn push(&mut self, token: String, token_type: i32) {
        self.tokens.push(token);
        self.token_types.push(token_type);
    }

    fn merge(&mut self, left: &str, right: &str) {
        self.push(format!("{left}{right}"), NORMAL);
        self.merges.push(format!("{left} {right}"));
    }
}

/// GPT-2's printable stand-in for a byte: itself where it prints, else the next free character
/// from U+0100 on.
fn byte_char(byte: u8) -> char {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if prints(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&earlier| !prints(earlier)).count();
    // At most 67 bytes do not print.
    u32::try_from(rank)
        .ok()
        .and_then(|rank| char::from_u32(0x100 + rank))
        .unwrap_or('\u{FFFD}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Vocab, byte_char};

    #[test]
    fn bytes_have_the_letters_of_gpt2() {
        let cases = [
            (b'a', 'a'),
            (b' ', 'Ġ'),
            (b'\n', 'Ċ'),
            (0, 'Ā'),
            (0xAD, 'Ń'),
            (0xFF, 'ÿ'),
        ];
        for (byte, letter) in cases {
            assert_eq!(byte_char(byte), letter, "{byte}");
        }
    }

    #[test]
    fn tokens_are_distinct_and_merges_make_tokens() {
        let vocab = Vocab::new(512);
        assert_eq!((vocab.tokens.len(), vocab.token_types.len()), (512, 512));
        assert_eq!(vocab.merges.len(), 210);
        assert_eq!(vocab.tokens.iter().collect::<BTreeSet<_>>().len(), 512);
        for merge in &vocab.merges {
            assert!(
                vocab.tokens.contains(&merge.replacen(' ', "", 1)),
                "{merge}"
            );
        }
    }
}
