//! Tokenizers through the public interface, with small vocabularies.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kvist_base::{TokenId, mix64};
use kvist_text::{
    DetokenizeOptions, Detokenizer, SpecialIds, SpecialText, TextError, TokenType, Tokenizer,
    TokenizerJsonOptions, VocabModel, VocabSpec, encode_prompt, from_tokenizer_json, from_vocab,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A byte-level vocabulary of 470 tokens trained on a few lines in several scripts.
#[derive(Deserialize)]
struct Tiny {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

fn tiny() -> Tiny {
    serde_json::from_str(include_str!("data/tiny_bpe.json")).unwrap()
}

fn position(tokens: &[String], text: &str) -> Option<TokenId> {
    tokens
        .iter()
        .position(|token| token == text)
        .map(|at| TokenId(u32::try_from(at).unwrap()))
}

fn tiny_spec(pre: &str) -> VocabSpec {
    let Tiny {
        tokens,
        types,
        merges,
    } = tiny();
    let special = SpecialIds {
        bos: position(&tokens, "<|im_start|>"),
        eos: position(&tokens, "<|im_end|>"),
        ..SpecialIds::default()
    };
    VocabSpec {
        model: VocabModel::Bpe,
        pre: Some(pre.to_owned()),
        tokens,
        token_types: types
            .into_iter()
            .map(|kind| TokenType::try_from(kind).unwrap())
            .collect(),
        scores: Vec::new(),
        merges,
        special,
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
    }
}

fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

fn encode(tokenizer: &dyn Tokenizer, text: &str, mode: SpecialText) -> Vec<u32> {
    ids(&tokenizer.encode(text, mode).unwrap())
}

fn decode(tokenizer: &Arc<dyn Tokenizer>, tokens: &[u32]) -> String {
    let options = DetokenizeOptions {
        skip_special_tokens: false,
        ..DetokenizeOptions::default()
    };
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), options);
    let mut text: String = tokens
        .iter()
        .map(|&id| detokenizer.push(TokenId(id)))
        .collect();
    text.push_str(&detokenizer.finish());
    text
}

/// Ids made by the tokenizers library in Python from the same vocabulary and the published
/// pre-tokenisers.
#[test]
fn ids_are_those_of_the_published_tokenizers() {
    #[derive(Deserialize)]
    struct Row {
        pre: String,
        text: String,
        ids: Vec<u32>,
        plain_ids: Option<Vec<u32>>,
    }
    let rows: Vec<Row> = serde_json::from_str(include_str!("data/tiny_bpe_ids.json")).unwrap();
    for pre in [
        "gpt-2",
        "default",
        "smollm",
        "qwen2",
        "deepseek-r1-qwen",
        "llama-bpe",
    ] {
        let tokenizer = from_vocab(tiny_spec(pre)).unwrap();
        let rows: Vec<&Row> = rows.iter().filter(|row| row.pre == pre).collect();
        assert!(rows.len() > 60);
        for row in rows {
            let parsed = encode(&*tokenizer, &row.text, SpecialText::Parse);
            assert_eq!(parsed, row.ids, "{pre} {:?}", row.text);
            let plain = encode(&*tokenizer, &row.text, SpecialText::Plain);
            assert_eq!(
                plain,
                *row.plain_ids.as_ref().unwrap_or(&row.ids),
                "{pre} {:?}",
                row.text
            );
            let composes = ["qwen2", "deepseek-r1-qwen"].contains(&pre);
            if !composes {
                assert_eq!(decode(&tokenizer, &plain), row.text);
            }
        }
    }
}

/// The same vocabulary as a `tokenizer.json`.
fn tiny_json(pre_tokenizer: &Value, normalizer: &Value, ignore_merges: bool) -> Vec<u8> {
    let Tiny {
        tokens,
        types,
        merges,
    } = tiny();
    let added = |kind: i32| {
        (0u32..)
            .zip(&tokens)
            .zip(&types)
            .filter(move |(_, t)| **t == kind)
            .map(move |(token, _)| {
                json!({
                    "id": token.0, "content": token.1, "special": kind == 3, "normalized": false,
                    "single_word": false, "lstrip": false, "rstrip": false,
                })
            })
    };
    let vocab: serde_json::Map<String, Value> = (0u32..)
        .zip(&tokens)
        .map(|(id, text)| (text.clone(), id.into()))
        .collect();
    let file = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": added(3).chain(added(4)).collect::<Vec<_>>(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    serde_json::to_vec(&file).unwrap()
}

fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
    })
}

fn json_tokenizers() -> [(&'static str, Arc<dyn Tokenizer>); 3] {
    let digits = json!({
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)],
    });
    let split = |max: u32| {
        let regex = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{max}}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        json!({
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
                byte_level(false),
            ],
        })
    };
    let spec = tiny_spec("smollm");
    let options = TokenizerJsonOptions {
        special: spec.special,
        add_bos: false,
    };
    let load = |json: Vec<u8>| from_tokenizer_json(&json, &options).unwrap();
    [
        ("smollm", load(tiny_json(&digits, &Value::Null, false))),
        (
            "qwen2",
            load(tiny_json(&split(1), &json!({"type": "NFC"}), false)),
        ),
        ("llama-bpe", load(tiny_json(&split(3), &Value::Null, true))),
    ]
}

