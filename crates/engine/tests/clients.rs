//! Callers who leave, who never read, who come in crowds; and numbers that add up.
#![allow(clippy::cast_possible_truncation)] // test sizes are small

mod common;

use std::thread;

use common::{
    ModelFile, Stream, ask, ask_all, collect, greedy, options, shut_down, until, workload,
};
use kvist_base::{Blocks, FinishReason, QuantFormat, TokenId};
use kvist_engine::{EngineOptions, FinishedCounts, MetricsSnapshot, RequestHandle, StreamEvent};

fn llama() -> ModelFile {
    ModelFile::new("llama3", QuantFormat::Q8_0)
}

fn is_idle(metrics: &MetricsSnapshot) -> bool {
    let sum = metrics.blocks_free + metrics.blocks_cached + metrics.blocks_held;
    assert_eq!(sum, metrics.blocks_total, "every block is in one state");
    metrics.running == 0 && metrics.waiting == 0 && metrics.blocks_held == 0
}

/// Reads until at least `count` tokens are there, or the end.
fn read_tokens(request: &mut RequestHandle, count: usize) -> usize {
    let mut seen = 0;
    while seen < count {
        match request.recv() {
            Some(StreamEvent::Delta(delta)) => seen += delta.tokens.len(),
            _ => break,
        }
    }
    seen
}

#[test]
fn a_caller_may_leave_after_any_token() {
    const OUTPUT: u32 = 24;
    let file = llama();
    let engine = file.start(&EngineOptions {
        prefix_caching: true,
        ..options()
    });
    let handle = engine.handle();
    let mut stream = Stream::new(4);
    let stayer = greedy(stream.tokens(30), OUTPUT);
    let expected = ask(&handle, stayer.clone());
    for k in 0..=OUTPUT as usize {
        let staying = handle.submit(stayer.clone()).expect("a place");
        let leaver = greedy(stream.tokens(50), OUTPUT);
        let mut leaving = handle.submit(leaver).expect("a place");
        assert!(read_tokens(&mut leaving, k) >= k);
        drop(leaving);
        assert_eq!(
            collect(staying).expect("no fault").answer,
            expected,
            "left after {k}"
        );
        until(&handle, "all blocks are back", is_idle);
    }
    let FinishedCounts {
        stop,
        length,
        cancelled,
        failed,
    } = handle.metrics().finished;
    assert_eq!(
        (stop, failed, length + cancelled),
        (0, 0, 2 * u64::from(OUTPUT + 1) + 1)
    );
    assert!(cancelled > 0);
    shut_down(engine);
}

#[test]
fn leaving_after_the_end_takes_nothing_back_twice() {
    let file = llama();
    let engine = file.start(&options());
    let handle = engine.handle();
    let mut request = handle
        .submit(greedy(vec![TokenId(9); 20], 4))
        .expect("a place");
    assert_eq!(read_tokens(&mut request, usize::MAX), 4);
    until(&handle, "it has ended", |metrics| {
        metrics.finished.length == 1
    });
    drop(request);
    ask(&handle, greedy(vec![TokenId(9); 20], 4));
    assert_eq!(handle.metrics().finished.cancelled, 0);
    shut_down(engine);
}

#[test]
fn five_hundred_requests_of_which_half_are_dropped() {
    const CALLERS: u32 = 4;
    const EACH: u32 = 125;
    let file = llama();
    let storm_options = EngineOptions {
        waiting_max: 500,
        prefix_caching: true,
        kv_blocks_max: Some(Blocks(13)),
        ..options()
    };
    let engine = file.start(&storm_options);
    let caller = |number: u32| {
        let handle = engine.handle();
        move || {
            let mut stream = Stream::new(u64::from(number) + 100);
            let mut staying = Vec::new();
            for idx in 0..EACH {
                let (prompt, output) = (1 + stream.below(60), 1 + stream.below(12));
                let spec = greedy(stream.tokens(prompt), output);
                let mut request = handle.submit(spec).expect("there are 512 places");
                match idx % 4 {
                    0 | 2 => staying.push((request, output)),
                    1 => drop(request),
                    _ => {
                        read_tokens(&mut request, stream.below(output + 1) as usize);
                    }
                }
            }
            for (request, output) in staying {
                let answer = collect(request).expect("no fault").answer;
                assert_eq!(
                    (answer.reason, answer.output.0),
                    (FinishReason::Length, output)
                );
                assert_eq!(answer.tokens.len(), output as usize);
            }
        }
    };
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| thread::spawn(caller(number)))
        .collect();
    for caller in callers {
        caller.join().expect("every caller is served");
    }
    let handle = engine.handle();
    until(&handle, "all blocks are back", is_idle);
    let finished = handle.metrics().finished;
    let all = u64::from(CALLERS * EACH);
    assert_eq!((finished.stop, finished.failed), (0, 0));
    assert_eq!(finished.length + finished.cancelled, all);
    assert!(finished.length >= all / 2);

    // Every place has come back.
    let again: Vec<_> = (0..512)
        .map(|_| handle.submit(greedy(vec![TokenId(9)], 1)))
        .collect();
    assert!(again.iter().all(Result::is_ok));
    drop(again);
    shut_down(engine);
}

