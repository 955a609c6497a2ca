//! What the engine's tests share: tiny models on disk, workloads from seeds, answers to compare.
#![allow(dead_code)] // each test binary uses its part
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // test sizes are small

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvist_base::{Bytes, FinishReason, QuantFormat, TokenId, Tokens, mix64};
use kvist_engine::plan::{Limits, Machine};
use kvist_engine::{
    EndTokens, Engine, EngineFault, EngineHandle, EngineOptions, GenerateSpec, MetricsSnapshot,
    Prompt, RequestHandle, SamplingSpec, StoppedBy, StreamEvent, Usage,
};
use kvist_testkit::tiny::TinyModel;

/// Tokens of the tiny vocabulary.
pub const VOCAB_LEN: u32 = 512;
/// The tiny vocabulary's end token.
pub const EOS: TokenId = TokenId(2);
/// First and last token of the tiny vocabulary that is a whole syllable.
pub const SYLLABLES: std::ops::RangeInclusive<u32> = 259..=468;

/// A tiny model in a file of its own, removed when dropped.
pub struct ModelFile(PathBuf);

impl ModelFile {
    pub fn new(family: &str, format: QuantFormat) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kvist-engine-{}-{number}.gguf", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        TinyModel::load(family).write_gguf_with(file.path(), format, &|row| {
            let mut raw = vec![0; format.row_bytes(row.len()).expect("whole quant blocks")];
            kvist_kernels::quant::encode_row(format, row, &mut raw);
            raw
        });
        file
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn start(&self, options: &EngineOptions) -> Engine {
        Engine::load(self.path(), &machine(), options).expect("a tiny model loads")
    }
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        // A file left behind harms nobody.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A machine with room, whatever this one has.
pub fn machine() -> Machine {
    Machine {
        mem_total: Bytes(8 << 30),
        mem_available: Bytes(8 << 30),
        cgroup_limit: None,
        cgroup_used: None,
        cores: 4,
    }
}

/// Twelve sequences of up to 200 tokens at once, 64 tokens a step, one thread, no prefix cache.
pub fn options() -> EngineOptions {
    EngineOptions {
        limits: Limits {
            model_len: Some(Tokens(200)),
            running_max: 12,
            step_tokens_max: Tokens(64),
            ..Limits::default()
        },
        prefix_caching: false,
        ..EngineOptions::default()
    }
}

/// The splitmix64 stream of a seed.
pub struct Stream(u64);

impl Stream {
    pub fn new(seed: u64) -> Self {
        Self(mix64(seed))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mix64(self.0) % u64::from(end)) as u32
    }

    /// Tokens that stand for text.
    pub fn tokens(&mut self, count: u32) -> Vec<TokenId> {
        (0..count).map(|_| TokenId(3 + self.below(466))).collect()
    }
}

/// A greedy request that ends after exactly `output` tokens.
pub fn greedy(prompt: Vec<TokenId>, output: u32) -> GenerateSpec {
    GenerateSpec {
        output_max: Some(Tokens(output)),
        end_tokens: EndTokens::Ignore,
        ..GenerateSpec::greedy(Prompt::Tokens(prompt))
    }
}

/// Requests of many kinds: short and long, greedy and drawn, half of them behind a common prefix.
pub fn workload(seed: u64, count: usize) -> Vec<GenerateSpec> {
    let mut stream = Stream::new(seed);
    let prefix = stream.tokens(70);
    let mut request = |idx: usize| {
        let len = 1 + stream.below(if idx.is_multiple_of(4) { 150 } else { 40 });
        let mut prompt = stream.tokens(len);
        if !idx.is_multiple_of(2) {
            prompt.splice(0..0, prefix.iter().copied());
        }
        let mut spec = greedy(prompt, 1 + stream.below(24));
        if !idx.is_multiple_of(3) {
            spec.sampling = drawn(&mut stream);
        }
        spec.sampling.logprobs = (idx % 5 != 4).then(|| stream.below(6));
        spec
    };
    (0..count).map(&mut request).collect()
}

