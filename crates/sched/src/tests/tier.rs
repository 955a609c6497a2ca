//! Contents that leave the pool and come back.

use super::*;

fn tiered(blocks: u32, slots: u32) -> SchedulerConfig {
    SchedulerConfig {
        blocks_limit: Blocks(blocks),
        tier_slots: slots,
        partial_hits: true,
        ..config()
    }
}

/// A sequence that computes its prompt and one token.
fn short(id: u64, kind: u32, len: u32) -> NewSequence {
    NewSequence {
        output_max: Tokens(2),
        ..sequence(id, kind, len)
    }
}

fn spills(plan: &StepPlan) -> Vec<(u32, u32)> {
    let pairs = plan
        .spills()
        .iter()
        .map(|spill| (spill.block.0, spill.slot.0));
    pairs.collect()
}

fn restores(plan: &StepPlan) -> Vec<(u32, u32)> {
    let restores = plan.restores().iter();
    restores
        .map(|restore| (restore.slot.0, restore.block.0))
        .collect()
}

/// Runs a sequence to its end; nothing else is alive.
fn run(scheduler: &mut Scheduler, sequence: NewSequence) {
    scheduler.admit(sequence).unwrap();
    while scheduler.has_work() {
        step(scheduler);
    }
}

#[test]
fn what_is_evicted_is_spilled_and_restored_when_wanted_again() {
    let mut scheduler = scheduler(tiered(3, 4));
    run(&mut scheduler, short(0, 0, 9));
    assert_eq!(counts(&scheduler), (0, 0, 3), "two full blocks and a tail");

    scheduler.admit(short(1, 1, 9)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(1, 0, 9)]);
    assert_eq!(
        spills(&plan),
        [(1, 0), (0, 1)],
        "leaf first; a tail is dropped"
    );
    commit(&mut scheduler, plan);
    step(&mut scheduler);

    scheduler.admit(short(2, 0, 10)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spills(&plan), [(1, 2), (2, 3)]);
    assert_eq!(restores(&plan), [(1, 0), (0, 1)]);
    assert_eq!(spans(&plan), [(2, 8, 10)]);
    commit(&mut scheduler, plan);
    let totals = scheduler.totals();
    assert_eq!((totals.spilled_blocks, totals.restored_blocks), (4, 2));
    assert_eq!(totals.restored_tokens, 8);
    scheduler.cancel(SeqId(2));

    // The tier kept what it gave back, so evicting it again writes nothing.
    scheduler.admit(short(3, 3, 11)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spills(&plan), []);
    scheduler.abandon(plan);
}

