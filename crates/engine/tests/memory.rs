//! The pool shrinks and grows, gives memory back, spills and remembers, and no answer changes.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)] // test sizes are small

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    Answer, ModelFile, Stream, ask, ask_all, collect, greedy, options, shut_down, until, workload,
};
use kvist_base::{Blocks, Bytes, KvDtype, QuantFormat, TokenId, Tokens};
use kvist_engine::{
    BudgetError, EngineHandle, EngineOptions, GenerateSpec, SubmitError, TierOptions,
};

fn model() -> ModelFile {
    ModelFile::new("llama3", QuantFormat::Q8_0)
}

fn cached() -> EngineOptions {
    EngineOptions {
        prefix_caching: true,
        ..options()
    }
}

/// A pool of several extents, so that a budget can take some of them away.
fn large_pool() -> EngineOptions {
    let mut options = cached();
    options.limits.running_max = 160;
    options.limits.kv_dtype = KvDtype::F32;
    options
}

fn assert_answers(handle: &EngineHandle, specs: &[GenerateSpec], expected: &[Answer], what: &str) {
    for (idx, got) in ask_all(handle, specs).iter().enumerate() {
        assert_eq!(got.answer, expected[idx], "{what}, request {idx}");
    }
}

fn alone(file: &ModelFile, specs: &[GenerateSpec]) -> Vec<Answer> {
    let engine = file.start(&options());
    let handle = engine.handle();
    let answers = specs.iter().map(|spec| ask(&handle, spec.clone()));
    let answers = answers.collect();
    shut_down(engine);
    answers
}