fn drawn(stream: &mut Stream) -> SamplingSpec {
    SamplingSpec {
        temperature: 0.5 + stream.below(100) as f32 / 100.0,
        top_k: [0, 5, 100][stream.below(3) as usize],
        top_p: [1.0, 0.9][stream.below(2) as usize],
        min_p: [0.0, 0.02][stream.below(2) as usize],
        repetition_penalty: [1.0, 1.2][stream.below(2) as usize],
        frequency_penalty: [0.0, 0.3][stream.below(2) as usize],
        seed: u64::from(stream.below(u32::MAX)),
        ..SamplingSpec::default()
    }
}

/// All that a request may depend on: nothing of how it was scheduled.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub text: String,
    pub tokens: Vec<TokenId>,
    /// Per token: the chosen one, then the most likely ones, each with the bits of its logarithm.
    pub logprobs: Vec<Vec<(TokenId, u32)>>,
    pub reason: FinishReason,
    pub stopped_by: Option<StoppedBy>,
    pub prompt: Tokens,
    pub output: Tokens,
}

/// An answer, and what the schedule had to do with it.
#[derive(Debug)]
pub struct Collected {
    pub answer: Answer,
    pub prefix_hit: Tokens,
    pub delta_count: usize,
}

/// Reads to the end, which must be told.
pub fn collect(mut handle: RequestHandle) -> Result<Collected, EngineFault> {
    let (mut text, mut tokens, mut logprobs) = (String::new(), Vec::new(), Vec::new());
    let mut delta_count = 0;
    loop {
        match handle
            .recv()
            .expect("a stream ends with Finished or Failed")
        {
            StreamEvent::Delta(delta) => {
                delta_count += 1;
                text.push_str(&delta.text);
                tokens.extend(delta.tokens);
                logprobs.extend(delta.logprobs.into_iter().map(|entry| {
                    let all = std::iter::once(entry.chosen).chain(entry.top);
                    all.map(|one| (one.token, one.logprob.to_bits())).collect()
                }));
            }
            StreamEvent::Finished(end) => {
                assert_eq!(handle.recv(), None, "nothing follows the end");
                let Usage {
                    prompt,
                    output,
                    prefix_hit,
                } = end.usage;
                let answer = Answer {
                    text,
                    tokens,
                    logprobs,
                    reason: end.reason,
                    stopped_by: end.stopped_by,
                    prompt,
                    output,
                };
                return Ok(Collected {
                    answer,
                    prefix_hit,
                    delta_count,
                });
            }
            StreamEvent::Failed(fault) => {
                assert_eq!(handle.recv(), None, "nothing follows the end");
                return Err(fault);
            }
        }
    }
}

/// Submits and reads one request.
pub fn ask(handle: &EngineHandle, spec: GenerateSpec) -> Answer {
    let request = handle.submit(spec).expect("a valid request");
    collect(request).expect("no fault").answer
}

/// Submits all requests, then reads them.
pub fn ask_all(handle: &EngineHandle, specs: &[GenerateSpec]) -> Vec<Collected> {
    let requests: Vec<_> = specs
        .iter()
        .map(|spec| handle.submit(spec.clone()).expect("a valid request"))
        .collect();
    requests
        .into_iter()
        .map(|request| collect(request).expect("no fault"))
        .collect()
}

/// Waits until the engine's numbers are as expected.
pub fn until(handle: &EngineHandle, what: &str, is_so: impl Fn(&MetricsSnapshot) -> bool) {
    let start = Instant::now();
    while !is_so(&handle.metrics()) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waited in vain: {what}: {:?}",
            handle.metrics()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Drains the engine, and holds it to leaving no block behind.
pub fn shut_down(engine: Engine) {
    let report = engine.shutdown();
    assert_eq!(report.blocks_free, report.blocks_total, "{report:?}");
}
