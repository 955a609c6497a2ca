//! When the device fails or the engine thread panics, every request hears of it and nothing hangs.

use std::thread;

use kvist_base::{TokenId, Tokens};

use super::{Gated, end_of, options, request};
use crate::emit::StreamEvent;
use crate::error::{EngineFault, SubmitError};
use crate::faults::{Fault, When};
use crate::handle::{EngineHandle, EngineStatus};
use crate::load::EngineOptions;
use crate::request::GenerateSpec;

fn is_expected(fault: &EngineFault, planted: &Fault) -> bool {
    match (fault, planted) {
        (EngineFault::Device(text), Fault::Refuse) => text.contains("a planted fault"),
        (EngineFault::Panic(text), Fault::Panic) => text.contains("a planted panic"),
        _ => false,
    }
}

/// Two requests run, three wait when it happens.
fn everyone_is_told(when: When, planted: &Fault) {
    let gated = Gated::start(&options(), Some((when, planted.clone())));
    let handle = gated.handle();
    let requests: Vec<_> = (0..5)
        .map(|_| {
            handle
                .submit(request(20, 30))
                .expect("there are five places")
        })
        .collect();
    gated.gate.open();
    let mut faults = requests.into_iter().map(|request| {
        let fault = end_of(request).expect_err("the engine failed");
        assert!(is_expected(&fault, planted), "{when:?}: {fault}");
        fault
    });
    let fault = faults.next().expect("five");
    assert!(
        faults.all(|other| other == fault),
        "all failed for one reason"
    );

    assert_eq!(handle.status(), EngineStatus::Failed(fault.clone()));
    let refused = handle
        .submit(request(1, 1))
        .expect_err("nothing is served any more");
    assert!(matches!(refused, SubmitError::Stopped(given) if given == fault));
    handle.drain();
    assert_eq!(
        handle.status(),
        EngineStatus::Failed(fault),
        "a drain hides no fault"
    );
    let metrics = handle.metrics();
    assert_eq!((metrics.accepted, metrics.finished.failed), (5, 5));
    let report = gated.shut_down();
    assert_eq!((report.accepted, report.failed), (5, 5));
}

#[test]
fn a_device_that_goes_on_failing_stops_the_engine() {
    for step in [1, 2, 9] {
        everyone_is_told(When::From(step), &Fault::Refuse);
    }
}

#[test]
fn a_panic_fails_every_request() {
    for step in [1, 2, 9] {
        everyone_is_told(When::At(step), &Fault::Panic);
    }
}

/// The tokens of a request, if it was not failed.
fn tokens_of(gated: &Gated, spec: GenerateSpec) -> Result<Vec<TokenId>, EngineFault> {
    let mut handle = gated.handle().submit(spec).expect("a free engine");
    let mut tokens = Vec::new();
    loop {
        match handle.recv().expect("every request is told its end") {
            StreamEvent::Delta(delta) => tokens.extend(delta.tokens),
            StreamEvent::Finished(_) => return Ok(tokens),
            StreamEvent::Failed(fault) => return Err(fault),
        }
    }
}

/// No block is held, and the same prompt has the same answer.
fn is_whole(gated: &Gated, golden: &[TokenId]) {
    assert_eq!(tokens_of(gated, request(20, 9)).as_deref(), Ok(golden));
    let metrics = gated.handle().metrics();
    assert_eq!(
        (metrics.blocks_held, metrics.running, metrics.waiting),
        (0, 0, 0)
    );
    gated
        .handle()
        .reset_prefix_cache()
        .expect("nothing is held");
    let metrics = gated.handle().metrics();
    assert_eq!(metrics.blocks_free, metrics.blocks_total);
}

#[test]
fn one_failed_step_ends_its_sequences_and_no_other() {
    let gated = Gated::start(&options(), None);
    gated.gate.open();
    let golden = tokens_of(&gated, request(20, 9)).expect("no fault yet");
    for planted in [Fault::Refuse, Fault::OutOfMemory] {
        for step in [1, 2, 3, 6] {
            gated
                .gate
                .plan(When::At(gated.gate.steps() + step), planted.clone());
            let fault = tokens_of(&gated, request(20, 9)).expect_err("planted");
            assert!(matches!(fault, EngineFault::Device(_)), "{fault}");
            is_whole(&gated, &golden);
        }
    }
    // Four requests, two of which run: only those of the failed step end.
    gated.gate.close();
    let handle = gated.handle();
    let requests: Vec<_> = (0..4)
        .map(|_| handle.submit(request(4, 3)).expect("a place"))
        .collect();
    gated.gate.plan(When::Next, Fault::Refuse);
    gated.gate.open();
    let ends: Vec<_> = requests.into_iter().map(end_of).collect();
    let failed = ends.iter().filter(|end| end.is_err()).count();
    assert!((1..=2).contains(&failed), "{ends:?}");
    is_whole(&gated, &golden);
    let report = gated.shut_down();
    assert_eq!(report.blocks_free, report.blocks_total);
}