fn noise(seed: u64) -> String {
    const PARTS: [&str; 32] = [
        "a",
        "the",
        " the",
        "ing",
        "é",
        "e\u{301}",
        "1",
        "23",
        "4567",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'LL",
        "ſ",
        "ß",
        ".",
        "...",
        "!",
        "<|im_end|>",
        "<|x|>",
        "<think>",
        "中文",
        "日本",
        "😀",
        "\u{200d}",
        "\u{a0}",
        " zqzq",
        "zqzq",
        "\u{1}",
    ];
    (0..25)
        .map(|n| PARTS[usize::try_from(mix64(seed * 25 + n) >> 9 & 31).unwrap()])
        .collect()
}

/// Two implementations, one vocabulary.
#[test]
fn a_tokenizer_json_gives_the_same_tokens() {
    for (pre, from_json) in json_tokenizers() {
        let own = from_vocab(tiny_spec(pre)).unwrap();
        for seed in 0..300 {
            let text = noise(seed);
            for mode in [SpecialText::Parse, SpecialText::Plain] {
                let expected = encode(&*from_json, &text, mode);
                assert_eq!(
                    encode(&*own, &text, mode),
                    expected,
                    "{pre} {mode:?} {text:?}"
                );
                assert_eq!(decode(&own, &expected), decode(&from_json, &expected));
            }
        }
        assert_eq!(own.vocab_len(), from_json.vocab_len());
        assert_eq!(own.end_tokens(), from_json.end_tokens());
        assert_eq!(own.longest_token_bytes(), from_json.longest_token_bytes());
        for id in 0..=u32::try_from(own.vocab_len()).unwrap() {
            let token = TokenId(id);
            assert_eq!(
                own.token_bytes(token),
                from_json.token_bytes(token),
                "{pre} {id}"
            );
            assert_eq!(
                own.is_special(token),
                from_json.is_special(token),
                "{pre} {id}"
            );
        }
    }
}

#[test]
fn every_byte_survives() {
    let tokenizer = from_vocab(tiny_spec("llama-bpe")).unwrap();
    let all: String = (0..=0x2FF)
        .chain([0x1_F600, 0x10_FFFF])
        .filter_map(char::from_u32)
        .collect();
    assert_eq!(
        decode(&tokenizer, &encode(&*tokenizer, &all, SpecialText::Plain)),
        all
    );
    let mut bytes: Vec<u8> = (0..256)
        .filter_map(|id| tokenizer.token_bytes(TokenId(id)))
        .map(|token| token[0])
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    assert_eq!(tokenizer.token_bytes(TokenId(100_000)), None);
}

#[test]
fn user_text_never_becomes_a_control_token() {
    let tokenizer = from_vocab(tiny_spec("smollm")).unwrap();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    let think = tokenizer.token_id("<think>").unwrap();
    let encode = |text, mode| tokenizer.encode(text, mode).unwrap();
    assert_eq!(encode("<|im_end|>", SpecialText::Parse), [end]);
    let plain = encode("<|im_end|>", SpecialText::Plain);
    assert!(plain.len() > 1 && !plain.contains(&end));
    assert_eq!(encode("<think>", SpecialText::Plain), [think]);
    assert!(tokenizer.is_special(end) && tokenizer.is_end(end) && !tokenizer.is_special(think));
    assert!(tokenizer.is_end(tokenizer.token_id("<|endoftext|>").unwrap()));
    assert!(!tokenizer.is_end(tokenizer.token_id("<|im_start|>").unwrap()));
}

#[test]
fn a_prompt_begins_with_one_bos_or_none() {
    let spec = VocabSpec {
        add_bos: true,
        ..tiny_spec("smollm")
    };
    let bos = spec.special.bos.unwrap();
    let with = from_vocab(spec).unwrap();
    let without = from_vocab(tiny_spec("smollm")).unwrap();
    let count = |tokenizer: &dyn Tokenizer, text, mode| {
        let tokens = encode_prompt(tokenizer, text, mode).unwrap();
        let leading = tokens.first() == Some(&bos);
        (
            leading,
            tokens.iter().filter(|&&token| token == bos).count(),
        )
    };
    assert_eq!(count(&*with, "hi", SpecialText::Parse), (true, 1));
    assert_eq!(
        count(&*with, "<|im_start|>hi", SpecialText::Parse),
        (true, 1)
    );
    assert_eq!(
        count(&*with, "<|im_start|>hi", SpecialText::Plain),
        (true, 1)
    );
    assert_eq!(count(&*with, "", SpecialText::Parse), (true, 1));
    assert_eq!(count(&*without, "hi", SpecialText::Parse), (false, 0));
    assert_eq!(
        count(&*without, "<|im_start|>hi", SpecialText::Parse),
        (true, 1)
    );
    assert_eq!(
        (with.bos_if_wanted(), without.bos_if_wanted()),
        (Some(bos), None)
    );
}

