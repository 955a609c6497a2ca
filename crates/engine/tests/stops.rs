//! Where an output ends, what is told of it, and that text, tokens and counts agree.

mod common;

use common::{Answer, EOS, ModelFile, SYLLABLES, VOCAB_LEN, ask, greedy, options, workload};
use kvist_base::{FinishReason, QuantFormat, TokenId, Tokens};
use kvist_engine::{EndTokens, EngineHandle, GenerateSpec, SpecialTokens, StoppedBy};

/// Runs `test` on a tiny engine.
fn with_engine(test: impl FnOnce(&EngineHandle)) {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let engine = file.start(&options());
    test(&engine.handle());
    common::shut_down(engine);
}

/// A greedy request whose output is syllables.
fn syllables() -> GenerateSpec {
    let mut spec = greedy((0..30).map(|idx| TokenId(260 + 5 * idx)).collect(), 24);
    let others = (0..VOCAB_LEN).filter(|id| !SYLLABLES.contains(id));
    spec.sampling.logit_bias = others.map(|id| (TokenId(id), -100.0)).collect();
    // Greedy decoding of a random model runs in circles.
    spec.sampling.frequency_penalty = 2.0;
    spec.sampling.logprobs = Some(2);
    spec
}

fn bytes_of(handle: &EngineHandle, tokens: &[TokenId]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|token| handle.token_bytes(*token))
        .collect()
}

fn assert_counts(answer: &Answer, prompt: u32) {
    assert_eq!(answer.prompt, Tokens(prompt));
    assert_eq!(answer.output.len(), answer.tokens.len());
    assert_eq!(answer.logprobs.len(), answer.tokens.len());
    for (token, entry) in answer.tokens.iter().zip(&answer.logprobs) {
        assert_eq!(entry[0].0, *token, "the first entry is the chosen token's");
    }
}

#[test]
fn text_ends_before_a_stop_string_wherever_it_falls() {
    with_engine(|handle| {
        let whole = ask(handle, syllables());
        assert_counts(&whole, 30);
        assert_eq!(
            (whole.reason, whole.stopped_by.clone()),
            (FinishReason::Length, None)
        );
        assert_eq!(whole.text.as_bytes(), bytes_of(handle, &whole.tokens));
        for start in 0..whole.text.len() {
            for len in [1, 3, 5, 9] {
                let Some(stop) = whole.text.get(start..start + len) else {
                    continue;
                };
                // Where it is first complete may be before `start`.
                let cut = whole.text.find(stop).expect("taken from it");
                let spec = GenerateSpec {
                    stop: vec!["not in it".to_owned(), stop.to_owned()],
                    ..syllables()
                };
                let answer = ask(handle, spec);
                assert_eq!(answer.text, whole.text[..cut], "{stop:?}");
                assert_eq!(answer.stopped_by, Some(StoppedBy::Text(stop.to_owned())));
                assert_eq!(answer.reason, FinishReason::Stop);
                // Not a token was drawn beyond the one that completed it.
                let count = (1..=whole.tokens.len())
                    .find(|count| bytes_of(handle, &whole.tokens[..*count]).len() >= cut + len);
                assert_eq!(Some(answer.tokens.len()), count, "{stop:?}");
                assert_eq!(answer.tokens, whole.tokens[..answer.tokens.len()]);
                assert_counts(&answer, 30);
            }
        }
    });
}

#[test]
fn a_beginning_of_a_stop_string_is_told_at_the_end() {
    with_engine(|handle| {
        let whole = ask(handle, syllables());
        let tail = &whole.text[whole.text.len() - 3..];
        let spec = GenerateSpec {
            stop: vec![format!("{tail}!")],
            ..syllables()
        };
        let answer = ask(handle, spec);
        assert_eq!(answer, whole);
    });
}

#[test]
fn an_output_ends_with_a_stop_token() {
    with_engine(|handle| {
        let whole = ask(handle, syllables());
        for token in &whole.tokens {
            let first = whole
                .tokens
                .iter()
                .position(|other| other == token)
                .expect("in it");
            let spec = GenerateSpec {
                stop_tokens: vec![TokenId(3), *token],
                ..syllables()
            };
            let answer = ask(handle, spec);
            // It counts and has a log-probability, but no text.
            assert_eq!(answer.tokens, whole.tokens[..=first]);
            assert_eq!(
                answer.text.as_bytes(),
                bytes_of(handle, &whole.tokens[..first])
            );
            assert_eq!(answer.stopped_by, Some(StoppedBy::Token(*token)));
            assert_eq!(answer.reason, FinishReason::Stop);
            assert_counts(&answer, 30);
        }
    });
}

