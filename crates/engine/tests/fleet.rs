//! Several models under one budget: they come and go, the budget holds, and no answer changes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // test sizes are small

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{Answer, ModelFile, Stream, ask, machine, options, shut_down, workload};
use kvist_base::{Bytes, QuantFormat, Tokens};
use kvist_engine::plan::{Limits, MemoryLimit, PROCESS_BYTES};
use kvist_engine::{
    BudgetError, EngineOptions, EngineStatus, Fleet, FleetError, FleetModel, FleetPlanError,
    ModelState,
};

const FAMILIES: [&str; 3] = ["llama3", "qwen2", "smollm3"];

struct Files(Vec<ModelFile>);

impl Files {
    fn new() -> Self {
        Self(
            FAMILIES
                .map(|family| ModelFile::new(family, QuantFormat::Q8_0))
                .into(),
        )
    }

    fn models(&self) -> Vec<FleetModel> {
        let model = |(name, file): (&&str, &ModelFile)| FleetModel {
            names: vec![(*name).to_owned()],
            path: file.path().to_owned(),
        };
        FAMILIES.iter().zip(&self.0).map(model).collect()
    }

    fn fleet(&self, budget: Bytes) -> Result<Fleet, FleetPlanError> {
        Fleet::plan(self.models(), &machine(), &within(budget))
    }

    /// A budget under which any two of the models fit with some room, and never all three.
    fn for_two(&self) -> Bytes {
        let all = self.fleet(Bytes::GIB).unwrap();
        let least = all
            .members()
            .iter()
            .map(|member| member.plan.budget_min() - PROCESS_BYTES);
        let mut least: Vec<Bytes> = least.collect();
        least.sort_unstable();
        let budget = PROCESS_BYTES + least[1] + least[2] + Bytes(least[0].0 / 2);
        assert!(budget < PROCESS_BYTES + least.iter().copied().sum());
        budget
    }
}

fn within(budget: Bytes) -> EngineOptions {
    EngineOptions {
        limits: Limits {
            memory: MemoryLimit::Absolute(budget),
            ..options().limits
        },
        prefix_caching: true,
        ..options()
    }
}

/// What each model answers to each request when it has the machine for itself.
fn expected(files: &Files, count: usize) -> Vec<Vec<Answer>> {
    let answers = |file: &ModelFile| {
        let engine = file.start(&options());
        let handle = engine.handle();
        let answers = workload(7, count)
            .into_iter()
            .map(|spec| ask(&handle, spec));
        let answers = answers.collect();
        shut_down(engine);
        answers
    };
    files.0.iter().map(answers).collect()
}

/// All that may be held, by the fleet's own report, which must be within the budget.
fn planned(fleet: &Fleet) -> Bytes {
    let memory = fleet.memory();
    let planned = memory.lines.iter().map(|line| line.line.planned).sum();
    assert!(planned <= memory.budget, "{planned} of {}", memory.budget);
    for line in &memory.lines {
        assert!(line.line.committed <= line.line.planned, "{line:?}");
    }
    planned
}

fn states(fleet: &Fleet) -> Vec<ModelState> {
    fleet
        .memory()
        .models
        .iter()
        .map(|model| model.state)
        .collect()
}

#[test]
fn models_come_when_asked_for_and_the_least_recently_used_goes() {
    use ModelState::{Ready, Unloaded};
    let files = Files::new();
    let expected = expected(&files, 3);
    let fleet = files.fleet(files.for_two()).unwrap();
    assert_eq!(planned(&fleet), PROCESS_BYTES, "nothing is loaded yet");
    let visits = [
        (0, [Ready, Unloaded, Unloaded]),
        (1, [Ready, Ready, Unloaded]),
        (0, [Ready, Ready, Unloaded]),
        (2, [Ready, Unloaded, Ready]),
        (1, [Unloaded, Ready, Ready]),
    ];
    for (model, after) in visits {
        let lease = fleet.acquire(model).unwrap();
        assert!(fleet.memory().models[model].is_busy);
        for (spec, expected) in workload(7, 3).into_iter().zip(&expected[model]) {
            assert_eq!(&ask(lease.engine(), spec), expected);
        }
        drop(lease);
        assert_eq!(states(&fleet), after);
        planned(&fleet);
    }
    assert!(fleet.lease(0).is_none(), "it is not in memory");
    let report = fleet.shutdown();
    assert_eq!(report.blocks_free, report.blocks_total);
    assert_eq!((report.accepted, report.failed), (15, 0));
}

