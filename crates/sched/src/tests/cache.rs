//! What is shared, what is kept, and what is computed again.

use super::*;

#[test]
fn live_sequences_share_full_blocks() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 10)).unwrap();
    step(&mut scheduler);
    scheduler.admit(sequence(1, 0, 11)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 10, 11), (1, 8, 11)]);
    assert_eq!(table(&scheduler, 0), [0, 1, 2]);
    assert_eq!(table(&scheduler, 1), [0, 1, 3]);
    assert_eq!(
        scheduler.sequence(SeqId(1)).unwrap().prefix_hit_len,
        Tokens(8)
    );
    scheduler.cancel(SeqId(0));
    assert_eq!(
        counts(&scheduler),
        (13, 3, 0),
        "the shared blocks stay held"
    );
    let finished = scheduler.cancel(SeqId(1)).unwrap();
    assert_eq!(counts(&scheduler), (14, 0, 2));
    assert_eq!(
        (finished.prompt_len, finished.prefix_hit_len),
        (Tokens(11), Tokens(8))
    );
    let totals = scheduler.totals();
    assert_eq!(
        (totals.prefix_query_tokens, totals.prefix_hit_tokens),
        (21, 8)
    );
}

#[test]
fn a_prompt_that_is_cached_to_its_end_computes_its_last_block_again() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 8)).unwrap();
    step(&mut scheduler);
    scheduler.admit(sequence(1, 0, 8)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(0, 8, 9), (1, 4, 8)]);
    assert_eq!(
        table(&scheduler, 1),
        [0, 3],
        "not into the block that 0 reads"
    );
    commit(&mut scheduler, plan);
    assert_eq!(table(&scheduler, 1), [0, 1], "then the two are one");
    assert_eq!(scheduler.totals().last_block_recomputes, 1);
    assert_eq!(scheduler.totals().merged_blocks, 1);
}

#[test]
fn another_root_shares_nothing() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 9)).unwrap();
    step(&mut scheduler);
    scheduler
        .admit(NewSequence {
            cache_root: 1,
            ..sequence(1, 0, 9)
        })
        .unwrap();
    assert_eq!(step(&mut scheduler), [(0, 9, 10), (1, 0, 9)]);
}

#[test]
fn a_collision_costs_a_hit_and_serves_nothing_foreign() {
    let mut scheduler = Scheduler::with_hash_mask(config(), 0).unwrap();
    scheduler.admit(sequence(0, 0, 9)).unwrap();
    step(&mut scheduler);
    scheduler.admit(sequence(1, 1, 9)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 9, 10), (1, 0, 9)]);
    assert_eq!(
        scheduler.totals().hash_collisions,
        3,
        "each lost a block to block 0, and 0 tried twice"
    );
    scheduler.admit(sequence(2, 1, 9)).unwrap();
    scheduler.admit(sequence(3, 0, 9)).unwrap();
    assert_eq!(
        step(&mut scheduler),
        [(0, 10, 11), (1, 9, 10), (2, 0, 9)],
        "3 takes what 2 computes for its own"
    );
    assert_eq!(
        step(&mut scheduler),
        [(0, 11, 12), (1, 10, 11), (2, 9, 10), (3, 4, 9)]
    );
}

#[test]
fn output_is_cached_like_a_prompt() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 3)).unwrap();
    for _ in 0..6 {
        step(&mut scheduler);
    }
    let mut prompt = scheduler.sequence(SeqId(0)).unwrap().tokens.to_vec();
    scheduler.cancel(SeqId(0)).unwrap();
    prompt.push(TokenId(1));
    scheduler
        .admit(NewSequence {
            prompt,
            ..sequence(1, 0, 0)
        })
        .unwrap();
    assert_eq!(step(&mut scheduler), [(1, 8, 10)]);
}

#[test]
fn a_usage_report_tells_the_first_hit_and_the_view_the_last() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 9)).unwrap();
    step(&mut scheduler);
    assert!(scheduler.preempt(SeqId(0)));
    assert_eq!(step(&mut scheduler), [(0, 8, 10)]);
    assert_eq!(
        scheduler.sequence(SeqId(0)).unwrap().prefix_hit_len,
        Tokens(8)
    );
    assert_eq!(
        scheduler.cancel(SeqId(0)).unwrap().prefix_hit_len,
        Tokens(0)
    );
}

#[test]
fn without_caching_nothing_is_kept() {
    let mut scheduler = scheduler(SchedulerConfig {
        prefix_caching: false,
        ..config()
    });
    for id in 0..2 {
        scheduler.admit(sequence(id, 0, 9)).unwrap();
        let plan = scheduler.schedule();
        assert_eq!(spans(&plan), [(id, 0, 9)]);
        scheduler.commit(
            plan,
            StepOutcome {
                chunks: vec![stop()],
            },
        );
        assert_eq!(counts(&scheduler), (16, 0, 0));
    }
    assert_eq!(scheduler.totals(), Totals::default());
}

#[test]
fn a_reset_waits_for_an_idle_pool() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 9)).unwrap();
    step(&mut scheduler);
    assert_eq!(
        scheduler.reset_prefix_cache(),
        Err(CacheInUse { held: Blocks(3) })
    );
    scheduler.cancel(SeqId(0));
    assert_eq!(counts(&scheduler), (14, 0, 2));
    assert_eq!(scheduler.reset_prefix_cache(), Ok(()));
    assert_eq!(counts(&scheduler), (16, 0, 0));
    assert_eq!(
        scheduler.block_state(kvist_base::BlockId(0)),
        BlockState::Free
    );
}

#[test]
fn a_cached_block_about_to_be_shared_is_not_counted_as_room() {
    // Blocks 0 and 1 are cached, 2 and 3 held. Sequence 2 shares 0 and 1 and needs one more.
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(4),
        ..config()
    });
    scheduler
        .admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(0, 0, 8)
        })
        .unwrap();
    step(&mut scheduler);
    scheduler
        .admit(NewSequence {
            output_max: Tokens(4),
            ..sequence(1, 1, 5)
        })
        .unwrap();
    step(&mut scheduler);
    assert_eq!(counts(&scheduler), (0, 2, 2));
    scheduler
        .admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(2, 0, 9)
        })
        .unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(1, 5, 6)]);
    assert!(plan.preempted().is_empty());
    commit(&mut scheduler, plan);
}
