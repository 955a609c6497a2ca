//! Who gets what in a step, and who gives way.

use super::*;

/// The trace that vLLM's scheduler tests pin down for concurrent partial prompts.
#[test]
fn long_prompts_are_chunked_and_share_the_step() {
    let mut scheduler = scheduler(SchedulerConfig {
        block_size: Tokens(16),
        blocks_limit: Blocks(10_000),
        step_tokens_max: Tokens(1024),
        chunk_max: Some(Tokens(400)),
        model_len_max: Tokens(4096),
        ..config()
    });
    for id in 0..3 {
        scheduler.admit(sequence(id, kind(id), 800)).unwrap();
    }
    assert_eq!(
        step(&mut scheduler),
        [(0, 0, 400), (1, 0, 400), (2, 0, 224)]
    );
    assert_eq!(
        step(&mut scheduler),
        [(0, 400, 800), (1, 400, 800), (2, 224, 448)]
    );
    assert_eq!(
        step(&mut scheduler),
        [(0, 800, 801), (1, 800, 801), (2, 448, 800)]
    );
}

#[test]
fn one_sequence_alone_gets_the_whole_step() {
    let mut scheduler = scheduler(SchedulerConfig {
        step_tokens_max: Tokens(10),
        chunk_max: Some(Tokens(4)),
        ..config()
    });
    scheduler.admit(sequence(0, 0, 12)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 0, 10)]);
    scheduler.admit(sequence(1, 1, 12)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 10, 12), (1, 0, 4)]);
}

#[test]
fn logits_are_wanted_where_a_chunk_meets_the_last_known_token() {
    let mut scheduler = scheduler(SchedulerConfig {
        step_tokens_max: Tokens(4),
        ..config()
    });
    scheduler.admit(sequence(0, 0, 6)).unwrap();
    let wanted = |scheduler: &mut Scheduler| {
        let plan = scheduler.schedule();
        let wanted = plan.chunks()[0].wants_logits;
        commit(scheduler, plan);
        wanted
    };
    assert!(!wanted(&mut scheduler));
    assert!(wanted(&mut scheduler));
    assert!(wanted(&mut scheduler));
    assert_eq!(scheduler.sequence(SeqId(0)).unwrap().known_len, Tokens(8));
}

#[test]
fn blocks_come_chunk_by_chunk() {
    let mut scheduler = scheduler(SchedulerConfig {
        step_tokens_max: Tokens(5),
        ..config()
    });
    scheduler.admit(sequence(0, 0, 12)).unwrap();
    step(&mut scheduler);
    assert_eq!(table(&scheduler, 0), [0, 1]);
    step(&mut scheduler);
    assert_eq!(table(&scheduler, 0), [0, 1, 2]);
    step(&mut scheduler);
    assert_eq!(
        table(&scheduler, 0),
        [0, 1, 2],
        "12 computed, the 13th token is only known"
    );
    step(&mut scheduler);
    assert_eq!(table(&scheduler, 0), [0, 1, 2, 3]);
}

#[test]
fn the_newest_gives_way_and_comes_back_first() {
    // Four blocks; 0 and 1 take two each with 7 tokens and both want a third at their ninth.
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(4),
        ..config()
    });
    for id in 0..2 {
        let short = NewSequence {
            output_max: Tokens(6),
            ..sequence(id, kind(id), 7)
        };
        scheduler.admit(short).unwrap();
    }
    assert_eq!(step(&mut scheduler), [(0, 0, 7), (1, 0, 7)]);
    assert_eq!(step(&mut scheduler), [(0, 7, 8), (1, 7, 8)]);
    scheduler
        .admit(NewSequence {
            output_max: Tokens(6),
            ..sequence(2, 2, 2)
        })
        .unwrap();

    let plan = scheduler.schedule();
    assert_eq!(plan.preempted(), [SeqId(1)]);
    assert_eq!(
        spans(&plan),
        [(0, 8, 9)],
        "nothing is let in by a step that preempted"
    );
    commit(&mut scheduler, plan);
    let view = scheduler.sequence(SeqId(1)).unwrap();
    assert_eq!(
        (view.state, view.computed_len),
        (SequenceState::Waiting, Tokens(0))
    );
    assert_eq!((view.known_len, view.preempted_count), (Tokens(9), 1));
    assert_eq!(scheduler.totals().preemptions, 1);

    // 1 needs three blocks and there is one. 2 would fit, and must not overtake.
    assert_eq!(step(&mut scheduler), [(0, 9, 10)]);
    scheduler.cancel(SeqId(0));
    // Its first block is still cached; the second was evicted for 0.
    assert_eq!(step(&mut scheduler), [(1, 4, 9), (2, 0, 2)]);
}

#[test]
fn a_sequence_that_is_the_newest_itself_gives_way() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(3),
        ..config()
    });
    scheduler
        .admit(NewSequence {
            output_max: Tokens(4),
            ..sequence(0, 0, 5)
        })
        .unwrap();
    scheduler
        .admit(NewSequence {
            output_max: Tokens(4),
            ..sequence(1, 1, 4)
        })
        .unwrap();
    assert_eq!(step(&mut scheduler), [(0, 0, 5), (1, 0, 4)]);
    let plan = scheduler.schedule();
    assert_eq!(plan.preempted(), [SeqId(1)]);
    assert_eq!(spans(&plan), [(0, 5, 6)]);
    scheduler.abandon(plan);
}

