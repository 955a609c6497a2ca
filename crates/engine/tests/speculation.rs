//! Speculation changes how many tokens a step brings, and no bit of any answer.
#![allow(clippy::cast_possible_truncation)] // test sizes are small

mod common;

use common::{Answer, ModelFile, Stream, ask, ask_all, greedy, options, shut_down, workload};
use kvist_base::{Blocks, FinishReason, QuantFormat, TokenId, Tokens};
use kvist_engine::{
    EndTokens, EngineOptions, GenerateSpec, MetricsSnapshot, SamplingSpec, Speculation,
};

fn fixed(len: u32) -> Speculation {
    Speculation::fixed(len, (None, None)).expect("in range")
}

fn with(speculation: Speculation, base: &EngineOptions) -> EngineOptions {
    EngineOptions {
        speculation: Some(speculation),
        ..base.clone()
    }
}

/// Each request alone, without speculation.
fn plain(file: &ModelFile, specs: &[GenerateSpec]) -> Vec<Answer> {
    let engine = file.start(&options());
    let handle = engine.handle();
    let answers = specs
        .iter()
        .map(|spec| ask(&handle, spec.clone()))
        .collect();
    let metrics = handle.metrics();
    assert_eq!(metrics.drafted_tokens, 0);
    shut_down(engine);
    answers
}

/// All requests at once; every answer is the expected one.
fn compare(
    file: &ModelFile,
    options: &EngineOptions,
    (specs, expected): (&[GenerateSpec], &[Answer]),
) -> MetricsSnapshot {
    let engine = file.start(options);
    let handle = engine.handle();
    for (idx, got) in ask_all(&handle, specs).iter().enumerate() {
        assert_eq!(got.answer, expected[idx], "request {idx}");
    }
    let metrics = handle.metrics();
    shut_down(engine);
    assert!(metrics.accepted_draft_tokens <= metrics.drafted_tokens);
    metrics
}

/// Requests of `output` tokens whose prompts say one thing several times.
fn copying(seed: u64, count: u32, output: u32) -> Vec<GenerateSpec> {
    let mut stream = Stream::new(seed);
    let request = |idx: u32| {
        let said = stream.tokens(6 + idx);
        let spec = greedy(said.repeat(4), output);
        let sampling = SamplingSpec {
            temperature: [0.0, 0.7][idx as usize % 2],
            seed: u64::from(idx),
            logprobs: Some(2),
            ..spec.sampling.clone()
        };
        GenerateSpec { sampling, ..spec }
    };
    (0..count).map(request).collect()
}

#[test]
fn requests_of_all_kinds_are_answered_the_same() {
    let file = ModelFile::new("qwen2", QuantFormat::Q8_0);
    let mut accepted = 0;
    for seed in 0..3 {
        let mut specs = workload(seed, 12);
        specs.extend(copying(seed, 4, 60));
        let expected = plain(&file, &specs);
        for speculation in [fixed(1), fixed(4), fixed(30), Speculation::adaptive()] {
            let jobs = (&specs[..], &expected[..]);
            accepted += compare(&file, &with(speculation, &options()), jobs).accepted_draft_tokens;
        }
    }
    assert!(accepted > 0);
}

#[test]
fn drafts_in_small_steps_blocks_and_pools_change_nothing() {
    let file = ModelFile::new("llama3", QuantFormat::Q4_0);
    let mut specs = workload(7, 8);
    specs.extend(copying(7, 6, 50));
    let expected = plain(&file, &specs);
    let base = with(fixed(6), &options());
    let vary = |edit: &dyn Fn(&mut EngineOptions)| {
        let mut varied = base.clone();
        edit(&mut varied);
        compare(&file, &varied, (&specs, &expected))
    };
    vary(&|options| options.limits.step_tokens_max = Tokens(9));
    vary(&|options| options.chunk_max = Some(Tokens(3)));
    vary(&|options| options.limits.threads = 2);
    vary(&|options| options.limits.running_max = 3);
    let cached = vary(&|options| {
        options.prefix_caching = true;
        options.limits.block_size = Tokens(4);
    });
    assert!(cached.prefix_hit_tokens > 0 && cached.accepted_draft_tokens > 0);
    for prefix_caching in [false, true] {
        let tight = vary(&|options| {
            options.prefix_caching = prefix_caching;
            options.limits.block_size = Tokens(4);
            options.kv_blocks_max = Some(Blocks(50));
        });
        assert!(tight.preemptions > 0 && tight.drafted_tokens > 0);
    }
}

