//! A running step allocates the events it sends, and nothing the size of the model or the batch.
//!
//! One test in a process of its own: the meter counts every thread.
#![allow(clippy::cast_possible_truncation)] // test sizes are small

#[path = "../common/mod.rs"]
mod common;
mod meter;

use common::{ModelFile, Stream, greedy, options, shut_down, until};
use kvist_base::QuantFormat;
use kvist_engine::{EngineHandle, StreamEvent};

/// Bytes a token may cost on its way from the sampler to its reader: its event, its text, its place
/// in the step's lists, and the growth of lists that double. A row of the tiny model's logits has
/// 2048 bytes, a row of its activations in all layers more.
const TOKEN_BYTES_MAX: usize = 256;
/// Tokens each request produces before counting begins, and while it lasts.
const WARM_UP: usize = 20;
const COUNTED: usize = 100;

/// What is allocated while `batch` requests produce [`COUNTED`] tokens each.
fn decode(handle: &EngineHandle, batch: usize) -> meter::Usage {
    let mut stream = Stream::new(batch as u64);
    let mut requests: Vec<_> = (0..batch)
        .map(|_| {
            let output = (WARM_UP + COUNTED + 30) as u32;
            let spec = greedy(stream.tokens(20), output);
            handle.submit(spec).expect("a place")
        })
        .collect();
    let mut read = |count: usize| {
        for request in &mut requests {
            let mut seen = 0;
            while seen < count {
                match request.recv() {
                    Some(StreamEvent::Delta(delta)) => seen += delta.tokens.len(),
                    other => panic!("too early: {other:?}"),
                }
            }
        }
    };
    read(WARM_UP);
    meter::reset();
    read(COUNTED);
    let usage = meter::reset();
    drop(requests);
    until(handle, "all have ended", |metrics| metrics.running == 0);
    usage
}

#[test]
fn a_decode_step_allocates_its_events_only() {
    let file = ModelFile::new("llama3", QuantFormat::Q8_0);
    for threads in [1, 2] {
        let mut options = options();
        options.limits.threads = threads;
        let engine = file.start(&options);
        let handle = engine.handle();
        decode(&handle, 12);
        for batch in [1, 4, 12] {
            let usage = decode(&handle, batch);
            let tokens = batch * COUNTED;
            println!("{threads} threads, {batch} requests: {usage:?} for {tokens} tokens");
            assert!(usage.bytes > 0, "the meter counts nothing");
            assert!(
                usage.bytes < tokens * TOKEN_BYTES_MAX,
                "{} bytes a token",
                usage.bytes / tokens
            );
            // Lists of a whole sequence's tokens, and the step's lists of `batch` entries.
            assert!(usage.largest < 2048, "{usage:?}");
        }
        shut_down(engine);
    }
}
