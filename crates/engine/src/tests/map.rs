//! The map of the pool: whose every block is, at a moment between two steps.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvist_base::{Bytes, KvDtype, Tokens};
use kvist_plan::PlanLimit;

use super::{Gated, end_of, options, request};
use crate::handle::EngineHandle;
use crate::map::{BlockMap, CellContent, MAP_AGE_MAX};
use crate::plan_change::PlanChange;

/// The map between two steps, of which as many pass as it takes.
fn map_of(gated: &Gated) -> Arc<BlockMap> {
    let handle = gated.handle();
    let asking = thread::spawn(move || handle.block_map());
    while !asking.is_finished() {
        gated.gate.admit(1);
        thread::sleep(Duration::from_millis(1));
    }
    let map = asking.join().expect("asking does not panic");
    check_sums(map.expect("the engine runs"))
}

/// A map that is not the last one again.
fn fresh(handle: &EngineHandle) -> Arc<BlockMap> {
    thread::sleep(MAP_AGE_MAX);
    check_sums(handle.block_map().expect("the engine runs"))
}

fn check_sums(map: Arc<BlockMap>) -> Arc<BlockMap> {
    let counts = map.counts;
    let sum = counts.uncommitted + counts.free + counts.cached + counts.shared + counts.owned;
    assert_eq!(sum, map.blocks);
    assert_eq!(
        map.blocks_per_cell, 1,
        "a small pool has a cell for each block"
    );
    let cells: u32 = map.runs.iter().map(|(count, _)| count).sum();
    assert_eq!(cells, map.blocks.0);
    assert_eq!(map.sequences.len(), map.running + map.waiting);
    map
}

fn cells(map: &BlockMap, content: CellContent) -> u32 {
    let same = map.runs.iter().filter(|(_, run)| *run == content);
    same.map(|(count, _)| count).sum()
}

#[test]
fn every_block_in_a_table_is_its_sequences() {
    let mut options = options();
    options.prefix_caching = false;
    let gated = Gated::start(&options, None);
    let handle = gated.handle();
    let prompts = [40, 20, 9];
    let requests = prompts.map(|prompt| handle.submit(request(prompt, 150)).expect("places"));
    let map = loop {
        let map = map_of(&gated);
        if map.running == 2 {
            break map;
        }
        thread::sleep(MAP_AGE_MAX);
    };
    assert_eq!((map.running, map.waiting), (2, 1));
    for (place, sequence) in (0..).zip(&map.sequences) {
        let owned = cells(&map, CellContent::Sequence(place));
        assert_eq!(owned, sequence.blocks.0, "{sequence:?}");
        assert_eq!(sequence.prompt_len.0, prompts[usize::from(place)]);
        assert_eq!(sequence.len_max, sequence.prompt_len + Tokens(150));
        assert_eq!(sequence.is_running, place < 2);
        let needed = sequence.computed_len.div_ceil(Tokens(16));
        assert!(sequence.blocks >= needed && sequence.computed_len < sequence.known_len);
    }
    let tables: u32 = map.sequences.iter().map(|one| one.blocks.0).sum();
    assert_eq!(map.counts.owned.0, tables);
    gated.gate.open();
    for request in requests {
        end_of(request).expect("no fault");
    }
}

#[test]
fn blocks_in_two_tables_are_shared() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let requests = [40, 40].map(|prompt| handle.submit(request(prompt, 100)).expect("places"));
    let map = loop {
        let map = map_of(&gated);
        if map.running == 2 {
            break map;
        }
        thread::sleep(MAP_AGE_MAX);
    };
    // Two whole blocks of a prompt of 40, and what both have said alike since.
    let shared = map.counts.shared.0;
    assert!(shared >= 2 && shared == cells(&map, CellContent::Shared));
    assert!(map.sequences[1].prefix_hit_len >= Tokens(32));
    let tables: u32 = map.sequences.iter().map(|one| one.blocks.0).sum();
    assert_eq!(map.counts.owned.0 + 2 * shared, tables);
    gated.gate.open();
    for request in requests {
        end_of(request).expect("no fault");
    }
    let map = fresh(&handle);
    assert_eq!((map.counts.owned.0, map.counts.shared.0), (0, 0));
    assert!(map.counts.cached.0 >= 8, "{:?}", map.counts);
}

#[test]
fn memory_is_uncommitted_until_it_is_used_and_after_it_was_given_back() {
    let mut options = options();
    options.prefix_caching = false;
    options.kv_idle_release = None;
    let gated = Gated::start(&options, None);
    let handle = gated.handle();
    gated.gate.open();
    assert_eq!(fresh(&handle).counts.uncommitted, fresh(&handle).blocks);
    end_of(handle.submit(request(20, 5)).expect("places")).expect("no fault");
    let map = fresh(&handle);
    assert!(map.counts.free.0 > 0, "{:?}", map.counts);
    assert!(handle.release_kv() > Bytes::ZERO);
    let map = fresh(&handle);
    assert_eq!(map.counts.uncommitted, map.blocks);
}

#[test]
fn a_young_map_answers_again_without_the_engine() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let begun = Instant::now();
    let first = handle.block_map().expect("an idle engine answers");
    // A step that never ends: only the kept map can answer.
    let held = handle.submit(request(4, 4)).expect("places");
    gated.gate.wait_for(1);
    if begun.elapsed() < MAP_AGE_MAX / 2 {
        let again = handle.block_map().expect("an answer");
        assert!(Arc::ptr_eq(&first, &again));
    }
    gated.gate.open();
    end_of(held).expect("no fault");
    assert!(!Arc::ptr_eq(&first, &fresh(&handle)));
}

#[test]
fn a_stopped_engine_has_no_map() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    gated.shut_down();
    assert_eq!(handle.block_map(), None);
}

#[test]
fn a_served_model_can_be_planned_under_other_limits() {
    let gated = Gated::start(&options(), None);
    let handle = gated.handle();
    let served = handle.memory().plan;
    let plan = |change| handle.plan_with(change).expect("sensible limits");
    assert_eq!(plan(PlanChange::default()), served);
    let more = plan(PlanChange {
        running_max: Some(7),
        ..PlanChange::default()
    });
    assert_eq!((more.running_max, more.kv.blocks.0), (7, 7 * 13));
    let lighter = plan(PlanChange {
        kv_dtype: Some(KvDtype::Q8_0),
        ..PlanChange::default()
    });
    assert!(lighter.kv.block_bytes < served.kv.block_bytes);
    let small = plan(PlanChange {
        memory: Some(Bytes(1000)),
        ..PlanChange::default()
    });
    assert!(!small.fits() && small.budget == Bytes(1000));
    let context = u64::from(served.context_max.0);
    let refused = handle.plan_with(PlanChange {
        model_len: Some(served.context_max + Tokens(1)),
        ..PlanChange::default()
    });
    let refused = refused.expect_err("longer than the model's own context");
    assert_eq!(
        (refused.field, refused.limit),
        ("max_model_len", PlanLimit::ModelContext(context))
    );
    assert_eq!(handle.memory().plan, served, "asking changes nothing");
}
