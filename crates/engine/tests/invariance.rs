//! The same request gives the same tokens and the same bits of log-probability, however it was
//! scheduled: alone, in a crowd, in chunks of any size, from the prefix cache, after losing its
//! blocks, on any number of threads and any instruction tier.
#![allow(clippy::cast_possible_truncation)] // test sizes are small

mod common;

use common::{Answer, ModelFile, ask, ask_all, options, shut_down, workload};
use kvist_base::{Blocks, KvDtype, QuantFormat, TokenId, Tokens};
use kvist_engine::{EngineOptions, GenerateSpec, Isa, MetricsSnapshot, Speculation};
use kvist_testkit::tiny::TinyModel;

const FORMATS: [QuantFormat; 3] = [QuantFormat::F32, QuantFormat::Q8_0, QuantFormat::Q4_0];

fn alone(file: &ModelFile, base: &EngineOptions, specs: &[GenerateSpec]) -> Vec<Answer> {
    let engine = file.start(base);
    let handle = engine.handle();
    let answers = specs
        .iter()
        .map(|spec| ask(&handle, spec.clone()))
        .collect();
    assert_eq!(handle.metrics().running, 0);
    shut_down(engine);
    answers
}

/// All requests at once, `rounds` times on the same engine; compares every answer.
fn compare(
    (file, what): (&ModelFile, &str),
    options: &EngineOptions,
    (specs, expected): (&[GenerateSpec], &[Answer]),
    rounds: usize,
) -> MetricsSnapshot {
    let engine = file.start(options);
    let handle = engine.handle();
    for round in 0..rounds {
        for (idx, got) in ask_all(&handle, specs).iter().enumerate() {
            assert_eq!(
                got.answer, expected[idx],
                "{what}, round {round}, request {idx}"
            );
        }
    }
    let metrics = handle.metrics();
    shut_down(engine);
    metrics
}

/// Ways to schedule and to compute that no answer may depend on.
fn variations(base: &EngineOptions) -> Vec<(String, EngineOptions)> {
    let mut all = vec![("in a crowd".to_owned(), base.clone())];
    let mut add = |what: String, edit: &dyn Fn(&mut EngineOptions)| {
        let mut varied = base.clone();
        edit(&mut varied);
        all.push((what, varied));
    };
    for len in [1, 7, 64].map(Tokens) {
        add(format!("chunks of {len}"), &|options| {
            options.chunk_max = Some(len);
        });
    }
    for len in [1, 7].map(Tokens) {
        add(format!("steps of {len}"), &|options| {
            options.limits.step_tokens_max = len;
        });
    }
    for threads in [2, 3] {
        add(format!("{threads} threads"), &|options| {
            options.limits.threads = threads;
        });
    }
    for len in [1, 5] {
        add(format!("drafts of {len}"), &|options| {
            options.speculation = Some(Speculation::fixed(len, (None, None)).expect("in range"));
        });
    }
    add("blocks of 4".to_owned(), &|options| {
        options.limits.block_size = Tokens(4);
    });
    all
}

fn check(family: &str, seed: u64) {
    for format in FORMATS {
        let file = ModelFile::new(family, format);
        check_file((&file, &format!("{family} {format}")), &options(), seed);
    }
}

/// Every variation of `base` against each request alone.
fn check_file((file, file_name): (&ModelFile, &str), base: &EngineOptions, seed: u64) {
    let specs = workload(seed, 12);
    let expected = alone(file, base, &specs);
    let jobs = (&specs[..], &expected[..]);
    let name = |what: &str| format!("{file_name} {what}");
    for (what, options) in variations(base) {
        compare((file, &name(&what)), &options, jobs, 1);
    }

    // Slow: a few of each kind are enough for this one.
    let scalar = EngineOptions {
        isa: Some(Isa::SCALAR),
        ..base.clone()
    };
    let few = (&specs[1..4], &expected[1..4]);
    compare((file, &name("in scalar code")), &scalar, few, 1);

    let cached = EngineOptions {
        prefix_caching: true,
        ..base.clone()
    };
    let metrics = compare((file, &name("from the cache")), &cached, jobs, 2);
    assert!(
        metrics.prefix_hit_tokens > 0,
        "{file_name}: no prefix was found"
    );

    for prefix_caching in [false, true] {
        // Hardly more than the longest sequence needs: those that grow take from each other.
        let mut tight = EngineOptions {
            prefix_caching,
            kv_blocks_max: Some(Blocks(46)),
            ..base.clone()
        };
        tight.limits.block_size = Tokens(4);
        let metrics = compare((file, &name("in a small pool")), &tight, jobs, 2);
        assert_eq!(metrics.blocks_total, 46);
        assert!(
            metrics.preemptions > 0,
            "{file_name}: nothing was preempted"
        );
    }
}

#[test]
fn llama3_answers_do_not_depend_on_the_schedule() {
    check("llama3", 1);
}

#[test]
fn qwen2_answers_do_not_depend_on_the_schedule() {
    check("qwen2", 2);
}

#[test]
fn smollm3_answers_do_not_depend_on_the_schedule() {
    check("smollm3", 3);
}

#[test]
fn answers_do_not_depend_on_the_schedule_whatever_the_kv_dtype() {
    let file = ModelFile::new("qwen2", QuantFormat::Q8_0);
    let answers = KvDtype::ALL.map(|dtype| {
        let mut base = options();
        base.limits.kv_dtype = dtype;
        if dtype != KvDtype::default() {
            check_file((&file, &format!("qwen2 with KV in {dtype}")), &base, 4);
        }
        alone(&file, &base, &workload(4, 12))
    });
    for (idx, answer) in answers.iter().enumerate() {
        assert!(
            !answers[..idx].contains(answer),
            "each dtype rounds its own way"
        );
    }
}

#[test]
fn greedy_tokens_are_those_of_the_reference_implementation() {
    for family in TinyModel::NAMES {
        let golden = TinyModel::load(family).golden;
        let file = ModelFile::new(family, QuantFormat::F32);
        let mut options = options();
        options.limits.kv_dtype = KvDtype::F32;
        let engine = file.start(&options);
        let prompt = golden.input_ids.iter().copied().map(TokenId).collect();
        let spec = common::greedy(prompt, golden.greedy.len() as u32);
        let answer = ask(&engine.handle(), spec);
        let ids: Vec<u32> = answer.tokens.iter().map(|token| token.0).collect();
        assert_eq!(ids, golden.greedy, "{family}");
        shut_down(engine);
    }
}
