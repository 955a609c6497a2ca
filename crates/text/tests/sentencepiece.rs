//! SentencePiece vocabularies through the public interface.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kvist_base::{TokenId, mix64};
use kvist_text::{
    DetokenizeOptions, Detokenizer, SpecialIds, SpecialText, TextError, TokenType, Tokenizer,
    VocabModel, VocabSpec, from_vocab,
};

const FIRST_BYTE: u32 = 3;
const FIRST_WORD: u32 = FIRST_BYTE + 256;

/// `<unk>`, `<s>`, `</s>`, all bytes, and `words` with their scores.
fn spec(words: &[(&str, f32)]) -> VocabSpec {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut token_types = vec![TokenType::Unknown, TokenType::Control, TokenType::Control];
    let mut scores = vec![0.0; 3 + 256];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        token_types.push(TokenType::Byte);
    }
    for &(word, score) in words {
        tokens.push(word.to_owned());
        token_types.push(TokenType::Normal);
        scores.push(score);
    }
    VocabSpec {
        model: VocabModel::SentencePiece,
        pre: None,
        tokens,
        token_types,
        scores,
        merges: Vec::new(),
        special: SpecialIds {
            bos: Some(TokenId(1)),
            eos: Some(TokenId(2)),
            unk: Some(TokenId(0)),
            ..SpecialIds::default()
        },
        add_bos: true,
        add_eos: false,
        add_space_prefix: true,
    }
}

const WORDS: [(&str, f32); 14] = [
    ("▁", -10.0),
    ("a", -11.0),
    ("b", -12.0),
    ("<", -13.0),
    ("/", -14.0),
    ("s", -15.0),
    (">", -16.0),
    ("ab", -1.0),
    ("▁a", -2.0),
    ("ba", -3.0),
    ("aba", -4.0),
    ("▁ab", -0.5),
    ("bab", -4.0),
    ("▁▁", -5.0),
];

fn texts(tokenizer: &dyn Tokenizer, text: &str, mode: SpecialText) -> Vec<String> {
    let tokens = tokenizer.encode(text, mode).unwrap();
    let bytes = tokens
        .iter()
        .map(|&token| tokenizer.token_bytes(token).unwrap().into_owned());
    bytes
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

#[test]
fn the_best_score_merges_first() {
    let tokenizer = from_vocab(spec(&WORDS)).unwrap();
    let plain = |text| texts(&*tokenizer, text, SpecialText::Plain);
    // `ab` (-1) before `▁a` (-2), then `▁ab` (-0.5).
    assert_eq!(plain("ab"), [" ab"]);
    // Two `ab`: the left one first, and `▁ab` before `bab`.
    assert_eq!(plain("abab"), [" ab", "ab"]);
    assert_eq!(plain("  a"), ["  ", " a"]);
    assert_eq!(plain(""), [""; 0]);
}

#[test]
fn the_space_in_front_is_the_vocabularys_choice() {
    let without = VocabSpec {
        add_space_prefix: false,
        ..spec(&WORDS)
    };
    let tokenizer = from_vocab(without).unwrap();
    assert_eq!(texts(&*tokenizer, "ab", SpecialText::Plain), ["ab"]);
    assert_eq!(texts(&*tokenizer, " ab", SpecialText::Plain), [" ab"]);
    // Text after a control token is a text of its own.
    let tokenizer = from_vocab(spec(&WORDS)).unwrap();
    let parsed = texts(&*tokenizer, "ab</s>ab", SpecialText::Parse);
    assert_eq!(parsed, [" ab", "</s>", " ab"]);
}

#[test]
fn control_tokens_do_not_come_from_merging() {
    // Scores of control tokens are zero, better than any word's.
    let mut words = WORDS.to_vec();
    words.extend([("</", -6.0), ("</s", -7.0), ("s>", -8.0)]);
    let tokenizer = from_vocab(spec(&words)).unwrap();
    assert_eq!(
        texts(&*tokenizer, "</s>", SpecialText::Plain),
        [" ", "</s", ">"]
    );
    assert_eq!(texts(&*tokenizer, "</s>", SpecialText::Parse), ["</s>"]);
    let plain = tokenizer.encode("<0x41>", SpecialText::Plain).unwrap();
    assert!(!plain.contains(&TokenId(FIRST_BYTE + 0x41)));
}

#[test]
fn characters_without_a_token_become_their_bytes() {
    let tokenizer = from_vocab(spec(&WORDS)).unwrap();
    let tokens = tokenizer.encode("aé", SpecialText::Plain).unwrap();
    let ab = tokenizer.token_id("▁a").unwrap();
    assert_eq!(
        tokens,
        [ab, TokenId(FIRST_BYTE + 0xC3), TokenId(FIRST_BYTE + 0xA9)]
    );
    let text = "中 😀\u{0}\n";
    let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), DetokenizeOptions::default());
    let tokens = tokenizer.encode(text, SpecialText::Plain).unwrap();
    let mut decoded: String = tokens
        .iter()
        .map(|&token| detokenizer.push(token))
        .collect();
    decoded += &detokenizer.finish();
    assert_eq!(decoded, format!(" {text}"));
}

/// The definition: join the neighbours whose union scores best, leftmost first, and start over.
fn naive(spec: &VocabSpec, text: &str) -> Vec<String> {
    let mut symbols: Vec<String> = format!("▁{}", text.replace(' ', "▁"))
        .chars()
        .map(String::from)
        .collect();
    let score = |text: &str| {
        let words = FIRST_WORD as usize..;
        let found = spec.tokens[words.clone()]
            .iter()
            .position(|token| token == text)?;
        Some(spec.scores[words.start + found])
    };
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..symbols.len() {
            if let Some(score) = score(&(symbols[at - 1].clone() + &symbols[at]))
                && best.is_none_or(|(top, _)| score > top)
            {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at);
        symbols[at - 1] += &right;
    }
    symbols
        .iter()
        .map(|symbol| symbol.replace('▁', " "))
        .collect()
}

#[test]
fn merging_follows_the_definition() {
    let spec = spec(&WORDS);
    let tokenizer = from_vocab(spec.clone()).unwrap();
    for seed in 0..500u64 {
        let text: String = (0..30)
            .map(|n| ['a', 'b', ' ', 'a'][usize::try_from(mix64(seed * 30 + n) & 3).unwrap()])
            .collect();
        assert_eq!(
            texts(&*tokenizer, &text, SpecialText::Plain),
            naive(&spec, &text),
            "{text:?}"
        );
    }
}

#[test]
fn bad_entries_are_refused_by_name() {
    let mut bad = spec(&WORDS);
    bad.tokens[5] = "<0x-1>".to_owned();
    let error = from_vocab(bad).err().unwrap();
    assert!(
        matches!(
            error,
            TextError::BadByteToken {
                token: TokenId(5),
                ..
            }
        ),
        "{error}"
    );
    let mut bad = spec(&WORDS);
    bad.scores[9] = f32::NAN;
    let error = from_vocab(bad).err().unwrap();
    assert!(
        matches!(error, TextError::BadScore { token: TokenId(9) }),
        "{error}"
    );
}

#[test]
fn long_texts_take_no_more_than_their_length_allows() {
    let tokenizer = from_vocab(spec(&WORDS)).unwrap();
    for unit in ["a", "ab", " ", "😀", "</s", "aab b "] {
        let text = unit.repeat((1 << 17) / unit.len());
        let tokens = tokenizer.encode(&text, SpecialText::Parse).unwrap();
        assert!(tokens.len() * tokenizer.longest_token_bytes() >= text.len());
    }
}
