//! Scanners against the published expressions.

use kvist_base::mix64;
use serde::Deserialize;
use tokenizers::utils::SysRegex;

use super::class::{is_letter, is_number, is_punctuation, is_symbol};
use super::*;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The pattern of Llama 3 and Qwen 2, with at most `digits` in a piece.
fn case_insensitive(digits: usize) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{digits}}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

fn pieces<'t>(pre: &PreTokenizer, text: &'t str) -> Vec<&'t str> {
    let mut rest = text;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let piece;
        (piece, rest) = rest.split_at(pre.piece_len(rest));
        assert!(!piece.is_empty(), "{rest:?}");
        pieces.push(piece);
    }
    pieces
}

fn family(name: &str) -> &'static PreTokenizer {
    PreTokenizer::named(Some(name)).unwrap()
}

/// Made by the tokenizers library from the pre-tokenisers of the published `tokenizer.json`s; for
/// `default` from ggml's four expressions.
#[test]
fn pieces_are_those_of_the_published_tokenizers() {
    #[derive(Deserialize)]
    struct Row {
        pre: String,
        text: String,
        pieces: Vec<String>,
    }
    let rows: Vec<Row> =
        serde_json::from_str(include_str!("../../tests/data/splits.json")).unwrap();
    assert!(rows.len() > 500);
    for row in rows {
        let pre = family(&row.pre);
        let text = pre.normalize(&row.text);
        assert_eq!(pieces(pre, &text), row.pieces, "{} {:?}", row.pre, row.text);
    }
}

/// Text of characters that matter to the patterns, and some that are anything.
fn noise(seed: u64) -> String {
    const CHARS: [char; 32] = [
        ' ', ' ', ' ', '\n', '\r', '\t', '\'', '\'', 's', 'S', 'l', 'L', 'r', 'e', 'v', 'E', 'ſ',
        'a', 'é', '中', '1', '2', '٣', 'Ⅷ', '½', '.', '!', '<', '\u{301}', '\u{a0}', '\u{3000}',
        '😀',
    ];
    (0..40u64)
        .filter_map(|n| {
            let draw = mix64(seed.wrapping_mul(1000).wrapping_add(n));
            let code = u32::try_from(draw >> 8 & 0x1_FFFF).unwrap();
            match draw & 7 {
                0 => char::from_u32(code),
                _ => Some(CHARS[usize::try_from(draw >> 8 & 31).unwrap()]),
            }
        })
        .collect()
}

#[test]
fn scanners_agree_with_the_expressions_on_noise() {
    for (name, pattern) in [
        ("gpt-2", GPT2.to_owned()),
        ("qwen2", case_insensitive(1)),
        ("llama-bpe", case_insensitive(3)),
    ] {
        let regex = SysRegex::new(&pattern).unwrap();
        for seed in 0..2000 {
            let text = noise(seed);
            let expected: Vec<&str> = regex
                .find_iter(&text)
                .map(|(start, end)| &text[start..end])
                .collect();
            assert_eq!(pieces(family(name), &text), expected, "{name} {text:?}");
        }
    }
}

#[test]
fn classes_are_those_of_the_expressions() {
    let all: String = ('\0'..=char::MAX).collect();
    for (pattern, class) in [
        (r"\p{L}+", is_letter as fn(char) -> bool),
        (r"\p{N}+", is_number),
        (r"\p{P}+", is_punctuation),
        (r"\s+", char::is_whitespace),
        (r"[^\s\p{L}\p{N}]+", is_symbol),
    ] {
        let regex = SysRegex::new(pattern).unwrap();
        let expected: String = regex
            .find_iter(&all)
            .map(|(start, end)| &all[start..end])
            .collect();
        assert_eq!(
            all.chars().filter(|&c| class(c)).collect::<String>(),
            expected,
            "{pattern}"
        );
    }
}

/// Quadratic scanners would need minutes for this.
#[test]
fn long_runs_take_linear_time() {
    const LEN: usize = 1 << 17;
    for unit in [
        " ", "\n", " \n", "a", "'", "1", "１", "１123", "<", "\u{301}", "'\n", "a ", ".\n",
    ] {
        let text = unit.repeat(LEN / unit.len());
        for end in ["", "x"] {
            let text = text.clone() + end;
            for family in &FAMILIES {
                let mut rest = text.as_str();
                while !rest.is_empty() {
                    rest = &rest[family.piece_len(rest)..];
                }
            }
        }
    }
}

#[test]
fn only_families_that_compose_change_the_text() {
    let text = "e\u{301}x";
    assert_eq!(family("qwen2").normalize(text), "éx");
    assert_eq!(
        family("deepseek-r1-qwen").normalize("\u{1112}\u{1161}\u{11ab}"),
        "한"
    );
    assert_eq!(family("llama-bpe").normalize(text), text);
}

#[test]
fn unknown_names_are_refused_with_the_list() {
    let error = PreTokenizer::named(Some("tekken"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("\"tekken\"") && error.contains("smollm") && error.contains("qwen2"));
    assert_eq!(PreTokenizer::named(None).unwrap().names, ["default"]);
}
