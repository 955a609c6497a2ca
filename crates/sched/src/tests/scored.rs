//! Prompts whose every token has logits.

use super::*;

/// Four rows a step with logits, and no drafts to make them more.
fn four_rows() -> SchedulerConfig {
    SchedulerConfig {
        running_max: 4,
        draft_max: Tokens(0),
        ..config()
    }
}

fn scored(id: u64, kind: u32, len: u32) -> NewSequence {
    NewSequence {
        prompt_logits: PromptLogits::All,
        ..sequence(id, kind, len)
    }
}

/// One step; returns `(sequence, start, end, logits_from)` of its chunks.
fn step_rows(scheduler: &mut Scheduler) -> Vec<(u64, u32, u32, u32)> {
    let plan = scheduler.schedule();
    let chunks = plan.chunks().iter();
    let rows = chunks.map(|chunk| {
        let logits_from = chunk.logits_from.0;
        (chunk.seq.0, chunk.start.0, chunk.end.0, logits_from)
    });
    let rows = rows.collect();
    commit(scheduler, plan);
    rows
}

#[test]
fn a_prompt_goes_through_in_as_many_rows_as_there_are() {
    let mut scheduler = scheduler(four_rows());
    scheduler.admit(scored(0, 0, 10)).unwrap();
    for expected in [(0, 0, 4, 0), (0, 4, 8, 4), (0, 8, 10, 8), (0, 10, 11, 10)] {
        assert_eq!(step_rows(&mut scheduler), [expected]);
    }
}

#[test]
fn others_keep_their_rows_and_newcomers_get_in() {
    let mut scheduler = scheduler(four_rows());
    scheduler.admit(sequence(0, 0, 3)).unwrap();
    step(&mut scheduler);
    scheduler.admit(scored(1, 1, 10)).unwrap();
    scheduler.admit(sequence(2, 2, 5)).unwrap();
    // Whoever comes first may have what the running ones leave; the next one waits for its row.
    assert_eq!(step_rows(&mut scheduler), [(0, 3, 4, 3), (1, 0, 3, 0)]);
    assert_eq!(
        step_rows(&mut scheduler),
        [(0, 4, 5, 4), (1, 3, 5, 3), (2, 0, 5, 4)]
    );
    assert_eq!(
        step_rows(&mut scheduler),
        [(0, 5, 6, 5), (1, 5, 7, 5), (2, 5, 6, 5)]
    );
}

#[test]
fn nothing_is_shared_before_it_had_logits_and_everything_after() {
    let mut scheduler = scheduler(four_rows());
    scheduler.admit(sequence(0, 0, 12)).unwrap();
    step(&mut scheduler);
    scheduler.cancel(SeqId(0));
    scheduler.admit(scored(1, 0, 12)).unwrap();
    assert_eq!(step_rows(&mut scheduler), [(1, 0, 4, 0)]);
    assert_eq!(step_rows(&mut scheduler), [(1, 4, 8, 4)]);
    // What it computed is what was there: it holds the same blocks, not copies of them.
    assert_eq!(scheduler.totals().merged_blocks, 2);
    assert_eq!(scheduler.totals().prefix_hit_tokens, 0);
    // Having given way it goes on where it was.
    assert!(scheduler.preempt(SeqId(1)));
    assert_eq!(step_rows(&mut scheduler), [(1, 8, 12, 8)]);
}

#[test]
fn a_prompt_that_is_computed_again_has_no_logits_twice() {
    let mut scheduler = scheduler(SchedulerConfig {
        prefix_caching: false,
        ..four_rows()
    });
    scheduler.admit(scored(0, 0, 10)).unwrap();
    assert_eq!(step_rows(&mut scheduler), [(0, 0, 4, 0)]);
    assert!(scheduler.preempt(SeqId(0)));
    assert_eq!(step_rows(&mut scheduler), [(0, 0, 8, 4)]);
    assert_eq!(step_rows(&mut scheduler), [(0, 8, 10, 8)]);
}

#[test]
fn a_sequence_without_output_ends_with_its_prompt() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(3),
        model_len_max: Tokens(12),
        ..config()
    });
    let prompt_only = |len| NewSequence {
        output_max: Tokens(0),
        ..sequence(0, 0, len)
    };
    let too_long = AdmitError::PromptTooLong {
        limit: Tokens(12),
        given: Tokens(13),
    };
    assert_eq!(scheduler.admit(prompt_only(13)), Err(too_long));
    // All of the context, and every slot of the pool.
    scheduler.admit(prompt_only(12)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(0, 0, 12)]);
    let end = ChunkEnd::Finished {
        token: None,
        reason: FinishReason::Length,
    };
    let chunks = vec![end.into()];
    let finished = scheduler.commit(plan, StepOutcome { chunks });
    assert_eq!(finished[0].output_len, Tokens(0));
    assert_eq!(counts(&scheduler).1, 0);
}