#[test]
fn a_caller_who_never_reads_costs_one_event() {
    let file = llama();
    let engine = file.start(&options());
    let handle = engine.handle();
    let specs = workload(5, 6);
    let expected = ask_all(&handle, &specs);
    let unread = handle
        .submit(greedy(vec![TokenId(40); 10], 60))
        .expect("a place");
    for (got, expected) in ask_all(&handle, &specs).iter().zip(&expected) {
        assert_eq!(got.answer, expected.answer);
    }
    until(&handle, "it has ended unread", is_idle);
    let late = collect(unread).expect("no fault");
    assert_eq!((late.delta_count, late.answer.tokens.len()), (1, 60));
    shut_down(engine);
}

#[test]
fn eight_threads_share_a_handle() {
    let file = llama();
    let engine = file.start(&options());
    let specs = workload(6, 4);
    let expected: Vec<_> = specs
        .iter()
        .map(|spec| ask(&engine.handle(), spec.clone()))
        .collect();
    thread::scope(|scope| {
        for _ in 0..8 {
            let handle = engine.handle();
            let (specs, expected) = (&specs, &expected);
            scope.spawn(move || {
                for (spec, expected) in specs.iter().zip(expected) {
                    assert_eq!(ask(&handle, spec.clone()), *expected);
                    assert!(!handle.info().name.is_empty());
                }
            });
        }
    });
    assert_eq!(engine.handle().metrics().accepted, 36);
    shut_down(engine);
}

#[test]
fn the_numbers_add_up() {
    let file = llama();
    let engine = file.start(&options());
    let handle = engine.handle();
    let mut specs = workload(7, 10);
    // One that stops early, at the token it would produce second.
    let second = ask(&handle, greedy(vec![TokenId(77); 33], 2)).tokens[1];
    let mut stopping = greedy(vec![TokenId(77); 33], 9);
    stopping.stop_tokens = vec![second];
    specs.push(stopping);

    let before = handle.metrics();
    let answers: Vec<_> = ask_all(&handle, &specs)
        .into_iter()
        .map(|got| got.answer)
        .collect();
    let metrics = handle.metrics();
    let sum = |count: &dyn Fn(usize) -> u64| (0..answers.len()).map(count).sum::<u64>();
    let prompts = sum(&|idx| answers[idx].prompt.0.into());
    let outputs = sum(&|idx| answers[idx].output.0.into());
    let stops = sum(&|idx| u64::from(answers[idx].reason == FinishReason::Stop));
    let count = answers.len() as u64;
    assert_eq!(metrics.accepted - before.accepted, count);
    assert_eq!(metrics.prompt_tokens - before.prompt_tokens, prompts);
    assert_eq!(metrics.output_tokens - before.output_tokens, outputs);
    // The last token of each output is not computed; nothing else is left out or done twice.
    assert_eq!(
        metrics.computed_tokens - before.computed_tokens,
        prompts + outputs - count
    );
    assert!(metrics.steps > before.steps);
    assert_eq!(stops, 1);
    let FinishedCounts {
        stop,
        length,
        cancelled,
        failed,
    } = metrics.finished;
    assert_eq!((stop, length, cancelled, failed), (1, count, 0, 0));
    assert_eq!(stop + length, metrics.accepted);

    assert_eq!(metrics.ttft_seconds.count(), metrics.accepted);
    assert_eq!(metrics.e2e_seconds.count(), metrics.accepted);
    assert_eq!(
        metrics.itl_seconds.count(),
        metrics.output_tokens - metrics.accepted
    );
    assert!(metrics.ttft_seconds.sum + metrics.itl_seconds.sum <= metrics.e2e_seconds.sum);
    assert_eq!(
        (metrics.prefix_query_tokens, metrics.prefix_hit_tokens),
        (0, 0)
    );
    assert!(is_idle(&metrics));
    shut_down(engine);
}
