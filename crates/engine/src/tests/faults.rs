//! When the device fails or the engine thread panics, every request hears of it and nothing hangs.

use std::sync::Arc;
use std::thread;

use super::{Gated, Trouble, end_of, options, request};
use crate::error::{EngineFault, SubmitError};
use crate::handle::{EngineHandle, EngineStatus};
use crate::load::EngineOptions;
use crate::request::GenerateSpec;

fn is_expected(fault: &EngineFault, trouble: Trouble) -> bool {
    match (fault, trouble) {
        (EngineFault::Device(text), Trouble::FailAt(_)) => text.contains("a planted fault"),
        (EngineFault::Panic(text), Trouble::PanicAt(_)) => text.contains("a planted panic"),
        _ => false,
    }
}

/// Two requests run, three wait when it happens.
fn everyone_is_told(trouble: Trouble) {
    let gated = Gated::start(&options(), trouble);
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
        assert!(is_expected(&fault, trouble), "{trouble:?}: {fault}");
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
fn a_failing_device_fails_every_request() {
    for step in [1, 2, 9] {
        everyone_is_told(Trouble::FailAt(step));
    }
}

#[test]
fn a_panic_fails_every_request() {
    for step in [1, 2, 9] {
        everyone_is_told(Trouble::PanicAt(step));
    }
}

#[test]
fn requests_before_the_fault_are_whole() {
    let gated = Gated::start(&options(), Trouble::FailAt(4));
    let handle = gated.handle();
    gated.gate.open();
    let finished = end_of(handle.submit(request(5, 3)).expect("a free engine"));
    assert_eq!(finished.expect("ended in its third step").usage.output.0, 3);
    let cut_off = handle.submit(request(5, 3)).expect("a free engine");
    assert!(end_of(cut_off).is_err());
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
                    Err(SubmitError::Overloaded { .. }) => thread::yield_now(),
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
        let gated = Gated::start(&options(), Trouble::PanicAt(step));
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
        let gated = Gated::start(&options, Trouble::None);
        let (gate, handle) = (Arc::clone(&gated.gate), gated.handle());
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