/// A directory for a tier, removed when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kvist-engine-tier-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn tier(&self, keeps: bool) -> Option<TierOptions> {
        Some(TierOptions {
            dir: self.0.clone(),
            bytes: Bytes::MIB * 16,
            keeps,
        })
    }

    /// The kept tier's block file.
    fn blocks(&self) -> PathBuf {
        let entries = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut blocks = entries.filter(|path| path.extension().is_some_and(|ext| ext == "kv"));
        blocks.next().expect("a kept tier has a file")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn idle_memory_is_given_back() {
    let file = model();
    let engine = file.start(&EngineOptions {
        kv_idle_release: Some(Duration::from_millis(50)),
        ..cached()
    });
    let handle = engine.handle();
    assert_eq!(
        handle.memory().kv.committed,
        Bytes::ZERO,
        "nothing was used yet"
    );
    let specs = workload(3, 12);
    let first = ask_all(&handle, &specs);
    until(&handle, "cached blocks go", |metrics| {
        metrics.blocks_cached == 0
    });
    // The report follows the metrics within the same turn of the engine.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(handle.memory().kv.committed, Bytes::ZERO);
    for (before, after) in first.iter().zip(ask_all(&handle, &specs)) {
        assert_eq!(before.answer, after.answer);
    }
    assert!(handle.memory().kv.committed > Bytes::ZERO);
    shut_down(engine);
}

#[test]
fn memory_is_kept_when_asked() {
    let file = model();
    let engine = file.start(&EngineOptions {
        kv_idle_release: None,
        ..cached()
    });
    let handle = engine.handle();
    ask_all(&handle, &workload(3, 12));
    // The last answer is out before the report of its step is.
    while handle.memory().kv.blocks_held > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let before = handle.memory().kv;
    thread::sleep(Duration::from_millis(100));
    assert_eq!(handle.memory().kv, before);
    assert!(before.committed > Bytes::ZERO && before.blocks_cached > 0);
    assert!(handle.release_kv() > Bytes::ZERO);
    let after = handle.memory().kv;
    assert_eq!((after.committed, after.blocks_cached), (Bytes::ZERO, 0));
    shut_down(engine);
}

#[test]
fn the_budget_changes_under_load_and_no_answer_does() {
    let file = model();
    let specs = workload(11, 60);
    let alone = file.start(&EngineOptions {
        prefix_caching: false,
        ..large_pool()
    });
    let expected: Vec<Answer> = specs
        .iter()
        .map(|spec| ask(&alone.handle(), spec.clone()))
        .collect();
    shut_down(alone);
    let engine = file.start(&large_pool());
    let handle = engine.handle();
    let (full, least) = (handle.memory(), handle.memory().plan.budget_min());
    let kv_bytes = Bytes(full.budget.0 - least.0);
    assert!(kv_bytes > Bytes::ZERO);
    let requests: Vec<_> = specs
        .iter()
        .map(|spec| handle.submit(spec.clone()).unwrap())
        .collect();
    let (mut changes, mut least_blocks) = (0, full.kv.blocks_limit);
    for share in [1, 8, 0, 3, 8, 0, 5, 1, 0, 8] {
        let budget = least + Bytes(kv_bytes.0 / 8 * share);
        match handle.set_budget(budget) {
            Ok(report) => {
                changes += 1;
                least_blocks = least_blocks.min(report.kv.blocks_limit);
                assert_eq!(report.budget, budget);
                assert!(
                    report
                        .lines
                        .iter()
                        .all(|line| line.committed <= line.planned)
                );
            }
            Err(BudgetError::Busy { needed, given }) => assert!(needed > given && given == budget),
            Err(other) => panic!("{other}"),
        }
        thread::sleep(Duration::from_millis(2));
    }
    assert!(changes > 2 && least_blocks < full.kv.blocks_limit / 2);
    for (idx, request) in requests.into_iter().enumerate() {
        assert_eq!(
            collect(request).unwrap().answer,
            expected[idx],
            "request {idx}"
        );
    }
    handle.set_budget(full.budget).unwrap();
    assert_eq!(handle.memory().kv.blocks_limit, full.kv.blocks_limit);
    assert_answers(&handle, &specs, &expected, "after");
    shut_down(engine);
}

#[test]
fn a_budget_too_small_is_refused_with_the_least_that_would_do() {
    let file = model();
    let engine = file.start(&large_pool());
    let handle = engine.handle();
    let before = handle.memory();
    let Err(BudgetError::TooSmall { needed, given }) = handle.set_budget(Bytes::MIB) else {
        panic!("one mebibyte cannot do");
    };
    assert_eq!(given, Bytes::MIB);
    assert_eq!(handle.memory().budget, before.budget);
    assert_eq!(handle.set_budget(needed).unwrap().budget, needed);
    // What fitted before is refused with both numbers now, and the engine goes on.
    let blocks = handle.memory().kv.blocks_limit;
    assert!(blocks < before.kv.blocks_limit);
    let fits = (blocks * 16).min(200);
    assert_eq!(
        ask(&handle, greedy(vec![TokenId(5); 10], fits - 10))
            .output
            .0,
        fits - 10
    );
    shut_down(engine);
}

#[test]
fn a_request_that_outgrew_the_pool_is_told_so() {
    let file = model();
    let engine = file.start(&EngineOptions {
        kv_blocks_max: Some(Blocks(4)),
        ..cached()
    });
    let handle = engine.handle();
    let refused = handle.submit(greedy(vec![TokenId(5); 60], 40)).unwrap_err();
    let SubmitError::Invalid(error) = refused else {
        panic!("{refused}");
    };
    assert_eq!(error.field(), "prompt");
    assert!(
        error.to_string().contains('7') && error.to_string().contains('4'),
        "{error}"
    );
    shut_down(engine);
}

fn long_prompt() -> GenerateSpec {
    greedy(Stream::new(77).tokens(130), 8)
}

#[test]
fn salts_keep_prefixes_apart() {
    let file = model();
    let engine = file.start(&cached());
    let handle = engine.handle();
    let salted = |salt: Option<&str>| GenerateSpec {
        cache_salt: salt.map(str::to_owned),
        ..long_prompt()
    };
    let hit = |salt| {
        collect(handle.submit(salted(salt)).unwrap())
            .unwrap()
            .prefix_hit
    };
    for salt in [None, Some("a"), Some("b")] {
        assert_eq!(hit(salt), Tokens(0), "{salt:?} shares with nobody");
        assert!(hit(salt) >= Tokens(128), "{salt:?} shares with itself");
    }
    handle.reset_prefix_cache().unwrap();
    assert_eq!(hit(None), Tokens(0));
    shut_down(engine);
}

#[test]
fn a_stopped_engine_answers_controls() {
    let file = model();
    let engine = file.start(&cached());
    let handle = engine.handle();
    shut_down(engine);
    assert_eq!(handle.set_budget(Bytes::GIB), Err(BudgetError::Stopped));
    assert_eq!(handle.release_kv(), Bytes::ZERO);
    assert!(handle.reset_prefix_cache().is_err());
    let refused = handle.submit(long_prompt());
    assert!(matches!(refused, Err(SubmitError::Draining)));
}

#[test]
fn a_tier_brings_preempted_sequences_back_unchanged() {
    let file = model();
    let specs = workload(5, 24);
    let expected = alone(&file, &specs);
    let dir = Dir::new();
    for tier in [None, dir.tier(false)] {
        let has_tier = tier.is_some();
        let engine = file.start(&EngineOptions {
            kv_blocks_max: Some(Blocks(16)),
            tier,
            ..cached()
        });
        let handle = engine.handle();
        for round in 0..2 {
            assert_answers(&handle, &specs, &expected, &format!("round {round}"));
        }
        let metrics = handle.metrics();
        assert!(metrics.preemptions > 0);
        assert_eq!(metrics.spilled_blocks > 0, has_tier);
        assert_eq!(metrics.restored_blocks > 0, has_tier);
        shut_down(engine);
    }
}

#[test]
fn a_kept_prefix_cache_outlives_the_process() {
    let file = model();
    let dir = Dir::new();
    let start = |file: &ModelFile| {
        file.start(&EngineOptions {
            tier: dir.tier(true),
            ..cached()
        })
    };
    let engine = start(&file);
    let first = collect(engine.handle().submit(long_prompt()).unwrap()).unwrap();
    assert_eq!(first.prefix_hit, Tokens(0));
    shut_down(engine);

    let engine = start(&file);
    let again = collect(engine.handle().submit(long_prompt()).unwrap()).unwrap();
    assert_eq!(again.answer, first.answer);
    assert!(again.prefix_hit >= Tokens(128), "{:?}", again.prefix_hit);
    shut_down(engine);

    // Another model's blocks are never used.
    let other = ModelFile::new("llama3", QuantFormat::Q4_0);
    let engine = start(&other);
    let fresh = collect(engine.handle().submit(long_prompt()).unwrap()).unwrap();
    assert_eq!(fresh.prefix_hit, Tokens(0));
    shut_down(engine);
}

#[test]
fn damaged_blocks_are_computed_again() {
    let file = model();
    let dir = Dir::new();
    let options = EngineOptions {
        tier: dir.tier(true),
        ..cached()
    };
    let engine = file.start(&options);
    let expected = ask(&engine.handle(), long_prompt());
    shut_down(engine);
    let path = dir.blocks();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let engine = file.start(&options);
    assert_eq!(ask(&engine.handle(), long_prompt()), expected);
    shut_down(engine);
}

#[test]
fn a_full_disk_costs_time_and_no_answer() {
    let file = model();
    let specs = workload(5, 24);
    let expected = alone(&file, &specs);
    let dir = Dir::new();
    let options = EngineOptions {
        kv_blocks_max: Some(Blocks(16)),
        tier: dir.tier(true),
        ..cached()
    };
    // Once, to learn the name of the file.
    shut_down(file.start(&options));
    let path = dir.blocks();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let engine = file.start(&options);
    let handle = engine.handle();
    for round in 0..2 {
        assert_answers(&handle, &specs, &expected, &format!("round {round}"));
    }
    let metrics = handle.metrics();
    assert!(metrics.spilled_blocks > 0, "nothing was ever written");
    shut_down(engine);
}
