use std::borrow::Cow;

use kvist_base::mix64;

use super::*;
use crate::error::TextError;
use crate::tokenizer::SpecialText;

/// Token n is the byte n; token 256 is special and written `<x>`; token 257 is `é`.
struct Bytes;

const SPECIAL: TokenId = TokenId(256);

impl Tokenizer for Bytes {
    fn encode(&self, text: &str, _: SpecialText) -> Result<Vec<TokenId>, TextError> {
        Ok(text.bytes().map(|byte| TokenId(byte.into())).collect())
    }
    fn bos_if_wanted(&self) -> Option<TokenId> {
        None
    }
    fn token_bytes(&self, token: TokenId) -> Option<Cow<'_, [u8]>> {
        match token.0 {
            256 => Some(Cow::Borrowed(b"<x>")),
            257 => Some(Cow::Borrowed("é".as_bytes())),
            byte => Some(Cow::Owned(vec![u8::try_from(byte).ok()?])),
        }
    }
    fn is_special(&self, token: TokenId) -> bool {
        token == SPECIAL
    }
    fn end_tokens(&self) -> &[TokenId] {
        &[SPECIAL]
    }
    fn vocab_len(&self) -> usize {
        258
    }
    fn token_id(&self, _: &str) -> Option<TokenId> {
        None
    }
    fn longest_token_bytes(&self) -> usize {
        3
    }
}

fn detokenizer(skip_special_tokens: bool) -> Detokenizer {
    Detokenizer::new(
        Arc::new(Bytes),
        DetokenizeOptions {
            skip_special_tokens,
            ..DetokenizeOptions::default()
        },
    )
}

/// The deltas of all tokens and of the end.
fn deltas(tokens: &[TokenId]) -> Vec<TextDelta> {
    let mut detokenizer = detokenizer(true);
    let mut deltas: Vec<TextDelta> = tokens
        .iter()
        .map(|&token| detokenizer.push(token))
        .collect();
    deltas.push(detokenizer.finish());
    deltas
}

fn byte_tokens(bytes: &[u8]) -> Vec<TokenId> {
    bytes.iter().map(|&byte| TokenId(byte.into())).collect()
}

#[test]
fn a_character_comes_out_whole_with_its_last_byte() {
    let text = "aé中👩‍👩‍👧‍👦\u{301}";
    let mut at = 0;
    for (delta, byte) in deltas(&byte_tokens(text.as_bytes()))
        .iter()
        .zip(1..=text.len())
    {
        let expected = if text.is_char_boundary(byte) {
            &text[at..byte]
        } else {
            ""
        };
        assert_eq!(delta, expected);
        at += delta.len();
    }
    assert_eq!(at, text.len());
}

#[test]
fn deltas_add_up_to_the_lossy_text() {
    // Bytes that begin, continue and break characters of every length.
    const BYTES: [u8; 16] = [
        b'a', 0x80, 0xBF, 0xC3, 0xA9, 0xE4, 0xB8, 0xAD, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xA0, 0xF4,
        0xFF,
    ];
    for seed in 0..5000u64 {
        let bytes: Vec<u8> = (0..12)
            .map(|n| BYTES[usize::try_from(mix64(seed * 12 + n) & 15).unwrap()])
            .collect();
        let expected = String::from_utf8_lossy(&bytes);
        assert_eq!(
            deltas(&byte_tokens(&bytes)).concat(),
            expected,
            "{bytes:02x?}"
        );
    }
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(
        deltas(&byte_tokens(&all)).concat(),
        String::from_utf8_lossy(&all)
    );
}

#[test]
fn broken_bytes_are_replaced_only_when_nothing_can_complete_them() {
    let expected = ["", "", "\u{fffd}a", ""];
    assert_eq!(deltas(&byte_tokens(&[0xE4, 0xB8, b'a'])), expected);
    assert_eq!(deltas(&byte_tokens(&[0xE4, 0xB8])), ["", "", "\u{fffd}"]);
    assert_eq!(deltas(&byte_tokens(&[0x80])), ["\u{fffd}", ""]);
}

#[test]
fn special_tokens_and_padding_ids_have_no_text() {
    let tokens = [
        TokenId(257),
        SPECIAL,
        TokenId(0xC3),
        SPECIAL,
        TokenId(0xA9),
        TokenId(99_999),
    ];
    assert_eq!(deltas(&tokens).concat(), "éé");
    let mut visible = detokenizer(false);
    assert_eq!(
        tokens.map(|token| visible.push(token)).concat(),
        "é<x>\u{fffd}<x>\u{fffd}"
    );
    assert_eq!(visible.finish(), "");
}
