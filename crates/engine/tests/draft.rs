//! A second model that drafts changes how many tokens a step brings, and no bit of any answer.
#![allow(clippy::cast_precision_loss)] // counts are small

mod common;

use common::{
    Answer, ModelFile, Stream, ask, ask_all, greedy, machine, options, shut_down, workload,
};
use kvist_base::{Blocks, Bytes, QuantFormat, Tokens};
use kvist_engine::plan::LineKind;
use kvist_engine::{
    DraftError, Engine, EngineOptions, ErrorClass, GenerateSpec, LoadError, MetricsSnapshot,
    SamplingSpec, Speculation,
};

fn with(draft: &ModelFile, tokens: u32, base: &EngineOptions) -> EngineOptions {
    EngineOptions {
        speculation: Some(Speculation::fixed(tokens, (None, None)).expect("in range")),
        draft: Some(draft.path().to_owned()),
        ..base.clone()
    }
}

/// Each request alone, one token a step.
fn plain(file: &ModelFile, specs: &[GenerateSpec]) -> Vec<Answer> {
    let engine = file.start(&options());
    let handle = engine.handle();
    let answers = specs.iter().map(|spec| ask(&handle, spec.clone()));
    let answers = answers.collect();
    shut_down(engine);
    answers
}

/// All requests at once; every answer is the expected one, and no block of either pool is lost.
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
    stop(engine);
    assert!(metrics.accepted_draft_model_tokens <= metrics.draft_model_tokens);
    assert!(metrics.draft_model_tokens <= metrics.drafted_tokens);
    metrics
}

/// Drains the engine, and holds it to leaving no block of either pool behind.
fn stop(engine: Engine) {
    let report = engine.shutdown();
    assert!(report.draft_blocks_total > Blocks::ZERO);
    assert_eq!(report.blocks_free, report.blocks_total, "{report:?}");
    assert_eq!(
        report.draft_blocks_free, report.draft_blocks_total,
        "{report:?}"
    );
}

/// Requests whose prompts and outputs repeat nothing: lookups find next to nothing.
fn fresh(seed: u64, count: u32, temperature: f32) -> Vec<GenerateSpec> {
    let mut stream = Stream::new(seed);
    let request = |idx: u32| {
        let spec = greedy(stream.tokens(12 + idx), 30);
        let sampling = SamplingSpec {
            temperature,
            seed: u64::from(idx),
            ..spec.sampling.clone()
        };
        GenerateSpec { sampling, ..spec }
    };
    (0..count).map(request).collect()
}

fn share(metrics: &MetricsSnapshot) -> f64 {
    assert!(metrics.draft_model_tokens > 50, "{metrics:?}");
    metrics.accepted_draft_model_tokens as f64 / metrics.draft_model_tokens as f64
}

#[test]
fn a_model_that_drafts_for_itself_is_right_greedy_and_drawn() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let other = ModelFile::new("smollm3", QuantFormat::F32);
    for temperature in [0.0, 1.0] {
        let specs = fresh(5, 3, temperature);
        let expected = plain(&file, &specs);
        let itself = compare(&file, &with(&file, 4, &options()), (&specs, &expected));
        assert!(share(&itself) > 0.97, "{}", share(&itself));
        let stranger = compare(&file, &with(&other, 4, &options()), (&specs, &expected));
        assert!(share(&stranger) < 0.6, "{}", share(&stranger));
        assert!(itself.steps * 2 < stranger.steps, "fewer steps, and more");
    }
}

#[test]
fn a_model_in_fewer_bits_drafts_for_the_whole() {
    let file = ModelFile::new("qwen2", QuantFormat::F32);
    let draft = ModelFile::new("qwen2", QuantFormat::Q8_0);
    let mut specs = workload(3, 10);
    specs.extend(fresh(3, 4, 0.0));
    let expected = plain(&file, &specs);
    for tokens in [1, 3, 12] {
        let metrics = compare(
            &file,
            &with(&draft, tokens, &options()),
            (&specs, &expected),
        );
        assert!(metrics.accepted_draft_model_tokens > 0, "{tokens}");
    }
}

#[test]
fn no_schedule_changes_an_answer() {
    let file = ModelFile::new("llama3", QuantFormat::Q4_0);
    let draft = ModelFile::new("llama3", QuantFormat::Q8_0);
    let mut specs = workload(9, 10);
    specs.extend(fresh(9, 4, 0.8));
    let expected = plain(&file, &specs);
    let base = with(&draft, 5, &options());
    let vary = |edit: &dyn Fn(&mut EngineOptions)| {
        let mut varied = base.clone();
        edit(&mut varied);
        compare(&file, &varied, (&specs, &expected))
    };
    vary(&|options| options.limits.step_tokens_max = Tokens(9));
    vary(&|options| options.chunk_max = Some(Tokens(3)));
    vary(&|options| options.limits.threads = 2);
    vary(&|options| options.speculation = Some(Speculation::adaptive()));
    let few = vary(&|options| options.limits.running_max = 3);
    assert!(few.accepted_draft_model_tokens > 0);
    for prefix_caching in [false, true] {
        let tight = vary(&|options| {
            options.prefix_caching = prefix_caching;
            options.limits.block_size = Tokens(4);
            options.kv_blocks_max = Some(Blocks(50));
        });
        assert!(tight.preemptions > 0 && tight.draft_model_rows > 0);
        assert_eq!(tight.prefix_hit_tokens > 0, prefix_caching);
    }
}