#[test]
fn what_fits_is_loaded_at_the_start_and_shares_what_is_left() {
    let files = Files::new();
    let budget = files.for_two();
    let fleet = files.fleet(budget).unwrap();
    fleet.load_what_fits().unwrap();
    assert_eq!(fleet.engines().len(), 2, "{:?}", states(&fleet));
    assert_eq!(states(&fleet)[0], ModelState::Ready);
    let roomy = files.fleet(Bytes::GIB).unwrap();
    roomy.load_what_fits().unwrap();
    assert_eq!(states(&roomy), [ModelState::Ready; 3]);
    // With room for all, each may have all it can use.
    for (member, model) in roomy.members().iter().zip(roomy.memory().models) {
        assert_eq!(model.plan.kv.blocks, member.plan.kv.blocks_max);
    }
    planned(&roomy);
}

#[test]
fn a_busy_model_is_not_unloaded_and_the_refusal_has_numbers() {
    let files = Files::new();
    let budget = files.for_two();
    let fleet = files.fleet(budget).unwrap();
    let busy = [fleet.acquire(0).unwrap(), fleet.acquire(1).unwrap()];
    match fleet.acquire(2).unwrap_err() {
        FleetError::NoRoom {
            model,
            needed,
            budget: given,
        } => {
            assert_eq!((model.as_str(), given), ("smollm3", budget));
            assert!(needed > budget);
        }
        other => panic!("{other}"),
    }
    use ModelState::{Ready, Unloaded};
    assert_eq!(states(&fleet), [Ready, Ready, Unloaded]);
    drop(busy);
    fleet.acquire(2).unwrap();
    assert_eq!(states(&fleet), [Unloaded, Ready, Ready]);
}

#[test]
fn the_budget_of_a_fleet_shrinks_to_its_largest_model_and_grows_again() {
    let files = Files::new();
    let fleet = files.fleet(Bytes::GIB).unwrap();
    fleet.load_what_fits().unwrap();
    let least = fleet
        .members()
        .iter()
        .map(|member| member.plan.budget_min());
    let least = least.max().unwrap();
    let given = least - Bytes(1);
    let error = fleet.set_budget(given).unwrap_err();
    assert_eq!(
        error,
        BudgetError::TooSmall {
            needed: least,
            given
        }
    );
    assert_eq!(
        states(&fleet),
        [ModelState::Ready; 3],
        "nothing has changed"
    );

    let busy = [fleet.acquire(0).unwrap(), fleet.acquire(1).unwrap()];
    match fleet.set_budget(least).unwrap_err() {
        BudgetError::Busy { needed, given } => assert!(needed > given && given == least),
        other => panic!("{other}"),
    }
    assert_eq!(fleet.budget(), Bytes::GIB);
    drop(busy);
    fleet.set_budget(least).unwrap();
    assert_eq!(fleet.engines().len(), 1);
    assert!(planned(&fleet) <= least);
    for model in [0, 1, 2, 0] {
        fleet.acquire(model).unwrap();
        planned(&fleet);
    }
    fleet.set_budget(Bytes::GIB).unwrap();
    for model in 0..3 {
        fleet.acquire(model).unwrap();
    }
    assert_eq!(states(&fleet), [ModelState::Ready; 3]);
}

#[test]
fn idle_models_leave_and_come_back() {
    let files = Files::new();
    let fleet = files.fleet(Bytes::GIB).unwrap();
    fleet.load_what_fits().unwrap();
    let busy = fleet.acquire(1).unwrap();
    fleet.unload_idle(Duration::from_secs(3600));
    assert_eq!(fleet.engines().len(), 3);
    fleet.unload_idle(Duration::ZERO);
    use ModelState::{Ready, Unloaded};
    assert_eq!(states(&fleet), [Unloaded, Ready, Unloaded]);
    drop(busy);
    fleet.unload_idle(Duration::ZERO);
    assert_eq!(states(&fleet), [Unloaded; 3]);
    assert_eq!(fleet.status(), EngineStatus::Ready, "requests can be taken");
    fleet.acquire(1).unwrap();
    assert_eq!(states(&fleet), [Unloaded, Ready, Unloaded]);
}

