use super::*;

fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

/// A scheduler with one sequence of 7 known tokens, of which all but the last are computed.
fn decoding(config: SchedulerConfig) -> Scheduler {
    let mut scheduler = scheduler(config);
    scheduler.admit(sequence(0, 0, 6)).unwrap();
    step(&mut scheduler);
    scheduler
}

fn outcome(accepted: u32, end: ChunkEnd) -> StepOutcome {
    let accepted = Tokens(accepted);
    StepOutcome {
        chunks: vec![ChunkOutcome { accepted, end }],
    }
}

#[test]
fn accepted_tokens_are_known_and_computed_and_the_rest_is_forgotten() {
    let mut scheduler = decoding(config());
    assert!(scheduler.propose(SeqId(0), &tokens(&[1, 2, 3, 4])));
    let plan = scheduler.schedule();
    let chunk = plan.chunks()[0];
    assert_eq!((chunk.start, chunk.end), (Tokens(6), Tokens(7)));
    assert_eq!(chunk.draft_len, Tokens(4));
    assert_eq!(
        (chunk.token_count(), chunk.logit_count()),
        (Tokens(5), Tokens(5))
    );
    assert_eq!(plan.token_count(), Tokens(5));
    assert_eq!(table(&scheduler, 0), [0, 1, 2]);
    assert_eq!(
        scheduler.sequence(SeqId(0)).unwrap().draft,
        tokens(&[1, 2, 3, 4])
    );
    scheduler.commit(plan, outcome(1, ChunkEnd::Sampled(TokenId(9))));
    let view = scheduler.sequence(SeqId(0)).unwrap();
    assert_eq!(view.tokens[7..], tokens(&[1, 9]));
    assert_eq!((view.computed_len, view.known_len), (Tokens(8), Tokens(9)));
    assert!(view.draft.is_empty());
    assert_eq!(
        table(&scheduler, 0),
        [0, 1],
        "the third was for what was rejected"
    );
    let totals = scheduler.totals();
    assert_eq!((totals.drafted_tokens, totals.accepted_tokens), (4, 1));
    assert_eq!(step(&mut scheduler), [(0, 8, 9)]);
}

#[test]
fn only_a_sequence_with_one_token_to_compute_takes_a_draft() {
    let mut scheduler = scheduler(SchedulerConfig {
        step_tokens_max: Tokens(4),
        ..config()
    });
    assert!(!scheduler.propose(SeqId(0), &tokens(&[1])), "it is unknown");
    scheduler.admit(sequence(0, 0, 6)).unwrap();
    assert!(!scheduler.propose(SeqId(0), &tokens(&[1])), "it waits");
    step(&mut scheduler);
    assert!(!scheduler.propose(SeqId(0), &tokens(&[1])), "two are left");
    step(&mut scheduler);
    assert!(scheduler.propose(SeqId(0), &tokens(&[1])));
    assert!(scheduler.preempt(SeqId(0)));
    assert!(scheduler.sequence(SeqId(0)).unwrap().draft.is_empty());
}

#[test]
fn drafts_take_what_ordinary_work_leaves_of_the_step() {
    let mut scheduler = scheduler(SchedulerConfig {
        step_tokens_max: Tokens(8),
        ..config()
    });
    for id in 0..2 {
        scheduler.admit(sequence(id, kind(id), 3)).unwrap();
    }
    step(&mut scheduler);
    let propose = |scheduler: &mut Scheduler| {
        for id in 0..2 {
            assert!(scheduler.propose(SeqId(id), &tokens(&[1, 2, 3, 4, 5])));
        }
    };
    let drafts = |plan: &StepPlan| -> Vec<u32> {
        plan.chunks()
            .iter()
            .map(|chunk| chunk.draft_len.0)
            .collect()
    };
    propose(&mut scheduler);
    let plan = scheduler.schedule();
    assert_eq!(drafts(&plan), [5, 1]);
    scheduler.abandon(plan);
    propose(&mut scheduler);
    scheduler.admit(sequence(2, 2, 4)).unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(0, 3, 4), (1, 3, 4), (2, 0, 4)]);
    assert_eq!(drafts(&plan), [2, 0, 0]);
    commit(&mut scheduler, plan);
}

#[test]
fn rows_of_logits_for_drafts_are_limited_by_themselves() {
    let mut scheduler = decoding(SchedulerConfig {
        draft_max: Tokens(2),
        ..config()
    });
    scheduler.propose(SeqId(0), &tokens(&[1, 2, 3]));
    let plan = scheduler.schedule();
    assert_eq!(plan.chunks()[0].draft_len, Tokens(2));
    scheduler.abandon(plan);
}