#[test]
fn what_the_served_model_found_in_its_cache_the_draft_model_catches_up_with() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let spec = &fresh(2, 1, 0.0)[0];
    let long = GenerateSpec {
        output_max: Some(Tokens(20)),
        ..greedy(Stream::new(8).tokens(120), 20)
    };
    let specs = [long.clone(), long.clone(), long, spec.clone()];
    let expected = plain(&file, &specs);
    let mut caching = with(&file, 4, &options());
    caching.prefix_caching = true;
    let engine = file.start(&caching);
    let handle = engine.handle();
    for (spec, expected) in specs.iter().zip(&expected) {
        let before = handle.metrics();
        assert_eq!(&ask(&handle, spec.clone()), expected);
        let after = handle.metrics();
        let rows = after.draft_model_rows - before.draft_model_rows;
        assert!(rows >= u64::from(expected.prompt.0), "all of the prompt");
        assert!(after.accepted_draft_model_tokens > before.accepted_draft_model_tokens);
    }
    assert!(handle.metrics().prefix_hit_tokens > 200);
    stop(engine);
}

#[test]
fn a_client_that_leaves_takes_its_blocks_of_the_draft_pool_along() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let engine = file.start(&with(&file, 2, &options()));
    let handle = engine.handle();
    let used = || {
        let report = handle.memory();
        let line = report
            .lines
            .iter()
            .find(|line| line.kind == LineKind::DraftKv);
        line.expect("a draft model has a pool").used
    };
    let spec = greedy(Stream::new(1).tokens(30), 160);
    let mut requests: Vec<_> = (0..6)
        .map(|_| handle.submit(spec.clone()).expect("a place"))
        .collect();
    for request in &mut requests {
        assert!(request.recv().is_some());
    }
    drop(requests);
    common::until(&handle, "all are gone", |now| {
        // One or the other may have come to its end before its client left.
        now.finished.cancelled + now.finished.length == 6
    });
    assert!(
        handle.metrics().draft_model_rows >= 30,
        "it followed the first"
    );
    common::until(&handle, "their blocks are back", |_| used() == Bytes::ZERO);
    handle.release_kv();
    let report = handle.memory();
    let pool = report
        .lines
        .iter()
        .find(|line| line.kind == LineKind::DraftKv);
    assert_eq!(pool.expect("as before").committed, Bytes::ZERO);
    stop(engine);
}

#[test]
fn what_the_draft_model_holds_is_what_was_planned() {
    let file = ModelFile::new("llama3", QuantFormat::Q8_0);
    let draft = ModelFile::new("qwen2", QuantFormat::Q4_0);
    for threads in [1, 3] {
        let mut options = with(&draft, 4, &options());
        options.limits.threads = threads;
        let engine = file.start(&options);
        for (kind, is_exact) in [
            (LineKind::DraftWeights, true),
            (LineKind::DraftWork, false),
            (LineKind::DraftKv, false),
        ] {
            let report = engine.handle().memory();
            let line = report.lines.iter().find(|line| line.kind == kind);
            let line = line.expect("a draft model has this line");
            assert!(
                line.planned > Bytes::ZERO && line.committed <= line.planned,
                "{line:?}"
            );
            assert!(!is_exact || line.committed == line.planned, "{line:?}");
        }
        stop(engine);
    }
}

#[test]
fn a_draft_model_that_cannot_draft_is_refused() {
    let file = ModelFile::new("llama3", QuantFormat::Q8_0);
    let refused = |options: &EngineOptions| {
        Engine::load(file.path(), &machine(), options).expect_err("refused")
    };
    let mut off = with(&file, 4, &options());
    off.speculation = None;
    let error = refused(&off);
    assert!(
        matches!(error, LoadError::Draft(DraftError::SpeculationOff)),
        "{error}"
    );
    assert_eq!(error.class(), ErrorClass::Config);
    let mut missing = with(&file, 4, &options());
    missing.draft = Some("/no/such/model.gguf".into());
    let error = refused(&missing);
    assert_eq!(error.class(), ErrorClass::ModelMissing);
    assert!(
        error
            .to_string()
            .contains("draft model /no/such/model.gguf"),
        "{error}"
    );
}