#[test]
fn files_that_do_not_say_follow_ggml() {
    assert!(VocabSpec::default_add_bos(VocabModel::SentencePiece, None));
    assert!(VocabSpec::default_add_bos(
        VocabModel::Bpe,
        Some("llama-bpe")
    ));
    assert!(!VocabSpec::default_add_bos(VocabModel::Bpe, Some("qwen2")));
    assert!(!VocabSpec::default_add_bos(VocabModel::Bpe, None));
    let unnamed = from_vocab(VocabSpec {
        pre: None,
        ..tiny_spec("default")
    })
    .unwrap();
    let default = from_vocab(tiny_spec("default")).unwrap();
    let text = "a  1234!x";
    let mode = SpecialText::Parse;
    assert_eq!(encode(&*unnamed, text, mode), encode(&*default, text, mode));
}

#[test]
fn contradictory_vocabularies_are_refused_by_name() {
    let refuse = |change: fn(&mut VocabSpec)| {
        let mut spec = tiny_spec("smollm");
        change(&mut spec);
        from_vocab(spec).err().unwrap()
    };
    let error = refuse(|spec| spec.special.eos = Some(TokenId(9999)));
    assert!(
        matches!(error, TextError::SpecialIdOutOfRange { name: "eos", .. }),
        "{error}"
    );
    let error = refuse(|spec| spec.token_types.truncate(3));
    assert!(matches!(
        error,
        TextError::ListLength {
            field: "token_types",
            given: 3,
            ..
        }
    ));
    let error = refuse(|spec| spec.merges[7] = spec.merges[2].clone());
    assert!(
        matches!(error, TextError::BadMerge { index: 7, .. }),
        "{error}"
    );
    let error = refuse(|spec| spec.merges[7] = "nospace".to_owned());
    assert!(
        matches!(error, TextError::BadMerge { index: 7, .. }),
        "{error}"
    );
    let error = refuse(|spec| spec.merges[7] = "q ☃".to_owned());
    assert!(
        matches!(error, TextError::BadMerge { index: 7, .. }),
        "{error}"
    );
    let error = refuse(|spec| spec.pre = Some("tekken".to_owned()));
    assert!(matches!(error, TextError::UnsupportedPre { .. }), "{error}");
    let error = refuse(|spec| spec.model = VocabModel::SentencePiece);
    assert!(
        matches!(
            error,
            TextError::ListLength {
                field: "scores",
                given: 0,
                ..
            }
        ),
        "{error}"
    );
    let error = refuse(|spec| {
        spec.tokens.clear();
        spec.token_types.clear();
    });
    assert!(
        matches!(
            error,
            TextError::ListLength {
                field: "tokens",
                ..
            }
        ),
        "{error}"
    );
    assert!(matches!(
        "bert".parse::<VocabModel>(),
        Err(TextError::UnsupportedModel { .. })
    ));
    assert!(matches!(
        TokenType::try_from(7),
        Err(TextError::UnknownTokenType { given: 7 })
    ));
}

#[test]
fn unusable_tokenizer_files_are_refused() {
    let options = TokenizerJsonOptions::default();
    let refuse = |json: &[u8]| from_tokenizer_json(json, &options).err().unwrap();
    assert!(matches!(refuse(b"{"), TextError::TokenizerJson { .. }));
    assert!(matches!(
        refuse(b"{\"decoder\":{\"type\":\"ByteLevel\"}}"),
        TextError::TokenizerJson { .. }
    ));
    let word_piece = refuse(b"{\"decoder\":{\"type\":\"WordPiece\"}}");
    assert!(
        matches!(word_piece, TextError::UnsupportedDecoder { .. }),
        "{word_piece}"
    );
}

/// A byte the vocabulary lacks is left out; the unknown token stands in only if it is not a
/// control token, which text must not become.
#[test]
fn bytes_without_a_token_do_not_end_the_conversation() {
    let lacking = |unknown: &str| {
        let mut spec = tiny_spec("smollm");
        spec.special.unk = position(&spec.tokens, unknown);
        let at = position(&spec.tokens, "ġ").unwrap(); // the byte 0x7F
        spec.token_types[at.idx()] = TokenType::Unused;
        from_vocab(spec).unwrap()
    };
    let text = "x\u{7f}y";
    let plain = |tokenizer: Arc<dyn Tokenizer>| {
        decode(&tokenizer, &encode(&*tokenizer, text, SpecialText::Plain))
    };
    assert_eq!(plain(lacking("<|endoftext|>")), "xy");
    assert_eq!(plain(lacking("?")), "x?y");
}

#[test]
fn a_megabyte_of_anything_is_tokenised_in_moments() {
    let tokenizer = from_vocab(tiny_spec("qwen2")).unwrap();
    for unit in [
        " ",
        "\n",
        "a",
        "......",
        "😀",
        "<|im_star",
        "Hello, world! ",
    ] {
        let text = unit.repeat((1 << 18) / unit.len());
        let tokens = encode(&*tokenizer, &text, SpecialText::Parse);
        assert_eq!(decode(&tokenizer, &tokens), text);
        assert!(tokens.len() * tokenizer.longest_token_bytes() >= text.len());
    }
}