/// Syllables, then the model's own end token as soon as it may.
fn ending() -> GenerateSpec {
    let mut spec = GenerateSpec {
        end_tokens: EndTokens::Stop,
        ..syllables()
    };
    spec.sampling.logit_bias.retain(|(token, _)| *token != EOS);
    spec.sampling.logit_bias.push((EOS, 100.0));
    spec.sampling.frequency_penalty = 0.0;
    spec
}

#[test]
fn the_models_own_end_token_ends_an_output() {
    with_engine(|handle| {
        let answer = ask(handle, ending());
        assert_eq!(
            (answer.tokens.as_slice(), answer.text.as_str()),
            (&[EOS][..], "")
        );
        assert_eq!(
            (answer.reason, answer.stopped_by.clone()),
            (FinishReason::Stop, None)
        );
        assert_counts(&answer, 30);
    });
}

#[test]
fn no_end_token_comes_before_min_tokens() {
    with_engine(|handle| {
        for min_tokens in [1, 2, 7, 23] {
            let mut spec = ending();
            spec.sampling.min_tokens = min_tokens;
            let answer = ask(handle, spec);
            assert_eq!(answer.output.0, min_tokens + 1);
            assert_eq!(
                (answer.tokens.last(), answer.reason),
                (Some(&EOS), FinishReason::Stop)
            );
            assert!(!answer.tokens[..min_tokens as usize].contains(&EOS));
        }
        let mut spec = ending();
        spec.sampling.min_tokens = 24;
        let answer = ask(handle, spec);
        assert_eq!((answer.output.0, answer.reason), (24, FinishReason::Length));
    });
}

#[test]
fn an_ignored_end_token_is_one_like_any_other() {
    with_engine(|handle| {
        let ignoring = || GenerateSpec {
            end_tokens: EndTokens::Ignore,
            ..ending()
        };
        let hidden = ask(handle, ignoring());
        assert_eq!(
            (&hidden.tokens[..], hidden.text.as_str()),
            (&[EOS; 24][..], "")
        );
        assert_eq!((hidden.reason, hidden.output.0), (FinishReason::Length, 24));
        assert_counts(&hidden, 30);
        let shown = ask(
            handle,
            GenerateSpec {
                special_tokens: SpecialTokens::Show,
                ..ignoring()
            },
        );
        assert_eq!(shown.text, "<eos>".repeat(24));
        // A stop token of the caller's own counts all the same.
        let stopped = ask(
            handle,
            GenerateSpec {
                stop_tokens: vec![EOS],
                ..ignoring()
            },
        );
        assert_eq!((stopped.output.0, stopped.reason), (1, FinishReason::Stop));
    });
}

#[test]
fn deltas_add_up_to_the_tokens_text() {
    with_engine(|handle| {
        let mut with_broken_characters = 0;
        for mut spec in workload(8, 24) {
            // Any bytes at all, among them halves of characters.
            spec.sampling.logit_bias = (0..3).map(|id| (TokenId(id), -100.0)).collect();
            spec.sampling.logprobs = Some(3);
            let answer = ask(handle, spec);
            let raw = bytes_of(handle, &answer.tokens);
            assert_eq!(answer.text, String::from_utf8_lossy(&raw));
            assert_counts(&answer, answer.prompt.0);
            with_broken_characters += usize::from(answer.text.contains('\u{FFFD}'));
        }
        assert!(with_broken_characters > 5, "the bytes are no challenge");
    });
}

#[test]
fn an_output_without_a_limit_fills_the_context() {
    with_engine(|handle| {
        let answer = ask(
            handle,
            GenerateSpec {
                output_max: None,
                ..syllables()
            },
        );
        assert_eq!(
            (answer.output.0, answer.reason),
            (170, FinishReason::Length)
        );
        assert_counts(&answer, 30);
    });
}