#[test]
fn a_prompt_that_is_in_the_tier_to_its_end_computes_one_token() {
    let mut scheduler = scheduler(tiered(3, 4));
    run(&mut scheduler, short(0, 0, 8));
    run(&mut scheduler, short(1, 1, 8));
    scheduler.admit(short(2, 0, 8)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(restores(&plan).len(), 2);
    assert_eq!(spans(&plan), [(2, 7, 8)]);
    assert_eq!(commit(&mut scheduler, plan), []);
    assert_eq!(scheduler.totals().restored_tokens, 7);
}

#[test]
fn a_preempted_sequence_gets_its_blocks_back_from_the_tier() {
    let mut scheduler = scheduler(SchedulerConfig {
        partial_hits: false,
        ..tiered(4, 8)
    });
    for id in 0..2 {
        let sequence = NewSequence {
            output_max: Tokens(6),
            ..sequence(id, kind(id), 8)
        };
        scheduler.admit(sequence).unwrap();
    }
    assert_eq!(step(&mut scheduler), [(0, 0, 8), (1, 0, 8)]);
    let plan = scheduler.schedule();
    assert_eq!(plan.preempted(), [SeqId(1)]);
    assert_eq!(spills(&plan), [(3, 0)]);
    commit(&mut scheduler, plan);
    while scheduler.sequence(SeqId(0)).is_some() {
        step(&mut scheduler);
    }
    let plan = scheduler.schedule();
    assert_eq!(restores(&plan).len(), 2, "0 came to need all four blocks");
    assert_eq!(spans(&plan), [(1, 8, 9)]);
    commit(&mut scheduler, plan);
}

#[test]
fn blocks_are_restored_only_if_that_is_cheaper() {
    for (compute_ns_per_token, start) in [(25, 0), (26, 8)] {
        let mut scheduler = scheduler(tiered(3, 4));
        scheduler.set_tier_costs(TierCosts {
            restore_ns_per_block: 100,
            compute_ns_per_token,
        });
        run(&mut scheduler, short(0, 0, 9));
        run(&mut scheduler, short(1, 1, 9));
        scheduler.admit(short(2, 0, 9)).unwrap();
        let plan = scheduler.schedule();
        assert_eq!(spans(&plan), [(2, start, 9)]);
        commit(&mut scheduler, plan);
    }
}

#[test]
fn a_slot_that_is_lost_is_computed_again() {
    let mut scheduler = scheduler(tiered(3, 4));
    run(&mut scheduler, short(0, 0, 9));
    run(&mut scheduler, short(1, 1, 9));
    scheduler.lose_slot(TierSlot(0));
    scheduler.lose_slot(TierSlot(0));
    scheduler.admit(short(2, 0, 9)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!((spans(&plan), restores(&plan).len()), (vec![(2, 4, 9)], 1));
    scheduler.abandon_failed_restores(plan, &[TierSlot(1)]);
    let view = scheduler.sequence(SeqId(2)).unwrap();
    assert_eq!(
        (view.state, view.preempted_count),
        (SequenceState::Waiting, 0)
    );
    assert_eq!(scheduler.totals().lost_slots, 2);
    let plan = scheduler.schedule();
    assert_eq!((spans(&plan), restores(&plan)), (vec![(2, 0, 9)], vec![]));
    commit(&mut scheduler, plan);
}

#[test]
fn spills_of_an_abandoned_plan_are_lost() {
    let mut scheduler = scheduler(tiered(3, 4));
    run(&mut scheduler, short(0, 0, 9));
    scheduler.admit(short(1, 1, 9)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spills(&plan).len(), 2);
    scheduler.abandon(plan);
    scheduler.cancel(SeqId(1));
    scheduler.admit(short(2, 0, 9)).unwrap();
    assert_eq!(step(&mut scheduler), [(2, 0, 9)]);
}

#[test]
fn a_tier_that_is_full_keeps_what_was_used_last() {
    let mut scheduler = scheduler(tiered(16, 3));
    run(&mut scheduler, short(0, 0, 8));
    run(&mut scheduler, short(1, 1, 8));
    let dropped = scheduler.drop_cached(Blocks(0));
    let slots: Vec<u32> = dropped.spills.iter().map(|spill| spill.slot.0).collect();
    assert_eq!(
        slots,
        [0, 1, 2],
        "each slot once, though four blocks were dropped"
    );
    scheduler.admit(short(2, 0, 9)).unwrap();
    scheduler.admit(short(3, 1, 9)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(2, 4, 9), (3, 8, 9)]);
    commit(&mut scheduler, plan);
}

#[test]
fn a_reset_empties_the_tier_too() {
    let mut scheduler = scheduler(tiered(3, 4));
    run(&mut scheduler, short(0, 0, 9));
    run(&mut scheduler, short(1, 1, 9));
    scheduler.reset_prefix_cache().unwrap();
    assert_eq!(scheduler.tier_entries().count(), 0);
    scheduler.admit(short(2, 0, 9)).unwrap();
    assert_eq!(step(&mut scheduler), [(2, 0, 9)]);
}

#[test]
fn a_tier_without_a_prefix_cache_is_refused() {
    let config = SchedulerConfig {
        prefix_caching: false,
        ..tiered(3, 4)
    };
    let missing = ConfigError::Missing {
        field: "tier_slots",
        needs: "prefix_caching",
    };
    assert_eq!(Scheduler::new(config).err(), Some(missing));
}

/// A tier that has seen two prompts of root 0 with a common block, and one of another root.
fn filled() -> Scheduler {
    let mut scheduler = scheduler(tiered(16, 8));
    run(&mut scheduler, short(0, 0, 12));
    let mut branch = short(1, 0, 8);
    branch.prompt[6] = TokenId(77);
    run(&mut scheduler, branch);
    let foreign = NewSequence {
        cache_root: 5,
        ..short(2, 0, 8)
    };
    run(&mut scheduler, foreign);
    scheduler.drop_cached(Blocks(0));
    scheduler
}

#[test]
fn a_tier_outlives_its_scheduler() {
    let entries: Vec<TierEntry> = filled().tier_entries().collect();
    assert_eq!(entries.len(), 4, "those of root 0");
    let mut scheduler = scheduler(tiered(16, 8));
    scheduler.restore_tier(&entries).unwrap();
    assert!(
        scheduler
            .tier_entries()
            .map(|entry| entry.slot)
            .eq(entries.iter().map(|e| e.slot))
    );
    let mut branch = short(0, 0, 8);
    branch.prompt[6] = TokenId(77);
    branch.prompt.push(TokenId(1));
    scheduler.admit(branch).unwrap();
    scheduler.admit(short(1, 0, 12)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(0, 8, 9), (1, 11, 12)]);
    assert_eq!(restores(&plan).len(), 5);
    commit(&mut scheduler, plan);
    assert_eq!(
        table(&scheduler, 0)[0],
        table(&scheduler, 1)[0],
        "one content again"
    );
}