#[test]
fn a_crowd_gets_the_answers_each_would_get_alone_within_the_budget() {
    const REQUESTS: usize = 6;
    let files = Files::new();
    let expected = expected(&files, REQUESTS);
    let fleet = files.fleet(files.for_two()).unwrap();
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (fleet, expected, answered) = (&fleet, &expected, &answered);
                scope.spawn(move || {
                    let mut stream = Stream::new(client);
                    for _ in 0..8 {
                        let model = stream.below(3) as usize;
                        let Ok(lease) = fleet.acquire(model) else {
                            thread::yield_now(); // both others are busy
                            continue;
                        };
                        let which = stream.below(REQUESTS as u32) as usize;
                        let spec = workload(7, REQUESTS).swap_remove(which);
                        let answer = ask(lease.engine(), spec);
                        assert_eq!(answer, expected[model][which]);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                planned(&fleet);
                fleet.unload_idle(Duration::from_millis(5));
            }
        });
        for client in clients {
            client.join().expect("a client's answers are as expected");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let report = fleet.shutdown();
    assert_eq!(report.blocks_free, report.blocks_total);
    assert_eq!(report.accepted as usize, answered.into_inner());
    assert_eq!(report.failed, 0);
}

#[test]
fn models_that_cannot_be_served_are_refused_before_any_is_loaded() {
    let files = Files::new();
    let mut twice = files.models();
    twice[2].names.push("llama3".to_owned());
    let error = Fleet::plan(twice, &machine(), &within(Bytes::GIB)).unwrap_err();
    assert!(matches!(error, FleetPlanError::NameTaken { name } if name == "llama3"));

    let error = files.fleet(Bytes::MIB * 12).unwrap_err();
    assert!(matches!(error, FleetPlanError::DoesNotFit { model, .. } if model == "llama3"));

    let mut missing = files.models();
    missing[1].path = "/no/such/file.gguf".into();
    let error = Fleet::plan(missing, &machine(), &within(Bytes::GIB)).unwrap_err();
    assert!(matches!(error, FleetPlanError::Model { model, .. } if model == "qwen2"));
}

#[test]
fn a_file_that_went_away_is_an_error_of_that_model_alone() {
    let files = Files::new();
    let fleet = files.fleet(Bytes::GIB).unwrap();
    std::fs::remove_file(files.0[1].path()).unwrap();
    let error = fleet.acquire(1).unwrap_err();
    assert!(matches!(error, FleetError::Load { model, .. } if model == "qwen2"));
    fleet.acquire(0).unwrap();
    assert_eq!(states(&fleet)[1], ModelState::Unloaded);
    planned(&fleet);
}

#[test]
fn a_draining_fleet_loads_nothing() {
    let files = Files::new();
    let fleet = files.fleet(Bytes::GIB).unwrap();
    fleet.acquire(0).unwrap();
    fleet.drain();
    assert_eq!(fleet.status(), EngineStatus::Draining);
    assert!(matches!(
        fleet.acquire(1).unwrap_err(),
        FleetError::Draining
    ));
    assert_eq!(fleet.set_budget(Bytes::GIB * 2), Err(BudgetError::Stopped));
    let report = fleet.shutdown();
    assert_eq!(report.blocks_free, report.blocks_total);
}

/// The length of sequences is settled when the fleet is planned: what is loaded beside does not
/// change what a request may ask for.
#[test]
fn the_context_does_not_depend_on_what_else_is_loaded() {
    let files = Files::new();
    let options = EngineOptions {
        limits: Limits {
            model_len: None,
            ..within(Bytes::GIB).limits
        },
        ..within(Bytes::GIB)
    };
    let fleet = Fleet::plan(files.models(), &machine(), &options).unwrap();
    let lens: Vec<Tokens> = fleet
        .members()
        .iter()
        .map(|member| member.model_len())
        .collect();
    for order in [[0, 1, 2], [2, 1, 0]] {
        for model in order {
            let lease = fleet.acquire(model).unwrap();
            assert_eq!(lease.engine().info().model_len, lens[model]);
        }
        fleet.unload_idle(Duration::ZERO);
    }
}
