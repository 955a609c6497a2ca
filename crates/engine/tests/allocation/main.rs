//! A running step allocates the events it sends, and nothing the size of the model or the batch.
//!
//! One test in a process of its own: the meter counts every thread.

#[path = "../common/mod.rs"]
mod common;
mod meter;

use common::{ModelFile, Stream, greedy, options, shut_down};
use kvist_base::QuantFormat;
use kvist_engine::{EngineHandle, EngineOptions, Speculation};

/// Bytes a token may cost on its way from the sampler to its reader: its event, its text, its place
/// in the step's lists, and the growth of lists that double. A row of the tiny model's logits has
/// 2048 bytes, a row of its activations in all layers more.
const TOKEN_BYTES_MAX: usize = 256;
/// Outputs of the two runs that are compared.
const SHORT: u32 = 40;
const LONG: u32 = 140;

/// Bytes allocated, by any thread, while `batch` requests of `output` tokens each are served.
fn serve(handle: &EngineHandle, batch: u32, output: u32) -> usize {
    let mut stream = Stream::new(u64::from(batch));
    let specs: Vec<_> = (0..batch)
        .map(|_| greedy(stream.tokens(20), output))
        .collect();
    let mut requests = Vec::with_capacity(specs.len());
    meter::reset();
    for spec in specs {
        requests.push(handle.submit(spec).expect("a place"));
    }
    for request in &mut requests {
        while request.recv().is_some() {}
    }
    meter::reset()
}

#[test]
fn a_decode_step_allocates_its_events_only() {
    let file = ModelFile::new("llama3", QuantFormat::Q8_0);
    for threads in [1, 2] {
        let mut options = options();
        options.limits.threads = threads;
        check(&file, &options);
    }
    // In the same test: the meter counts every thread of the process.
    drafts_allocate_nothing_either(&file);
}

/// A step with a draft model, which is right or wrong, allocates no more.
fn drafts_allocate_nothing_either(file: &ModelFile) {
    for draft in ["llama3", "qwen2"] {
        let draft = ModelFile::new(draft, QuantFormat::Q8_0);
        check(
            file,
            &EngineOptions {
                speculation: Some(Speculation::fixed(3, (None, None)).expect("in range")),
                draft: Some(draft.path().to_owned()),
                ..options()
            },
        );
    }
}

fn check(file: &ModelFile, options: &EngineOptions) {
    let engine = file.start(options);
    let handle = engine.handle();
    serve(&handle, 12, LONG);
    for batch in [1, 4, 12] {
        let (short, long) = (serve(&handle, batch, SHORT), serve(&handle, batch, LONG));
        let tokens = (batch * (LONG - SHORT)) as usize;
        assert!(long > short, "the meter counts nothing");
        let each = (long - short) / tokens;
        assert!(
            each < TOKEN_BYTES_MAX,
            "{each} bytes a token, {batch} at once"
        );
    }
    shut_down(engine);
}
