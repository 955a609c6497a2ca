//! What is refused, and where a sequence ends.

use super::*;

#[test]
fn a_limit_of_zero_is_refused_by_name() {
    let zero = |field| Err(ConfigError::Zero { field });
    let cases = [
        (
            SchedulerConfig {
                block_size: Tokens(0),
                ..config()
            },
            zero("block_size"),
        ),
        (
            SchedulerConfig {
                blocks_limit: Blocks(0),
                ..config()
            },
            zero("blocks_limit"),
        ),
        (
            SchedulerConfig {
                running_max: 0,
                ..config()
            },
            zero("running_max"),
        ),
        (
            SchedulerConfig {
                waiting_max: 0,
                ..config()
            },
            zero("waiting_max"),
        ),
        (
            SchedulerConfig {
                step_tokens_max: Tokens(0),
                ..config()
            },
            zero("step_tokens_max"),
        ),
        (
            SchedulerConfig {
                chunk_max: Some(Tokens(0)),
                ..config()
            },
            zero("chunk_max"),
        ),
        (config(), Ok(())),
    ];
    for (config, expected) in cases {
        assert_eq!(Scheduler::new(config).map(|_| ()), expected);
    }
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let short = SchedulerConfig {
        model_len_max: Tokens(1),
        ..config()
    };
    let too_small = ConfigError::ModelLenTooSmall {
        limit: Tokens(2),
        given: Tokens(1),
    };
    assert_eq!(Scheduler::new(short).err(), Some(too_small));
    let (watermark, blocks_limit) = (Blocks(16), Blocks(16));
    let wet = SchedulerConfig {
        watermark,
        ..config()
    };
    let too_large = ConfigError::WatermarkTooLarge {
        watermark,
        blocks_limit,
    };
    assert_eq!(Scheduler::new(wet).err(), Some(too_large));
    let beyond = SchedulerConfig {
        blocks_max: Blocks(15),
        ..config()
    };
    let too_many = ConfigError::TooManyBlocks {
        limit: Blocks(15),
        given: Blocks(16),
    };
    assert_eq!(Scheduler::new(beyond).err(), Some(too_many));
}

#[test]
fn a_sequence_that_cannot_be_served_is_refused_with_both_numbers() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(3),
        waiting_max: 1,
        ..config()
    });
    let refused = |scheduler: &mut Scheduler, prompt_len, output_max| {
        let sequence = NewSequence {
            output_max: Tokens(output_max),
            ..sequence(0, 0, prompt_len)
        };
        scheduler.admit(sequence).unwrap_err()
    };
    assert_eq!(refused(&mut scheduler, 0, 1), AdmitError::EmptyPrompt);
    let too_long = AdmitError::PromptTooLong {
        limit: Tokens(63),
        given: Tokens(64),
    };
    assert_eq!(refused(&mut scheduler, 64, 1), too_long);
    let never = |needed| AdmitError::NeverFits {
        blocks_needed: Blocks(needed),
        blocks_limit: Blocks(3),
    };
    assert_eq!(refused(&mut scheduler, 13, 1), never(4));
    assert_eq!(refused(&mut scheduler, 6, 8), never(4));
    assert_eq!(
        refused(&mut scheduler, 6, u32::MAX),
        never(16),
        "63 slots: the context limits it"
    );

    // 13 tokens in 12 slots: the last one is never computed from.
    let fitting = NewSequence {
        output_max: Tokens(7),
        ..sequence(0, 0, 6)
    };
    assert_eq!(scheduler.admit(fitting.clone()), Ok(()));
    assert_eq!(
        scheduler.admit(fitting),
        Err(AdmitError::DuplicateId { id: SeqId(0) })
    );
    let full = AdmitError::Overloaded {
        waiting: 1,
        waiting_max: 1,
    };
    assert_eq!(
        scheduler.admit(NewSequence {
            output_max: Tokens(1),
            ..sequence(1, 1, 1)
        }),
        Err(full)
    );
    assert_eq!(scheduler.waiting_count(), 1);
}