#[test]
fn a_preempted_sequence_runs_in_its_old_place() {
    let mut scheduler = scheduler(config());
    for id in 0..3 {
        scheduler.admit(sequence(id, kind(id), 6)).unwrap();
    }
    step(&mut scheduler);
    assert!(scheduler.preempt(SeqId(0)));
    assert!(!scheduler.preempt(SeqId(0)), "it waits already");
    assert_eq!(step(&mut scheduler), [(1, 6, 7), (2, 6, 7), (0, 4, 7)]);
    assert_eq!(step(&mut scheduler), [(0, 7, 8), (1, 7, 8), (2, 7, 8)]);
}

#[test]
fn admission_leaves_running_sequences_what_they_were_promised() {
    // 0 will need four blocks for its prompt but has one after the first step.
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(5),
        step_tokens_max: Tokens(6),
        chunk_max: Some(Tokens(4)),
        ..config()
    });
    scheduler
        .admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(0, 0, 16)
        })
        .unwrap();
    scheduler
        .admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(1, 1, 5)
        })
        .unwrap();
    assert_eq!(
        step(&mut scheduler),
        [(0, 0, 4)],
        "1 needs two blocks, one is not promised"
    );
    scheduler
        .admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(2, 2, 3)
        })
        .unwrap();
    scheduler.cancel(SeqId(1));
    assert_eq!(step(&mut scheduler), [(0, 4, 8), (2, 0, 2)]);
}

#[test]
fn the_watermark_is_kept_unless_nothing_runs() {
    let narrow = SchedulerConfig {
        blocks_limit: Blocks(4),
        watermark: Blocks(2),
        ..config()
    };
    let mut scheduler = scheduler(narrow);
    scheduler
        .admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(0, 0, 12)
        })
        .unwrap();
    scheduler
        .admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(1, 1, 4)
        })
        .unwrap();
    let plan = scheduler.schedule();
    assert_eq!(spans(&plan), [(0, 0, 12)]);
    assert_eq!(commit(&mut scheduler, plan).len(), 1);
    assert_eq!(step(&mut scheduler), [(1, 0, 4)]);
}

#[test]
fn the_watermark_is_a_share_of_the_pool_as_it_is_now() {
    // Two sequences of 3 blocks each; the watermark is given for a pool of 20.
    let admitted = |watermark, resized| {
        let mut scheduler = scheduler(SchedulerConfig {
            blocks_limit: Blocks(20),
            watermark: Blocks(watermark),
            ..config()
        });
        scheduler.resize(Blocks(resized)).unwrap();
        for id in 0..2 {
            let output_max = Tokens(1);
            let new = NewSequence {
                output_max,
                ..sequence(id, kind(id), 12)
            };
            scheduler.admit(new).unwrap();
        }
        step(&mut scheduler).len()
    };
    assert_eq!(admitted(14, 20), 2, "14 are left beside both");
    assert_eq!(admitted(15, 20), 1);
    assert_eq!(admitted(10, 12), 2, "6 of 12, and 6 are left");
    assert_eq!(admitted(12, 12), 1, "7 of 12");
    assert_eq!(admitted(2, 6), 2, "none of 6");
    assert_eq!(admitted(18, 60), 2, "54 of 60, and 54 are left");
    assert_eq!(admitted(19, 60), 1, "57 of 60");
}

#[test]
fn an_abandoned_plan_is_made_again() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 6)).unwrap();
    let plan = scheduler.schedule();
    scheduler.abandon(plan);
    assert_eq!(counts(&scheduler), (14, 2, 0));
    assert_eq!(
        scheduler.sequence(SeqId(0)).unwrap().computed_len,
        Tokens(0)
    );
    assert_eq!(step(&mut scheduler), [(0, 0, 6)]);
    assert_eq!(
        counts(&scheduler),
        (14, 2, 0),
        "the blocks of the first plan are used"
    );
}

#[test]
#[should_panic(expected = "neither committed nor abandoned")]
fn a_plan_that_was_lost_is_noticed() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 6)).unwrap();
    drop(scheduler.schedule());
    let _ = scheduler.schedule();
}

#[test]
fn an_empty_plan_may_be_dropped() {
    let mut scheduler = scheduler(config());
    assert!(scheduler.schedule().is_empty());
    assert!(scheduler.schedule().is_empty());
    let plan = scheduler.schedule();
    assert_eq!(commit(&mut scheduler, plan), []);
}

#[test]
fn sequences_are_listed_by_rank_and_by_whether_they_run() {
    let mut scheduler = scheduler(SchedulerConfig {
        running_max: 2,
        ..config()
    });
    for (id, priority) in [(0, 0), (1, 0), (2, -1), (3, 0)] {
        let sequence = NewSequence {
            priority,
            ..sequence(id, kind(id), 4)
        };
        scheduler.admit(sequence).unwrap();
    }
    let ids = |ids: &mut dyn Iterator<Item = SeqId>| ids.map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(ids(&mut scheduler.running()), []);
    assert_eq!(ids(&mut scheduler.waiting()), [2, 0, 1, 3]);
    step(&mut scheduler);
    assert_eq!(ids(&mut scheduler.running()), [2, 0]);
    assert_eq!(ids(&mut scheduler.waiting()), [1, 3]);
    let view = scheduler.sequence(SeqId(2)).unwrap();
    assert_eq!(view.len_max, view.prompt_len + Tokens(16));
}
