//! Full engines, draining engines, and callers who leave, each at a known point of a step.

use kvist_base::FinishReason;

use super::{Gated, end_of, options, request, until};
use crate::error::SubmitError;
use crate::handle::EngineStatus;

#[test]
fn the_engine_is_full_exactly_at_its_bound() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let submit = || handle.submit(request(4, 6));
    let requests: Vec<_> = (0..5).map(|_| submit().expect("five places")).collect();
    let refused = submit().expect_err("the sixth of five");
    assert!(
        matches!(
            refused,
            SubmitError::Overloaded {
                in_flight: 5,
                in_flight_max: 5
            }
        ),
        "{refused}"
    );
    gated.gate.open();
    let mut late = Vec::new();
    for request in requests {
        let finished = end_of(request).expect("no fault");
        assert_eq!(finished.reason, FinishReason::Length);
        late.push(submit().expect("a place comes back before its request's end is told"));
    }
    for request in late {
        assert_eq!(end_of(request).expect("no fault").usage.output.0, 6);
    }
    let report = gated.shut_down();
    assert_eq!(
        (report.accepted, report.blocks_free),
        (10, report.blocks_total)
    );
}

#[test]
fn an_invalid_request_takes_no_place() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    for _ in 0..20 {
        let refused = handle.submit(request(0, 1)).expect_err("an empty prompt");
        assert!(matches!(refused, SubmitError::Invalid(_)), "{refused}");
    }
    let requests: Vec<_> = (0..5).map(|_| handle.submit(request(1, 1))).collect();
    assert!(requests.iter().all(Result::is_ok));
}

#[test]
fn a_draining_engine_finishes_what_it_has() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let requests: Vec<_> = (0..4)
        .map(|_| handle.submit(request(10, 5)).expect("places"))
        .collect();
    gated.gate.wait_for(1);
    handle.drain();
    handle.drain();
    assert_eq!(handle.status(), EngineStatus::Draining);
    assert!(matches!(
        handle.submit(request(1, 1)),
        Err(SubmitError::Draining)
    ));
    gated.gate.open();
    for request in requests {
        let finished = end_of(request).expect("no fault");
        assert_eq!(
            (finished.reason, finished.usage.output.0),
            (FinishReason::Length, 5)
        );
    }
    assert!(matches!(
        handle.submit(request(1, 1)),
        Err(SubmitError::Draining)
    ));
    let report = gated.shut_down();
    assert_eq!((report.accepted, report.failed), (4, 0));
    assert_eq!(report.blocks_free, report.blocks_total);
}

#[test]
fn a_request_sent_in_the_last_step_before_a_drain_is_served() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let last = handle.submit(request(4, 1)).expect("a place");
    gated.gate.wait_for(1);
    // The step that ends all work is under way; this and the drain arrive during it.
    let late = handle.submit(request(4, 2)).expect("a place");
    handle.drain();
    gated.gate.open();
    assert!(end_of(last).is_ok());
    assert_eq!(end_of(late).expect("no fault").usage.output.0, 2);
    assert_eq!(gated.shut_down().accepted, 2);
}

#[test]
fn a_full_engine_that_drains_says_so() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let requests: Vec<_> = (0..5).map(|_| handle.submit(request(1, 1))).collect();
    assert!(requests.iter().all(Result::is_ok));
    handle.drain();
    assert!(matches!(
        handle.submit(request(1, 1)),
        Err(SubmitError::Draining)
    ));
}

#[test]
fn a_caller_may_leave_before_it_is_looked_at() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let running = handle.submit(request(4, 3)).expect("a place");
    gated.gate.wait_for(1);
    // In the channel, behind a step that has begun.
    drop(handle.submit(request(4, 3)).expect("a place"));
    gated.gate.open();
    assert!(end_of(running).is_ok());
    until(&handle, "the one who left is seen off", |m| {
        m.finished.cancelled == 1
    });
    let metrics = handle.metrics();
    assert_eq!(
        (metrics.accepted, metrics.blocks_held, metrics.waiting),
        (2, 0, 0)
    );
    assert_eq!(gated.shut_down().accepted, 2);
}

#[test]
fn a_caller_may_leave_the_queue() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    // The third waits: two run.
    let submit = |output| handle.submit(request(4, output)).expect("a place");
    let first = submit(9);
    gated.gate.wait_for(1);
    let (second, third, fourth) = (submit(9), submit(9), submit(2));
    gated.gate.admit(2);
    gated.gate.wait_for(3);
    let metrics = handle.metrics();
    assert_eq!((metrics.running, metrics.waiting), (2, 2));
    drop(third);
    gated.gate.admit(1);
    gated.gate.wait_for(4);
    let metrics = handle.metrics();
    assert_eq!(
        (metrics.finished.cancelled, metrics.running, metrics.waiting),
        (1, 2, 1)
    );
    gated.gate.open();
    for (request, output) in [(first, 9), (second, 9), (fourth, 2)] {
        assert_eq!(end_of(request).expect("no fault").usage.output.0, output);
    }
    let report = gated.shut_down();
    assert_eq!(
        (report.accepted, report.blocks_free),
        (4, report.blocks_total)
    );
}

#[test]
fn blocks_are_back_within_a_step_of_leaving() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    // A prompt of 60 in steps of 8: the caller leaves in the third of eight.
    let leaver = handle.submit(request(60, 5)).expect("a place");
    gated.gate.admit(2);
    gated.gate.wait_for(3);
    let metrics = handle.metrics();
    assert_eq!((metrics.computed_tokens, metrics.output_tokens), (16, 0));
    assert!(metrics.blocks_held > 0);
    drop(leaver);
    gated.gate.admit(1);
    until(&handle, "its blocks are back", |m| m.blocks_held == 0);
    let metrics = handle.metrics();
    assert_eq!(
        (metrics.computed_tokens, metrics.finished.cancelled),
        (24, 1)
    );
    assert_eq!((metrics.running, metrics.e2e_seconds.count()), (0, 1));
}