#[test]
fn a_sequence_that_just_fits_runs_to_its_end_alone() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(3),
        ..config()
    });
    scheduler
        .admit(NewSequence {
            output_max: Tokens(7),
            ..sequence(0, 0, 6)
        })
        .unwrap();
    let mut finished = Vec::new();
    for _ in 0..7 {
        assert!(finished.is_empty());
        let plan = scheduler.schedule();
        finished = commit(&mut scheduler, plan);
    }
    let last = finished.pop().unwrap();
    assert_eq!(
        (last.reason, last.output_len),
        (FinishReason::Length, Tokens(7))
    );
    assert_eq!(scheduler.totals().preemptions, 0);
    assert!(!scheduler.has_work());
}

#[test]
fn the_context_ends_an_output_before_its_own_limit() {
    let mut scheduler = scheduler(SchedulerConfig {
        model_len_max: Tokens(8),
        ..config()
    });
    scheduler.admit(sequence(0, 0, 7)).unwrap();
    let plan = scheduler.schedule();
    let finished = commit(&mut scheduler, plan);
    assert_eq!(finished.len(), 1);
    assert_eq!(
        (finished[0].reason, finished[0].output_len),
        (FinishReason::Length, Tokens(1))
    );
}

#[test]
fn a_stop_counts_its_token_only_if_given() {
    for (token, output_len) in [(None, 0), (Some(TokenId(5)), 1)] {
        let mut scheduler = scheduler(config());
        scheduler.admit(sequence(0, 0, 7)).unwrap();
        let plan = scheduler.schedule();
        let stop = ChunkEnd::Finished {
            token,
            reason: FinishReason::Stop,
        };
        let chunks = vec![stop.into()];
        let finished = scheduler.commit(plan, StepOutcome { chunks });
        assert_eq!(finished[0].output_len, Tokens(output_len));
        assert_eq!(finished[0].reason, FinishReason::Stop);
        assert_eq!(counts(&scheduler), (15, 0, 1));
    }
}

#[test]
fn a_sequence_can_be_cancelled_wherever_it_is() {
    let mut scheduler = scheduler(SchedulerConfig {
        running_max: 1,
        ..config()
    });
    scheduler.admit(sequence(0, 0, 6)).unwrap();
    scheduler.admit(sequence(1, 1, 6)).unwrap();
    step(&mut scheduler);
    assert_eq!(
        (scheduler.running_count(), scheduler.waiting_count()),
        (1, 1)
    );
    for id in [1, 0] {
        let finished = scheduler.cancel(SeqId(id)).unwrap();
        assert_eq!(
            (finished.id, finished.reason),
            (SeqId(id), FinishReason::Cancelled)
        );
        assert_eq!(scheduler.cancel(SeqId(id)), None);
        assert!(scheduler.sequence(SeqId(id)).is_none());
    }
    assert!(!scheduler.has_work());
    assert_eq!(counts(&scheduler), (15, 0, 1));
}

#[test]
#[should_panic(expected = "cancel during a step")]
fn a_cancel_during_a_step_is_noticed() {
    let mut scheduler = scheduler(config());
    scheduler.admit(sequence(0, 0, 6)).unwrap();
    let _plan = scheduler.schedule();
    scheduler.cancel(SeqId(0));
}

#[test]
fn preempted_sequences_come_back_to_a_full_queue() {
    let mut scheduler = scheduler(SchedulerConfig {
        waiting_max: 1,
        ..config()
    });
    for id in 0..2 {
        scheduler.admit(sequence(id, kind(id), 6)).unwrap();
        step(&mut scheduler);
    }
    assert!(scheduler.preempt(SeqId(1)) && scheduler.preempt(SeqId(0)));
    assert_eq!(scheduler.waiting_count(), 2);
    let full = AdmitError::Overloaded {
        waiting: 2,
        waiting_max: 1,
    };
    assert_eq!(scheduler.admit(sequence(2, 2, 6)), Err(full));
}
