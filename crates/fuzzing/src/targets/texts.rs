//! Templates, vocabularies, stop strings.

use kvist_text::{
    ChatInput, ChatMessage, ChatTemplate, SpecialIds, SpecialText, StopMatcher, TemplateTokens,
    TokenType, VocabModel, VocabSpec, from_vocab,
};

pub(super) const TEMPLATE_WORDS: &[&[u8]] = &[
    b"{% for m in messages %}",
    b"{% endfor %}",
    b"{% if ",
    b"{% endif %}",
    b"{{ ",
    b" }}",
    b"{% set x = ",
    b"range(1000000000)",
    b"{% macro f() %}",
    b"{{ f() }}",
    b"{% endmacro %}",
    b"messages",
    b" * 1000000000",
    b"'a'",
    b"['content']",
    b"|tojson",
    b"loop.index0",
    b"raise_exception('x')",
    b"namespace(",
    b"~",
    b"%}",
];

/// Most bytes a rendering may have: far above the conversation that was given.
const RENDERED_MAX: usize = 64 << 20;

/// A template renders to a bounded text or is refused; it never hangs or crashes.
pub(super) fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else {
        return;
    };
    let tokens = TemplateTokens {
        bos: "<s>".to_owned(),
        eos: "</s>".to_owned(),
    };
    let Ok(template) = ChatTemplate::compile(source, tokens) else {
        return;
    };
    let message = |role: &str| ChatMessage {
        role: role.to_owned(),
        content: Some("words {{ 7 }} of a conversation".to_owned()),
        ..ChatMessage::default()
    };
    let input = ChatInput {
        messages: ["system", "user", "assistant", "user"].map(message).into(),
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    if let Ok(text) = template.render(&input) {
        assert!(text.len() <= RENDERED_MAX, "{} bytes", text.len());
        assert_eq!(template.render(&input).ok(), Some(text), "twice the same");
    }
}

/// A vocabulary is refused, or encodes any text to its own ids.
///
/// The input: one byte that says what it is, then lines: a token each, behind an empty line merges,
/// behind the next a text.
pub(super) fn vocab(bytes: &[u8]) {
    let Some((flags, rest)) = bytes.split_first() else {
        return;
    };
    let rest = String::from_utf8_lossy(rest);
    let mut parts = rest.splitn(3, "\n\n");
    let mut lines = || {
        parts
            .next()
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (tokens, merges, text) = (lines(), lines(), lines().join("\n"));
    let model = if flags & 1 == 0 {
        VocabModel::Bpe
    } else {
        VocabModel::SentencePiece
    };
    let token_types = if flags & 2 == 0 {
        Vec::new()
    } else {
        let first = usize::from(*flags >> 4);
        let kinds = (0..tokens.len()).map(|at| 1 + i32::try_from((first + at) % 6).unwrap_or(0));
        kinds
            .filter_map(|kind| TokenType::try_from(kind).ok())
            .collect()
    };
    let scores = (0..tokens.len()).map(|at| -(at as f32)).collect();
    let spec = VocabSpec {
        model,
        pre: (flags & 4 == 0).then(|| "gpt-2".to_owned()),
        token_types,
        scores,
        merges,
        special: SpecialIds {
            bos: Some(kvist_base::TokenId(u32::from(*flags >> 5))),
            ..SpecialIds::default()
        },
        add_bos: flags & 8 != 0,
        add_eos: false,
        add_space_prefix: flags & 8 == 0,
        tokens,
    };
    let Ok(tokenizer) = from_vocab(spec) else {
        return;
    };
    for mode in [SpecialText::Plain, SpecialText::Parse] {
        let Ok(ids) = tokenizer.encode(&text, mode) else {
            continue;
        };
        for id in &ids {
            assert!(id.idx() < tokenizer.vocab_len(), "{id:?}");
            assert!(tokenizer.token_bytes(*id).is_some(), "{id:?}");
        }
        assert_eq!(
            tokenizer.encode(&text, mode).ok(),
            Some(ids),
            "twice the same"
        );
    }
}

/// Where a text ends does not depend on how it was cut.
///
/// The input: stop strings by line, then behind an empty line the text.
pub(super) fn stop(bytes: &[u8]) {
    let input = String::from_utf8_lossy(bytes);
    let (stops, text) = input.split_once("\n\n").unwrap_or((&input, ""));
    let stops: Vec<String> = stops.lines().take(16).map(str::to_owned).collect();
    let Ok(mut whole) = StopMatcher::new(stops.clone()) else {
        return;
    };
    let Ok(mut cut) = StopMatcher::new(stops) else {
        return;
    };
    let verdict = whole.feed(text);
    let mut expected = verdict.emit;
    if verdict.matched.is_none() {
        expected.push_str(&whole.finish());
    }
    let (mut found, mut matched) = (String::new(), None);
    for piece in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let verdict = cut.feed(piece);
        found.push_str(&verdict.emit);
        if verdict.matched.is_some() {
            matched = verdict.matched;
            break;
        }
    }
    if matched.is_none() {
        found.push_str(&cut.finish());
    }
    assert_eq!((found, matched), (expected, verdict.matched));
}
