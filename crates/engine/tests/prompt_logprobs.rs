//! What the engine says of a prompt's tokens does not depend on how it came to compute them.

mod common;

use std::num::NonZeroUsize;

use common::{ModelFile, Stream, ask, collect, greedy, options, shut_down, until, workload};
use kvist_base::{Blocks, KvDtype, QuantFormat, TokenId, Tokens};
use kvist_engine::{
    EngineHandle, EngineOptions, GenerateSpec, PromptOptions, RequestError, ScoreOptions, Scored,
    Scorer, StreamEvent, SubmitError,
};

fn scored(prompt: Vec<TokenId>, output: u32) -> GenerateSpec {
    GenerateSpec {
        prompt_options: PromptOptions {
            logprobs: Some(2),
            ..PromptOptions::default()
        },
        ..greedy(prompt, output)
    }
}

/// The scores of a prompt and the tokens of its output.
fn scores(handle: &EngineHandle, spec: GenerateSpec) -> (Vec<Scored>, Vec<TokenId>) {
    let mut request = handle.submit(spec).expect("a valid request");
    let (mut scores, mut tokens) = (Vec::new(), Vec::new());
    while let Some(event) = request.recv() {
        match event {
            StreamEvent::Delta(delta) => {
                assert!(
                    tokens.is_empty() || delta.prompt_logprobs.is_empty(),
                    "scores come before any output"
                );
                scores.extend(delta.prompt_logprobs);
                tokens.extend(delta.tokens);
            }
            StreamEvent::Finished(_) => {}
            StreamEvent::Failed(fault) => panic!("{fault}"),
        }
    }
    (scores, tokens)
}

#[test]
fn a_prompt_is_scored_as_by_the_scorer() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let prompt = Stream::new(3).tokens(150);
    let mut scorer = Scorer::load(
        file.path(),
        &ScoreOptions {
            threads: NonZeroUsize::MIN,
            window: Tokens(200),
            kv_dtype: KvDtype::default(),
            isa: None,
        },
    )
    .expect("a tiny model loads");
    let expected = scorer.score(&prompt).expect("a text that fits");
    let engine = file.start(&options());
    let (found, _) = scores(&engine.handle(), scored(prompt.clone(), 1));
    assert_eq!(found.len(), expected.len());
    for ((score, nll), token) in found.iter().zip(expected).zip(&prompt[1..]) {
        assert_eq!(score.chosen.token, *token);
        let logprob = f64::from(score.chosen.logprob);
        assert!((logprob + nll).abs() < 1e-4, "{logprob} against {nll}");
    }
    shut_down(engine);
}

#[test]
fn scores_are_the_same_however_they_are_scheduled() {
    let file = ModelFile::new("qwen2", QuantFormat::Q8_0);
    let prompts: Vec<_> = (0..6)
        .map(|seed| Stream::new(seed / 2).tokens(110))
        .collect();
    let alone = file.start(&options());
    let expected: Vec<_> = prompts
        .iter()
        .map(|prompt| scores(&alone.handle(), scored(prompt.clone(), 20)))
        .collect();
    let plain: Vec<_> = workload(5, 6)
        .into_iter()
        .map(|spec| ask(&alone.handle(), spec))
        .collect();
    shut_down(alone);
    // Room for two or three of them, rows for three: they wait, share, give way and come back.
    let mut crowded = EngineOptions {
        prefix_caching: true,
        kv_blocks_max: Some(Blocks(24)),
        ..options()
    };
    crowded.limits.running_max = 3;
    let engine = file.start(&crowded);
    let handle = engine.handle();
    let others: Vec<_> = workload(5, 6)
        .into_iter()
        .map(|spec| handle.submit(spec).expect("a valid request"))
        .collect();
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = prompts
            .iter()
            .map(|prompt| scope.spawn(|| scores(&handle, scored(prompt.clone(), 20))))
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        joined.collect()
    });
    assert_eq!(found, expected);
    for (request, plain) in others.into_iter().zip(plain) {
        assert_eq!(collect(request).expect("no fault").answer, plain);
    }
    until(&handle, "all is over", |now| now.running + now.waiting == 0);
    shut_down(engine);
}

#[test]
fn a_prompt_alone_may_fill_the_context_and_has_no_output() {
    let file = ModelFile::new("llama3", QuantFormat::F32);
    let engine = file.start(&options());
    let handle = engine.handle();
    let full = Stream::new(1).tokens(200);
    let (found, tokens) = scores(&handle, scored(full.clone(), 0));
    assert_eq!((found.len(), tokens.len()), (199, 0));
    let refused = |spec| match handle.submit(spec) {
        Err(SubmitError::Invalid(error)) => error,
        other => panic!("{other:?}"),
    };
    let too_long = refused(scored(Stream::new(1).tokens(201), 0));
    assert!(
        matches!(too_long, RequestError::ContextExceeded { .. }),
        "{too_long}"
    );
    let nothing = refused(greedy(full, 0));
    assert!(matches!(nothing, RequestError::NoOutput), "{nothing}");
    let mut many = scored(Stream::new(1).tokens(5), 1);
    many.prompt_options.logprobs = Some(21);
    assert_eq!(refused(many).field(), "prompt_logprobs");
    shut_down(engine);
}