#[test]
fn an_output_that_repeats_itself_takes_far_fewer_steps() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    // Without noise a small model soon says the same again and again.
    let specs = [greedy(Stream::new(3).tokens(20), 150)];
    let expected = plain(&file, &specs);
    let metrics = compare(&file, &with(fixed(8), &options()), (&specs, &expected));
    assert!(metrics.accepted_draft_tokens > 50, "{metrics:?}");
    let prompt_steps = 1;
    assert_eq!(
        metrics.steps + metrics.accepted_draft_tokens,
        149 + prompt_steps,
        "each accepted token is a step less"
    );
    assert_eq!(metrics.output_tokens, 150);
    assert_eq!(metrics.itl_seconds.count(), 149);
    assert_eq!(
        metrics.computed_tokens,
        20 + 149 + metrics.drafted_tokens - metrics.accepted_draft_tokens
    );
}

/// A request whose output, alone, repeats itself; and the output.
fn repeating(file: &ModelFile) -> (GenerateSpec, Answer) {
    let spec = greedy(Stream::new(3).tokens(20), 120);
    let answer = plain(file, std::slice::from_ref(&spec)).remove(0);
    (spec, answer)
}

#[test]
fn whatever_ends_an_output_ends_it_within_a_draft_too() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let (spec, answer) = repeating(&file);
    let mut specs = Vec::new();
    // Most of these are met while several tokens come at once.
    for len in (60..84).map(Tokens) {
        specs.push(GenerateSpec {
            output_max: Some(len),
            ..spec.clone()
        });
    }
    for at in 60..72 {
        specs.push(GenerateSpec {
            stop_tokens: vec![answer.tokens[at]],
            ..spec.clone()
        });
        let drawn = SamplingSpec {
            min_tokens: at as u32,
            ..spec.sampling.clone()
        };
        specs.push(GenerateSpec {
            stop_tokens: vec![answer.tokens[at]],
            sampling: drawn,
            ..spec.clone()
        });
        let start = answer.text.len() * at / 120;
        let rest = answer.text.char_indices().map(|(at, _)| at);
        let cut: Vec<usize> = rest.filter(|at| *at >= start).take(4).collect();
        specs.push(GenerateSpec {
            stop: vec![answer.text[cut[0]..cut[3]].to_owned()],
            ..spec.clone()
        });
    }
    let expected = plain(&file, &specs);
    let stopped = |answer: &&Answer| answer.reason == FinishReason::Stop;
    assert!(expected.iter().filter(stopped).count() > 20);
    for len in [2, 7, 16] {
        let engine = file.start(&with(fixed(len), &options()));
        let handle = engine.handle();
        for (idx, spec) in specs.iter().enumerate() {
            assert_eq!(
                ask(&handle, spec.clone()),
                expected[idx],
                "request {idx}, drafts of {len}"
            );
        }
        assert!(handle.metrics().accepted_draft_tokens > 500);
        shut_down(engine);
    }
}

#[test]
fn end_tokens_of_the_model_end_it_within_a_draft() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let mut stream = Stream::new(11);
    // Biased so that the end token comes sooner or later.
    let request = |idx: u32| {
        let spec = greedy(stream.tokens(10), 150);
        let sampling = SamplingSpec {
            temperature: 0.3,
            seed: u64::from(idx),
            logit_bias: vec![(common::EOS, 2.5)],
            ..spec.sampling.clone()
        };
        GenerateSpec {
            end_tokens: EndTokens::Stop,
            sampling,
            ..spec
        }
    };
    let specs: Vec<GenerateSpec> = (0..12).map(request).collect();
    let expected = plain(&file, &specs);
    let by_token = |answer: &&Answer| answer.tokens.last() == Some(&TokenId(common::EOS.0));
    assert!(expected.iter().any(|answer| by_token(&answer)));
    compare(&file, &with(fixed(5), &options()), (&specs, &expected));
}

#[test]
fn a_draft_longer_than_the_context_is_cut() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let spec = GenerateSpec {
        output_max: None,
        ..greedy(Stream::new(3).tokens(20), 1)
    };
    let specs = [spec];
    let expected = plain(&file, &specs);
    assert_eq!(expected[0].output, Tokens(180));
    let metrics = compare(&file, &with(fixed(16), &options()), (&specs, &expected));
    assert!(metrics.accepted_draft_tokens > 0);
}
