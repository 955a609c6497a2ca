//! Priority and fair shares reach the scheduler from a request.

mod common;

use std::task::{Context, Poll, Waker};

use common::{ModelFile, Stream, greedy, options, shut_down};
use kvist_base::QuantFormat;
use kvist_engine::plan::Limits;
use kvist_engine::{
    EngineHandle, EngineOptions, Fairness, GenerateSpec, RequestHandle, StreamEvent,
};

fn one_at_a_time(fairness: Fairness) -> EngineOptions {
    EngineOptions {
        limits: Limits {
            running_max: 1,
            ..options().limits
        },
        fairness,
        ..options()
    }
}

/// Submits a request that runs, then those given, of which the last is expected to end before the
/// first of them begins.
fn last_is_served_first(handle: &EngineHandle, running: GenerateSpec, waiting: [GenerateSpec; 2]) {
    let mut running = handle.submit(running).expect("a valid request");
    let begun = running.recv();
    assert!(matches!(begun, Some(StreamEvent::Delta(_))), "{begun:?}");
    let [mut first, mut last] = waiting.map(|spec| handle.submit(spec).expect("a valid request"));
    let begun = first.recv();
    assert!(matches!(begun, Some(StreamEvent::Delta(_))), "{begun:?}");
    assert!(is_finished(&mut last), "it was still waiting");
    while running.recv().is_some() {}
    while first.recv().is_some() {}
}

fn is_finished(handle: &mut RequestHandle) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match handle.poll_next(&mut context) {
            Poll::Ready(Some(StreamEvent::Finished(_))) => return true,
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) | Poll::Pending => return false,
        }
    }
}

fn request(output: u32) -> GenerateSpec {
    greedy(Stream::new(1).tokens(20), output)
}

#[test]
fn a_lower_priority_number_overtakes() {
    let file = ModelFile::new("llama3", QuantFormat::Q8_0);
    let engine = file.start(&one_at_a_time(Fairness::Arrival));
    let urgent = GenerateSpec {
        priority: -1,
        ..request(5)
    };
    last_is_served_first(&engine.handle(), request(150), [request(5), urgent]);
    shut_down(engine);
}

#[test]
fn the_tenant_that_had_less_overtakes() {
    let file = ModelFile::new("llama3", QuantFormat::Q8_0);
    let engine = file.start(&one_at_a_time(Fairness::Tenants));
    let of = |tenant: &str, output| GenerateSpec {
        tenant: Some(tenant.to_owned()),
        ..request(output)
    };
    let waiting = [of("greedy", 5), of("modest", 5)];
    last_is_served_first(&engine.handle(), of("greedy", 150), waiting);
    shut_down(engine);
}