#[test]
fn a_row_that_is_not_a_number_ends_its_own_sequence() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    gated.gate.open();
    let golden = tokens_of(&gated, request(20, 9)).expect("no fault yet");
    gated.gate.close();
    let first = handle.submit(request(3, 9)).expect("a place");
    let second = handle.submit(request(4, 9)).expect("a place");
    // Both prompts fit into a step together: each has a row of the tiny vocabulary's 512 logits.
    gated.gate.plan(When::Next, Fault::NotANumber(0..512));
    gated.gate.open();
    let fault = end_of(first).expect_err("planted");
    assert!(matches!(fault, EngineFault::Numeric(_)), "{fault}");
    assert_eq!(
        end_of(second).expect("the other goes on").usage.output,
        Tokens(9)
    );
    is_whole(&gated, &golden);
    assert_eq!(gated.shut_down().failed, 1);
}

#[test]
fn a_stalled_step_is_seen_from_outside() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    assert_eq!(handle.stalled(), None);
    let steps = gated.gate.steps();
    let request = handle.submit(request(4, 2)).expect("a place");
    gated.gate.wait_for(steps + 1);
    thread::sleep(std::time::Duration::from_millis(20));
    let stalled = handle.stalled().expect("a step stands at the gate");
    assert!(
        stalled >= std::time::Duration::from_millis(15),
        "{stalled:?}"
    );
    gated.gate.open();
    end_of(request).expect("it only took long");
    super::until(&handle, "the engine rests", |_| handle.stalled().is_none());
}

#[test]
fn prompts_that_wait_are_bounded_by_their_tokens() {
    let options = EngineOptions {
        waiting_tokens_max: 50,
        ..options()
    };
    let gated = Gated::start(&options, None);
    let handle = gated.handle();
    // Nothing waits: a prompt larger than the bound may. It begins, and waits no longer.
    let steps = gated.gate.steps();
    let large = handle.submit(request(60, 2)).expect("nothing waits");
    gated.gate.wait_for(steps + 1);
    assert!(large.progress().has_begun());
    let second = handle.submit(request(30, 2)).expect("room for 50");
    let third = handle.submit(request(20, 2)).expect("50 exactly");
    let refused = handle.submit(request(1, 2)).expect_err("51");
    assert!(
        matches!(
            refused,
            SubmitError::TooManyTokensWaiting {
                waiting: 50,
                limit: 50
            }
        ),
        "{refused}"
    );
    drop(third);
    gated.gate.open();
    for request in [large, second] {
        end_of(request).expect("no fault");
    }
    end_of(handle.submit(request(50, 2)).expect("room again")).expect("no fault");
    let report = gated.shut_down();
    assert_eq!(report.blocks_free, report.blocks_total);
}

/// A request that takes long to check: its caller is mostly between the door and the queue, where
/// an engine that stops is easily missed.
fn slow_to_check() -> GenerateSpec {
    GenerateSpec {
        stop: vec!["x".repeat(20_000)],
        ..request(3, 2)
    }
}

/// Callers that never pause, until the engine takes nothing any more. Returns how many of their
/// requests were finished and how many failed; one that is not told how it ended fails the test.
fn storm(handle: &EngineHandle) -> (u64, u64) {
    let caller = |handle: EngineHandle| {
        move || {
            let (mut finished, mut failed) = (0, 0);
            loop {
                match handle.submit(slow_to_check()) {
                    Ok(request) => match end_of(request) {
                        Ok(_) => finished += 1,
                        Err(_) => failed += 1,
                    },
                    Err(
                        SubmitError::Overloaded { .. } | SubmitError::TooManyTokensWaiting { .. },
                    ) => {
                        thread::yield_now();
                    }
                    Err(SubmitError::Draining | SubmitError::Stopped(_)) => {
                        return (finished, failed);
                    }
                    Err(SubmitError::Invalid(error)) => panic!("{error}"),
                }
            }
        }
    };
    let callers: Vec<_> = (0..8)
        .map(|_| thread::spawn(caller(handle.clone())))
        .collect();
    let ends = callers
        .into_iter()
        .map(|caller| caller.join().expect("no caller panics"));
    ends.fold((0, 0), |sum, end| (sum.0 + end.0, sum.1 + end.1))
}

#[test]
fn callers_racing_with_a_fault_are_all_told() {
    for step in [1, 10, 40] {
        let gated = Gated::start(&options(), Some((When::At(step), Fault::Panic)));
        gated.gate.open();
        let (finished, failed) = storm(&gated.handle());
        let report = gated.shut_down();
        assert_eq!(
            (report.accepted, report.failed),
            (finished + failed, failed)
        );
        assert!(failed > 0);
    }
}

#[test]
fn callers_racing_with_a_drain_are_all_served() {
    for rounds in [1, 10, 40] {
        let options = EngineOptions {
            waiting_max: 8,
            ..options()
        };
        let gated = Gated::start(&options, None);
        let (gate, handle) = (gated.gate.clone(), gated.handle());
        gate.open();
        let drainer = thread::spawn(move || {
            gate.wait_for(rounds);
            handle.drain();
        });
        let (finished, failed) = storm(&gated.handle());
        drainer.join().expect("no panic");
        let report = gated.shut_down();
        assert_eq!((report.accepted, report.failed, failed), (finished, 0, 0));
        assert_eq!(report.blocks_free, report.blocks_total);
    }
}