#[test]
fn drafts_get_the_rows_of_logits_that_sequences_leave() {
    let config = SchedulerConfig {
        draft_max: Tokens(3),
        running_max: 2,
        ..config()
    };
    assert_eq!(
        config.logit_rows_max(),
        4,
        "one sequence and the longest drafts"
    );
    let mut scheduler = decoding(config);
    scheduler.admit(sequence(1, 50, 6)).unwrap();
    step(&mut scheduler);
    for id in [0, 1] {
        assert!(scheduler.propose(SeqId(id), &tokens(&[1, 2, 3])));
    }
    let plan = scheduler.schedule();
    let rows: Vec<u32> = plan
        .chunks()
        .iter()
        .map(|chunk| 1 + chunk.draft_len.0)
        .collect();
    assert_eq!(rows, [3, 1], "four rows in all");
    scheduler.abandon(plan);
}

#[test]
fn a_draft_takes_free_blocks_and_no_cached_ones() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(4),
        ..config()
    });
    let short = |id, len| NewSequence {
        output_max: Tokens(8),
        ..sequence(id, kind(id), len)
    };
    scheduler.admit(short(1, 5)).unwrap();
    let plan = scheduler.schedule();
    scheduler.commit(
        plan,
        StepOutcome {
            chunks: vec![stop()],
        },
    );
    assert_eq!(counts(&scheduler), (3, 0, 1));
    scheduler.admit(short(0, 6)).unwrap();
    step(&mut scheduler);
    assert_eq!(counts(&scheduler), (1, 2, 1));
    scheduler.propose(SeqId(0), &[TokenId(1); 9]);
    let plan = scheduler.schedule();
    assert_eq!(
        plan.chunks()[0].draft_len,
        Tokens(5),
        "up to the end of the free block"
    );
    assert_eq!(counts(&scheduler), (0, 3, 1));
    scheduler.abandon(plan);
    assert_eq!(counts(&scheduler), (1, 2, 1), "and it goes back");
    assert_eq!(scheduler.totals().evictions, 0);
}

#[test]
fn a_draft_ends_before_the_last_token_there_may_be() {
    let mut scheduler = scheduler(config());
    let last = NewSequence {
        output_max: Tokens(4),
        ..sequence(0, 0, 6)
    };
    scheduler.admit(last).unwrap();
    step(&mut scheduler);
    scheduler.propose(SeqId(0), &tokens(&[1, 2, 3, 4]));
    let plan = scheduler.schedule();
    assert_eq!(
        plan.chunks()[0].draft_len,
        Tokens(2),
        "and one more is drawn"
    );
    let finished = scheduler.commit(plan, outcome(2, ChunkEnd::Sampled(TokenId(9))));
    assert_eq!(finished[0].reason, FinishReason::Length);
    assert_eq!(finished[0].output_len, Tokens(4));
}

#[test]
fn an_end_within_a_draft_gives_everything_back() {
    let mut scheduler = decoding(config());
    scheduler.propose(SeqId(0), &[TokenId(1); 9]);
    let plan = scheduler.schedule();
    let end = ChunkEnd::Finished {
        token: Some(TokenId(7)),
        reason: FinishReason::Stop,
    };
    let finished = scheduler.commit(plan, outcome(3, end));
    assert_eq!(finished[0].output_len, Tokens(5));
    assert_eq!(
        counts(&scheduler),
        (14, 0, 2),
        "two blocks are full and computed"
    );
}

#[test]
fn blocks_filled_by_accepted_tokens_are_shared() {
    let mut scheduler = decoding(config());
    scheduler.propose(SeqId(0), &tokens(&[1, 2, 3, 4, 5]));
    let plan = scheduler.schedule();
    scheduler.commit(plan, outcome(5, ChunkEnd::Sampled(TokenId(6))));
    let known = scheduler.sequence(SeqId(0)).unwrap().tokens.to_vec();
    assert_eq!(known.len(), 13);
    scheduler
        .admit(NewSequence {
            prompt: known,
            ..sequence(1, 0, 1)
        })
        .unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(0, 12, 13), (1, 12, 13)]);
    scheduler.abandon(plan);
}

#[test]
fn a_chunk_limit_holds_for_drafts_while_others_are_alive() {
    let mut scheduler = decoding(SchedulerConfig {
        chunk_max: Some(Tokens(3)),
        ..config()
    });
    scheduler.propose(SeqId(0), &[TokenId(1); 9]);
    let plan = scheduler.schedule();
    assert_eq!(plan.chunks()[0].draft_len, Tokens(9));
    scheduler.abandon(plan);
    scheduler.admit(sequence(1, 1, 3)).unwrap();
    scheduler.propose(SeqId(0), &[TokenId(1); 9]);
    let plan = scheduler.schedule();
    assert_eq!(plan.chunks()[0].draft_len, Tokens(2));
    scheduler.abandon(plan);
}
