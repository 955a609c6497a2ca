//! Clients that send the same beginning at the same time.

use super::*;

const PREFIX_LEN: u32 = 500;
const TAIL_LEN: u32 = 20;
const CLIENTS: u64 = 16;

/// A prefix that all have, and a tail of its own.
fn client(id: u64) -> NewSequence {
    let prefix = sequence(id, 0, PREFIX_LEN);
    let tail = sequence(id, 1 + kind(id), TAIL_LEN).prompt;
    NewSequence {
        prompt: [prefix.prompt, tail].concat(),
        output_max: Tokens(1),
        ..prefix
    }
}

fn crowd(step_tokens_max: u32, chunk_max: Option<u32>, partial_hits: bool) -> Scheduler {
    let mut scheduler = scheduler(SchedulerConfig {
        block_size: Tokens(16),
        blocks_limit: Blocks(1_000),
        running_max: 16,
        waiting_max: 16,
        step_tokens_max: Tokens(step_tokens_max),
        chunk_max: chunk_max.map(Tokens),
        model_len_max: Tokens(4096),
        partial_hits,
        ..config()
    });
    for id in 0..CLIENTS {
        scheduler.admit(client(id)).unwrap();
    }
    scheduler
}

/// Runs all to their end. Returns the tokens computed, and those reported as cached.
fn finish(scheduler: &mut Scheduler) -> (u32, u32) {
    let (mut computed, mut cached) = (0, 0);
    while scheduler.has_work() {
        let plan = scheduler.schedule();
        computed += plan.token_count().0;
        let finished = commit(scheduler, plan);
        cached += finished.iter().map(|end| end.prefix_hit_len.0).sum::<u32>();
    }
    (computed, cached)
}

#[test]
fn a_common_prefix_is_computed_once() {
    // 31 blocks are common. Of the next one 4 tokens are, and a copy saves them too.
    let once = PREFIX_LEN + TAIL_LEN;
    let whole_blocks = once + 15 * (TAIL_LEN + 4);
    let to_the_token = once + 15 * TAIL_LEN;
    let settings = [(512, None, 0), (600, None, 1), (512, Some(64), 8)];
    for (step_tokens_max, chunk_max, held_back) in settings {
        for (partial_hits, expected) in [(false, whole_blocks), (true, to_the_token)] {
            let mut scheduler = crowd(step_tokens_max, chunk_max, partial_hits);
            let (computed, cached) = finish(&mut scheduler);
            assert_eq!(computed, expected, "{step_tokens_max}, {chunk_max:?}");
            assert_eq!(computed + cached, 16 * once);
            assert!(computed * 10 <= (PREFIX_LEN + 16 * TAIL_LEN) * 11);
            let totals = scheduler.totals();
            assert_eq!(totals.prefix_hit_tokens, u64::from(cached));
            assert_eq!(totals.held_back, held_back);
        }
    }
}

#[test]
fn a_common_prefix_outlives_the_one_who_computes_it() {
    for partial_hits in [false, true] {
        let mut scheduler = crowd(512, Some(60), partial_hits);
        for start in [0, 60, 120, 180] {
            assert_eq!(step(&mut scheduler), [(0, start, start + 60)]);
        }
        scheduler.cancel(SeqId(0)).unwrap();
        // These are 15 whole blocks.
        assert_eq!(step(&mut scheduler), [(1, 240, 300)]);
        let (computed, _) = finish(&mut scheduler);
        let rest = PREFIX_LEN + TAIL_LEN - 300;
        let again = if partial_hits { 0 } else { 4 };
        assert_eq!(computed, rest + 14 * (TAIL_LEN + again), "{partial_hits}");
        assert!((300 + computed) * 10 <= (PREFIX_LEN + 16 * TAIL_LEN) * 11);
    }
}

#[test]
fn those_who_wait_for_a_block_begin_when_it_is_there() {
    let mut scheduler = scheduler(config());
    for id in 0..3 {
        scheduler.admit(sequence(id, 0, 9)).unwrap();
    }
    scheduler.admit(sequence(3, 3, 9)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 0, 9)], "nor does 3 overtake");
    assert_eq!(
        step(&mut scheduler),
        [(0, 9, 10), (1, 8, 9), (2, 8, 9), (3, 0, 9)]
    );
    for (id, last) in [(0, 2), (1, 3), (2, 4)] {
        assert_eq!(table(&scheduler, id), [0, 1, last]);
    }
    assert_eq!(scheduler.totals().held_back, 1);
}