#[test]
fn what_has_lost_its_beginning_is_not_kept() {
    let mut scheduler = filled();
    let first = scheduler
        .tier_entries()
        .find(|entry| entry.parent.is_none());
    scheduler.lose_slot(first.unwrap().slot);
    assert_eq!(scheduler.tier_entries().count(), 0);
}

type Change<'a> = &'a dyn Fn(&mut TierEntry);

#[test]
fn entries_that_cannot_be_true_are_refused_by_name() {
    let entries: Vec<TierEntry> = filled().tier_entries().collect();
    let leaf = entries
        .iter()
        .position(|entry| entry.parent.is_some())
        .unwrap();
    let slot = entries[leaf].slot;
    let refused = |change: Change<'_>| {
        let mut entries = entries.clone();
        change(&mut entries[leaf]);
        let mut scheduler = scheduler(tiered(16, 8));
        let error = scheduler.restore_tier(&entries).unwrap_err();
        assert_eq!(scheduler.tier_entries().count(), 0);
        error
    };
    let other = entries.iter().find(|entry| entry.slot != slot).unwrap();
    let cases: [(Change<'_>, TierEntryError); 7] = [
        (
            &|entry| entry.slot = TierSlot(8),
            TierEntryError::BeyondLimit {
                slot: TierSlot(8),
                limit: 8,
            },
        ),
        (
            &|entry| entry.tokens.truncate(3),
            TierEntryError::WrongLength {
                slot,
                limit: Tokens(4),
                given: 3,
            },
        ),
        (
            &|entry| entry.parent = Some(u64::MAX),
            TierEntryError::NoParent {
                slot,
                parent: u64::MAX,
            },
        ),
        (
            &|entry| entry.tokens[0] = TokenId(1),
            TierEntryError::WrongHash { slot },
        ),
        (&|entry| entry.hash ^= 1, TierEntryError::WrongHash { slot }),
        (
            &|entry| entry.parent = None,
            TierEntryError::WrongHash { slot },
        ),
        (
            &|entry| entry.root = 9,
            TierEntryError::NoParent {
                slot,
                parent: entries[leaf].parent.unwrap(),
            },
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(refused(change), expected);
    }
    for change in [
        &(|entry: &mut TierEntry| entry.slot = other.slot) as Change<'_>,
        &|entry| entry.content = other.content,
        &|entry| entry.hash = other.hash,
    ] {
        assert!(matches!(refused(change), TierEntryError::Repeated { .. }));
    }
    let mut without = scheduler(tiered(16, 0));
    assert_eq!(without.restore_tier(&entries), Err(TierEntryError::NoTier));
}
