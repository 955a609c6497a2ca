//! The default model, the real one: fetched once into the cache, then loaded as users load it.
#![allow(clippy::unwrap_used, missing_docs)]

mod golden;
mod schedule;
mod scoring;
mod text;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kvist_base::{Blocks, Bytes, TokenId, Tokens};
use kvist_cli::cache::CacheDir;
use kvist_cli::environment::Environment;
use kvist_cli::pull::{Lines, ensure_default_model};
use kvist_engine::plan::{Limits, MemoryLimit};
use kvist_engine::{
    Engine, EngineOptions, Finished, Prompt, RequestHandle, ShutdownReport, StreamEvent,
    TokenLogprobs, read_machine,
};
use serde_json::Value;

/// The model's file.
fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let cache = CacheDir::locate(&Environment::of_process()).unwrap();
        ensure_default_model(&cache, &mut Lines).unwrap()
    })
}

/// One thread and a fixed budget: tests run side by side, on machines of any size.
fn options() -> EngineOptions {
    EngineOptions {
        limits: Limits {
            memory: MemoryLimit::Absolute(Bytes::GIB),
            model_len: Some(Tokens(2048)),
            running_max: 32,
            threads: 1,
            ..Limits::default()
        },
        ..EngineOptions::default()
    }
}

fn load(options: &EngineOptions) -> Engine {
    Engine::load(model(), &read_machine().unwrap(), options).unwrap()
}

/// Stops an engine that has served `accepted` requests; every block must have come back.
fn shut_down(engine: Engine, accepted: u64) {
    let report = engine.shutdown();
    assert!(report.blocks_total > Blocks::ZERO);
    let expected = ShutdownReport {
        blocks_free: report.blocks_total,
        blocks_total: report.blocks_total,
        draft_blocks_free: Blocks::ZERO,
        draft_blocks_total: Blocks::ZERO,
        accepted,
        failed: 0,
    };
    assert_eq!(report, expected);
}

/// All that a request produced.
struct Output {
    tokens: Vec<TokenId>,
    text: String,
    logprobs: Vec<TokenLogprobs>,
    end: Finished,
}

impl Output {
    fn of(mut request: RequestHandle) -> Self {
        let (mut tokens, mut text, mut logprobs) = (Vec::new(), String::new(), Vec::new());
        loop {
            match request.recv() {
                Some(StreamEvent::Delta(delta)) => {
                    tokens.extend(delta.tokens);
                    text.push_str(&delta.text);
                    logprobs.extend(delta.logprobs);
                }
                Some(StreamEvent::Finished(end)) => {
                    return Self {
                        tokens,
                        text,
                        logprobs,
                        end,
                    };
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn ids(json: &Value) -> Vec<TokenId> {
    let id = |value: &Value| TokenId(value.as_u64().unwrap().try_into().unwrap());
    json.as_array().unwrap().iter().map(id).collect()
}

#[test]
fn the_mapped_file_gives_a_first_token_and_all_blocks_come_back() {
    let engine = load(&options());
    let handle = engine.handle();
    assert_eq!(handle.info().architecture, "llama");
    assert_eq!(handle.info().vocab_len, 49152);
    let mut spec = golden::greedy(Prompt::Text("The capital of France is".to_owned()));
    spec.output_max = Some(Tokens(1));
    let output = Output::of(handle.submit(spec).unwrap());
    assert_eq!(output.text, " Paris");
    assert_eq!(output.end.usage.prompt, Tokens(5));
    shut_down(engine, 1);
}