#[test]
fn a_block_that_cannot_be_shared_is_not_waited_for() {
    let mut scheduler = scheduler(config());
    for id in 0..2 {
        scheduler.admit(sequence(id, 0, 4)).unwrap();
    }
    assert_eq!(
        step(&mut scheduler),
        [(0, 0, 4), (1, 0, 4)],
        "each writes to its last block"
    );
    assert_eq!(scheduler.totals().held_back, 0);
    assert_eq!(scheduler.totals().merged_blocks, 1);
}

/// Sequence 1 has as its prompt what 0 is about to say, and is a token behind it.
fn follower() -> Scheduler {
    let mut scheduler = scheduler(SchedulerConfig {
        chunk_max: Some(Tokens(1)),
        ..config()
    });
    scheduler.admit(sequence(0, 0, 5)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 0, 5)]);
    let mut prompt = sequence(1, 0, 5).prompt;
    prompt.extend((5..12).map(|end| TokenId(900_000 + end)));
    scheduler
        .admit(NewSequence {
            prompt,
            ..sequence(1, 0, 0)
        })
        .unwrap();
    assert_eq!(step(&mut scheduler), [(0, 5, 6), (1, 4, 5)]);
    scheduler
}

/// The same, with all of 0's block 1 computed.
fn overtaken() -> Scheduler {
    let mut scheduler = follower();
    assert_eq!(step(&mut scheduler), [(0, 6, 7), (1, 5, 6)]);
    assert_eq!(step(&mut scheduler), [(0, 7, 8), (1, 6, 7)]);
    assert_eq!(table(&scheduler, 0), [0, 1]);
    assert_eq!(table(&scheduler, 1), [0, 2]);
    scheduler
}

#[test]
fn a_running_sequence_goes_on_from_what_another_has_computed() {
    let mut scheduler = overtaken();
    assert_eq!(step(&mut scheduler), [(0, 8, 9), (1, 8, 9)]);
    assert_eq!(table(&scheduler, 0), [0, 1, 3]);
    assert_eq!(table(&scheduler, 1), [0, 1, 2], "its own block 2 went back");
    let totals = scheduler.totals();
    assert_eq!((totals.late_hit_tokens, totals.prefix_hit_tokens), (1, 5));
    let view = scheduler.sequence(SeqId(1)).unwrap();
    assert_eq!(view.prefix_hit_len, Tokens(5));
    let finished = scheduler.cancel(SeqId(1)).unwrap();
    assert_eq!(finished.prefix_hit_len, Tokens(5));
}

#[test]
fn a_late_hit_outlives_the_plan_that_found_it() {
    let mut scheduler = overtaken();
    let plan = scheduler.schedule();
    scheduler.abandon(plan);
    let view = scheduler.sequence(SeqId(1)).unwrap();
    assert_eq!(view.computed_len, Tokens(8));
    assert_eq!(step(&mut scheduler), [(0, 8, 9), (1, 8, 9)]);
    assert_eq!(scheduler.totals().late_hit_tokens, 1, "counted once");
}

#[test]
fn a_late_hit_after_a_preemption_is_not_reported_as_cached() {
    let mut scheduler = follower();
    scheduler.preempt(SeqId(1));
    assert_eq!(step(&mut scheduler), [(0, 6, 7), (1, 4, 5)]);
    assert_eq!(step(&mut scheduler), [(0, 7, 8), (1, 5, 6)]);
    assert_eq!(step(&mut scheduler), [(0, 8, 9), (1, 8, 9)]);
    let totals = scheduler.totals();
    assert_eq!((totals.late_hit_tokens, totals.prefix_hit_tokens), (2, 4));
    let view = scheduler.sequence(SeqId(1)).unwrap();
    assert_eq!(view.prefix_hit_len, Tokens(6));
    let finished = scheduler.cancel(SeqId(1)).unwrap();
    assert_eq!(finished.prefix_hit_len, Tokens(4));
}
