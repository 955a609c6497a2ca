//! Hits that end within a block.

use super::*;

fn partial() -> SchedulerConfig {
    SchedulerConfig {
        partial_hits: true,
        ..config()
    }
}

fn copies(plan: &StepPlan) -> Vec<(u32, u32)> {
    let pairs = plan.copies().iter().map(|copy| (copy.from.0, copy.to.0));
    pairs.collect()
}

/// A prompt of these tokens that asks for two more.
fn prompt(id: u64, tokens: Vec<u32>) -> NewSequence {
    NewSequence {
        prompt: tokens.into_iter().map(TokenId).collect(),
        output_max: Tokens(2),
        ..sequence(id, 0, 1)
    }
}

#[test]
fn a_prompt_that_is_cached_to_its_end_computes_one_token() {
    let mut scheduler = scheduler(partial());
    scheduler.admit(sequence(0, 0, 8)).unwrap();
    step(&mut scheduler);
    scheduler.admit(sequence(1, 0, 8)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(0, 8, 9), (1, 7, 8)]);
    assert_eq!(
        copies(&plan),
        [(1, 3)],
        "from the block that 0 goes on to hold"
    );
    commit(&mut scheduler, plan);
    assert_eq!(table(&scheduler, 1), [0, 1], "then the two are one");
    let totals = scheduler.totals();
    assert_eq!((totals.copied_blocks, totals.copied_tokens), (1, 3));
    assert_eq!(totals.last_block_recomputes, 0);
    assert_eq!(totals.prefix_hit_tokens, 7);
}

#[test]
fn the_next_turn_reuses_all_of_the_last_one() {
    let mut scheduler = scheduler(partial());
    scheduler.admit(prompt(0, (0..5).collect())).unwrap();
    step(&mut scheduler);
    let plan = scheduler.schedule();
    assert_eq!(commit(&mut scheduler, plan).len(), 1);
    // Six tokens are computed; the seventh was the last of the output.
    assert_eq!(counts(&scheduler), (14, 0, 2));
    let next = [0, 1, 2, 3, 4, 900_005, 900_006, 50, 51, 52];
    scheduler.admit(prompt(1, next.to_vec())).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(1, 6, 10)]);
    assert_eq!(copies(&plan), [(1, 2)]);
    assert_eq!(counts(&scheduler), (12, 3, 1));
    commit(&mut scheduler, plan);
    assert_eq!(
        counts(&scheduler),
        (13, 3, 0),
        "the tail is part of a full block now, and no longer kept"
    );
}

#[test]
fn the_longest_common_beginning_is_copied() {
    let mut scheduler = scheduler(partial());
    for (id, last) in [(0, [7, 7, 7, 7]), (1, [7, 8, 7, 7]), (2, [7, 8, 9, 7])] {
        let tokens = [[1, 2, 3, 4], last].concat();
        scheduler.admit(prompt(id, tokens)).unwrap();
        step(&mut scheduler);
        scheduler.cancel(SeqId(id));
    }
    let after = |scheduler: &mut Scheduler, id, last: [u32; 4]| {
        let tokens = [[1, 2, 3, 4].as_slice(), &last].concat();
        scheduler.admit(prompt(id, tokens)).unwrap();
        let plan = scheduler.schedule();
        let result = (spans(&plan)[0].1, copies(&plan));
        scheduler.abandon(plan);
        scheduler.cancel(SeqId(id));
        result
    };
    assert_eq!(after(&mut scheduler, 3, [7, 7, 0, 0]), (6, vec![(1, 4)]));
    assert_eq!(after(&mut scheduler, 4, [7, 8, 7, 0]), (7, vec![(2, 4)]));
    assert_eq!(after(&mut scheduler, 5, [7, 8, 9, 0]), (7, vec![(3, 4)]));
    assert_eq!(after(&mut scheduler, 6, [8, 8, 8, 8]), (4, vec![]));
}

#[test]
fn a_sequence_whose_copies_failed_waits_again() {
    let mut scheduler = scheduler(partial());
    scheduler.admit(prompt(0, (0..6).collect())).unwrap();
    step(&mut scheduler);
    scheduler.cancel(SeqId(0));
    scheduler.admit(prompt(1, (0..7).collect())).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(
        (spans(&plan), copies(&plan)),
        (vec![(1, 6, 7)], vec![(1, 2)])
    );
    scheduler.abandon(plan);
    let view = scheduler.sequence(SeqId(1)).unwrap();
    assert_eq!(view.state, SequenceState::Waiting);
    assert_eq!(
        (view.computed_len, view.prefix_hit_len),
        (Tokens(0), Tokens(0))
    );
    assert_eq!(view.preempted_count, 0);
    let totals = scheduler.totals();
    assert_eq!((totals.preemptions, totals.copied_blocks), (0, 0));
    assert_eq!(
        (totals.prefix_query_tokens, totals.prefix_hit_tokens),
        (6, 0)
    );
    assert_eq!(step(&mut scheduler), [(1, 6, 7)]);
    assert_eq!(scheduler.totals().prefix_hit_tokens, 6);
}

#[test]
fn a_copy_that_would_not_fit_beside_its_source_is_not_made() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(2),
        ..partial()
    });
    scheduler.admit(prompt(0, (0..7).collect())).unwrap();
    step(&mut scheduler);
    scheduler.cancel(SeqId(0));
    assert_eq!(counts(&scheduler), (0, 0, 2));
    scheduler.admit(prompt(1, (0..7).collect())).unwrap();
    let plan = scheduler.schedule();
    assert_eq!((spans(&plan), copies(&plan)), (vec![(1, 4, 7)], vec![]));
    scheduler.abandon(plan);
}

#[test]
fn a_tail_is_kept_only_while_nothing_begins_like_it() {
    let mut scheduler = scheduler(partial());
    let mut cached_after = |id, tokens: Vec<u32>| {
        scheduler.admit(prompt(id, tokens)).unwrap();
        step(&mut scheduler);
        scheduler.cancel(SeqId(id));
        counts(&scheduler).2
    };
    assert_eq!(cached_after(0, vec![1, 2]), 1);
    assert_eq!(
        cached_after(1, vec![1, 2, 3]),
        1,
        "in place of the shorter one"
    );
    assert_eq!(
        cached_after(2, vec![1, 2]),
        1,
        "the longer one begins with it"
    );
    assert_eq!(cached_after(3, vec![1, 3]), 2);
    assert_eq!(cached_after(4, vec![1, 2, 3, 4]), 2);
}
