//! Pools that grow and shrink.

use super::*;

fn copies(resized: &Resized) -> Vec<(u32, u32)> {
    let pairs = resized.copies.iter().map(|copy| (copy.from.0, copy.to.0));
    pairs.collect()
}

/// A sequence that computes its prompt and one token.
fn short(id: u64, len: u32) -> NewSequence {
    NewSequence {
        output_max: Tokens(2),
        ..sequence(id, kind(id), len)
    }
}

#[test]
fn a_larger_pool_is_there_at_once() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(1),
        blocks_max: Blocks(4),
        ..config()
    });
    assert!(matches!(
        scheduler.admit(short(0, 8)),
        Err(AdmitError::NeverFits { .. })
    ));
    assert_eq!(scheduler.resize(Blocks(4)), Ok(Resized::default()));
    assert_eq!(scheduler.blocks_limit(), Blocks(4));
    scheduler.admit(short(0, 16)).unwrap_err();
    scheduler.admit(short(0, 15)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 0, 15)]);
    assert_eq!(counts(&scheduler), (0, 4, 0));
}

#[test]
fn what_is_held_moves_below_the_limit_and_stays_shared() {
    let mut scheduler = scheduler(config());
    scheduler.admit(short(0, 9)).unwrap();
    step(&mut scheduler);
    for id in 1..3 {
        scheduler
            .admit(NewSequence {
                output_max: Tokens(8),
                ..sequence(id, 1, 9)
            })
            .unwrap();
        step(&mut scheduler);
    }
    // 0 ended in the second step; its two full blocks are cached.
    assert_eq!(table(&scheduler, 1), [3, 4, 5]);
    assert_eq!(table(&scheduler, 2), [3, 4, 2]);
    assert_eq!(counts(&scheduler), (10, 4, 2));
    assert!(scheduler.free_runs().eq(std::iter::once(6..16)));

    let resized = scheduler.resize(Blocks(4)).unwrap();
    assert_eq!(copies(&resized), [(4, 0), (5, 1)]);
    assert_eq!(resized.dropped_cached, Blocks(2));
    assert_eq!(resized.preempted, []);
    assert_eq!(table(&scheduler, 1), [3, 0, 1]);
    assert_eq!(table(&scheduler, 2), [3, 0, 2]);
    assert_eq!(counts(&scheduler), (0, 4, 0));
    assert_eq!(scheduler.totals().moved_blocks, 2);

    scheduler.cancel(SeqId(1));
    scheduler.cancel(SeqId(2));
    scheduler.admit(short(3, 3)).unwrap();
    let hit = NewSequence {
        id: SeqId(4),
        output_max: Tokens(2),
        ..sequence(1, 1, 9)
    };
    scheduler.admit(hit).unwrap();
    assert_eq!(step(&mut scheduler), [(3, 0, 3), (4, 8, 9)]);
    assert_eq!(table(&scheduler, 4), [3, 0, 2], "found where they are now");
}

#[test]
fn cached_blocks_move_as_long_as_there_is_room() {
    let mut scheduler = scheduler(config());
    for id in 0..2 {
        scheduler.admit(short(id, 9)).unwrap();
    }
    step(&mut scheduler);
    step(&mut scheduler);
    assert_eq!(counts(&scheduler), (12, 0, 4));
    let resized = scheduler.resize(Blocks(3)).unwrap();
    assert_eq!(copies(&resized), [(3, 1), (4, 2)]);
    assert_eq!(resized.dropped_cached, Blocks(1), "the tail of the oldest");
    assert_eq!(counts(&scheduler), (0, 0, 3));
    scheduler
        .admit(NewSequence {
            id: SeqId(2),
            ..short(1, 9)
        })
        .unwrap();
    assert_eq!(step(&mut scheduler), [(2, 8, 9)]);
}

#[test]
fn the_newest_give_way_to_a_smaller_pool_and_only_if_they_must() {
    let mut scheduler = scheduler(config());
    for id in 0..3 {
        scheduler.admit(short(id, 7)).unwrap();
    }
    step(&mut scheduler);
    assert_eq!(counts(&scheduler), (10, 6, 0));
    let resized = scheduler.resize(Blocks(5)).unwrap();
    assert_eq!(resized.preempted, [SeqId(2)]);
    assert_eq!(resized.dropped_cached, Blocks(0));
    assert_eq!(copies(&resized), []);
    assert_eq!(counts(&scheduler), (0, 4, 1));
    assert_eq!(step(&mut scheduler), [(0, 7, 8), (1, 7, 8)]);
    assert_eq!(step(&mut scheduler), [(2, 4, 8)]);
}

#[test]
fn a_limit_that_would_strand_a_live_sequence_is_refused() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_max: Blocks(16),
        ..config()
    });
    scheduler.admit(short(0, 20)).unwrap();
    step(&mut scheduler);
    let before = (table(&scheduler, 0), counts(&scheduler));
    let stranded = ResizeError::LiveSequence {
        id: SeqId(0),
        needed: Blocks(6),
        given: Blocks(5),
    };
    assert_eq!(scheduler.resize(Blocks(5)), Err(stranded));
    assert_eq!(scheduler.resize(Blocks(0)), Err(ResizeError::Zero));
    let too_large = ResizeError::TooLarge {
        limit: Blocks(16),
        given: Blocks(17),
    };
    assert_eq!(scheduler.resize(Blocks(17)), Err(too_large));
    assert_eq!(before, (table(&scheduler, 0), counts(&scheduler)));
    assert!(scheduler.resize(Blocks(6)).is_ok());
}

#[test]
fn cached_blocks_are_dropped_while_others_are_held() {
    let mut scheduler = scheduler(config());
    scheduler.admit(short(0, 12)).unwrap();
    step(&mut scheduler);
    step(&mut scheduler);
    scheduler.admit(short(1, 5)).unwrap();
    step(&mut scheduler);
    assert_eq!(counts(&scheduler), (11, 2, 3));
    assert_eq!(scheduler.drop_cached(Blocks(1)).blocks, Blocks(2));
    assert_eq!(counts(&scheduler), (13, 2, 1));
    assert_eq!(scheduler.drop_cached(Blocks(1)).blocks, Blocks(0));
    let again = NewSequence {
        id: SeqId(2),
        ..short(0, 12)
    };
    scheduler.admit(again).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 5, 6), (2, 4, 12)]);
}
