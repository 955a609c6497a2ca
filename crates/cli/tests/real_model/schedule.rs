//! The same request gives the same bits, however it is scheduled.

use std::sync::OnceLock;

use kvist_base::{Blocks, TokenId, Tokens};
use kvist_engine::plan::Limits;
use kvist_engine::{EndTokens, Engine, EngineOptions, GenerateSpec, Prompt};

use crate::golden::{goldens, greedy};
use crate::{Output, ids, load, options, shut_down};

/// The request that is watched, and the crowd around it.
const CROWD: usize = 16;
const OUTPUT_LEN: Tokens = Tokens(64);
const CROWD_OUTPUT_LEN: Tokens = Tokens(40);

/// A token, and the bits of the log-probabilities of the best five.
type Choice = (TokenId, Vec<(TokenId, u32)>);

/// About a hundred tokens.
const PROMPT: &str = "The ferry leaves the island at six in the morning. On the deck stand crates of \
    cabbages, a piano wrapped in blankets, and two goats that belong to nobody in particular. The \
    captain counts the passengers twice, writes the number 37 into a book, and blows the horn. \
    Halfway across, fog comes down and the engine is slowed. Nobody speaks. Then a child asks how \
    the captain can know where the harbour is, and the captain, who has been waiting forty years \
    for somebody to ask, says:";

fn spec(prompt: Prompt, output: Tokens) -> GenerateSpec {
    GenerateSpec {
        output_max: Some(output),
        end_tokens: EndTokens::Ignore,
        ..greedy(prompt)
    }
}

fn watched() -> GenerateSpec {
    spec(Prompt::Text(PROMPT.to_owned()), OUTPUT_LEN)
}

/// The watched request among fifteen others, neither first nor last to come.
fn crowd() -> Vec<GenerateSpec> {
    let mut crowd: Vec<_> = goldens()
        .iter()
        .take(CROWD - 1)
        .map(|case| spec(Prompt::Tokens(ids(&case["prompt_ids"])), CROWD_OUTPUT_LEN))
        .collect();
    crowd.insert(CROWD / 2, watched());
    crowd
}

fn choices(output: &Output) -> Vec<Choice> {
    let entries = output.logprobs.iter().map(|position| {
        let top = position.top.iter();
        let bits = top.map(|entry| (entry.token, entry.logprob.to_bits()));
        (position.chosen.token, bits.collect())
    });
    entries.collect()
}

fn run(engine: &Engine, specs: Vec<GenerateSpec>) -> Vec<Vec<Choice>> {
    let handle = engine.handle();
    let requests: Vec<_> = specs
        .into_iter()
        .map(|spec| handle.submit(spec).unwrap())
        .collect();
    requests
        .into_iter()
        .map(|request| choices(&Output::of(request)))
        .collect()
}

/// The watched request alone on an idle engine.
fn alone() -> &'static [Choice] {
    static ALONE: OnceLock<Vec<Choice>> = OnceLock::new();
    ALONE.get_or_init(|| {
        let engine = load(&options());
        let output = run(&engine, vec![watched()]).remove(0);
        assert_eq!(output.len(), OUTPUT_LEN.len());
        shut_down(engine, 1);
        output
    })
}

/// All requests at once, with room for all.
fn together() -> &'static [Vec<Choice>] {
    static TOGETHER: OnceLock<Vec<Vec<Choice>>> = OnceLock::new();
    TOGETHER.get_or_init(|| {
        let engine = load(&options());
        let outputs = run(&engine, crowd());
        assert_eq!(engine.handle().metrics().preemptions, 0);
        shut_down(engine, CROWD as u64);
        outputs
    })
}

fn with_limits(change: impl FnOnce(&mut Limits)) -> EngineOptions {
    let mut options = options();
    change(&mut options.limits);
    options
}

#[test]
fn alone_as_in_a_crowd() {
    assert!(alone() == together()[CROWD / 2]);
}

#[test]
fn again_from_the_prefix_cache() {
    let engine = load(&options());
    let first = run(&engine, vec![watched()]).remove(0);
    let again = Output::of(engine.handle().submit(watched()).unwrap());
    assert!(
        again.end.usage.prefix_hit >= Tokens(80),
        "{:?}",
        again.end.usage
    );
    assert!(first == alone());
    assert!(choices(&again) == alone());
    shut_down(engine, 2);
}

#[test]
fn in_steps_of_any_size() {
    for step_tokens in [1, 7, 64] {
        let options = with_limits(|limits| {
            limits.step_tokens_max = Tokens(step_tokens);
            limits.running_max = limits.running_max.min(step_tokens);
        });
        let engine = load(&options);
        let output = run(&engine, vec![watched()]).remove(0);
        assert!(output == alone(), "{step_tokens} tokens a step");
        let steps = engine.handle().metrics().steps;
        assert!(
            steps >= u64::from(OUTPUT_LEN.0 + 90 / step_tokens),
            "{steps}"
        );
        shut_down(engine, 1);
    }
}

#[test]
fn after_preemption() {
    // The watched request alone needs 11 blocks; the crowd together some 90.
    let options = EngineOptions {
        kv_blocks_max: Some(Blocks(28)),
        ..options()
    };
    let engine = load(&options);
    let outputs = run(&engine, crowd());
    let metrics = engine.handle().metrics();
    assert_eq!(metrics.blocks_total, 28);
    assert!(metrics.preemptions > 0);
    assert!(outputs == together());
    shut_down(engine, CROWD as u64);
}

#[test]
fn on_two_threads() {
    let engine = load(&with_limits(|limits| limits.threads = 2));
    let outputs = run(&engine, crowd());
    assert!(outputs == together());
    shut_down(engine, CROWD as u64);
}
