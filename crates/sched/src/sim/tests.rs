use kvist_base::{Blocks, SeqId, TokenId, Tokens};

use super::model::FakeModel;
use super::report::{Rule, SimReport};
use super::scenario::{Rng, Scenario};
use super::world::{Event, World};
use super::{run, run_planted};
use crate::config::{Admission, Fairness, SchedulerConfig};
use crate::kv::PlantedBug;
use crate::sequence::{NewSequence, PromptLogits};

#[test]
fn no_history_breaks_a_rule_and_all_corners_are_reached() {
    let report = run(0..3_000).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(report.untouched(), Vec::<&str>::new());
    assert_eq!(report.histories, 3_000);
    let ended = report.finished_stop
        + report.finished_length
        + report.cancelled_waiting
        + report.cancelled_running
        + report.cancelled_in_step;
    assert_eq!(
        report.admitted, ended,
        "every admitted sequence is answered once"
    );
}

#[test]
fn a_seed_repeats_its_history() {
    assert_eq!(run(40..60), run(40..60));
    assert_ne!(run(40..60), run(60..80));
}

#[test]
fn a_leaked_hold_is_found() {
    let violation = run_planted(0..200, Some(PlantedBug::LeakOneHold)).unwrap_err();
    assert!(
        matches!(violation.what, Rule::BadHolders { .. }),
        "{violation}"
    );
}

#[test]
fn a_hash_taken_for_content_is_found() {
    let violation = run_planted(0..200, Some(PlantedBug::TrustHashes)).unwrap_err();
    assert!(
        matches!(violation.what, Rule::BadRead { .. } | Rule::BadShare { .. }),
        "{violation}"
    );
}

#[test]
fn a_table_left_behind_by_a_resize_is_found() {
    let violation = run_planted(0..200, Some(PlantedBug::ForgetOneTable)).unwrap_err();
    assert!(
        matches!(
            violation.what,
            Rule::BeyondLimit { .. } | Rule::BadRead { .. }
        ),
        "{violation}"
    );
}

#[test]
fn a_restored_block_of_another_prefix_is_found() {
    let violation = run_planted(0..2_000, Some(PlantedBug::RestoreForeignParent)).unwrap_err();
    assert!(
        matches!(violation.what, Rule::BadRead { .. }),
        "{violation}"
    );
}

#[test]
fn an_index_over_rejected_tokens_is_found() {
    let violation = run_planted(0..200, Some(PlantedBug::IndexRejected)).unwrap_err();
    assert!(
        matches!(violation.what, Rule::BadIndex { .. }),
        "{violation}"
    );
}

/// All histories of `len` events over an alphabet that reaches every door, each drained to its end.
fn run_all(scenario: &Scenario, len: u32) -> SimReport {
    let prompt = |text: &str| {
        text.bytes()
            .map(|byte| TokenId(u32::from(byte - b'0')))
            .collect()
    };
    let admit = |text: &str, output_max| {
        Event::Admit(NewSequence {
            id: SeqId(0),
            prompt: prompt(text),
            output_max: Tokens(output_max),
            cache_root: 1,
            priority: 0,
            tenant: 0,
            prompt_logits: PromptLogits::Last,
        })
    };
    let alphabet = |world: &World| {
        let oldest = world.live().first().copied().unwrap_or(SeqId(u64::MAX));
        let newest = world.live().last().copied().unwrap_or(SeqId(u64::MAX));
        [
            admit("01", 2),
            admit("011", 1),
            admit("0", 4),
            Event::Step,
            Event::StepCancelling(newest),
            Event::Abandon,
            Event::Propose(oldest, [0, 1, 1].map(TokenId).to_vec()),
            Event::Cancel(oldest),
            Event::Preempt(oldest),
            Event::Preempt(newest),
            Event::Reset,
            Event::Resize(Blocks(5 - world.scheduler.blocks_limit().0.clamp(2, 3))),
        ]
    };
    let mut report = SimReport::default();
    for history in 0..12usize.pow(len) {
        let mut world = World::new(scenario, None);
        let mut digits = history;
        for _ in 0..len {
            let event = alphabet(&world)[digits % 12].clone();
            digits /= 12;
            world
                .apply(event)
                .unwrap_or_else(|rule| panic!("history {history}: {rule}"));
        }
        let drained = world.drain(|| ());
        report.merge(&drained.unwrap_or_else(|rule| panic!("history {history}, drained: {rule}")));
    }
    report
}

#[test]
fn every_history_of_few_events_on_few_blocks_holds_the_rules() {
    let mut report = SimReport::default();
    let settings = [(1, 3, 2, 2), (2, 2, 4, 1)];
    for (block_size, blocks_limit, step_tokens_max, tier_slots) in settings {
        let mut scenario = Scenario::draw(&mut Rng::new(0));
        scenario.hash_mask = u128::MAX;
        scenario.tier_costs = None;
        scenario.model = FakeModel { stop_every: 0 };
        scenario.config = SchedulerConfig {
            block_size: Tokens(block_size),
            blocks_limit: Blocks(blocks_limit),
            blocks_max: Blocks(3),
            running_max: 2,
            waiting_max: 2,
            step_tokens_max: Tokens(step_tokens_max),
            chunk_max: None,
            draft_max: Tokens(2),
            model_len_max: Tokens(8),
            prefix_caching: true,
            partial_hits: true,
            tier_slots,
            admission: Admission::Optimistic,
            fairness: Fairness::Arrival,
            watermark: Blocks(0),
        };
        report.merge(&run_all(&scenario, 5));
    }
    let unreachable_here = [
        "paired_histories",
        "transfers",
        "transfers_refused",
        "refused_too_long",
        "finished_stop",
        "ended_in_draft",
        "scored_rows",
        "overtook_by_priority",
        "overtook_by_tenant",
        "guaranteed_steps",
        "preempted_though_guaranteed",
        "late_hit_tokens",
        "spilled_by_drop",
        "restored_at_once",
        "failed_restores",
        "abandoned_restores",
        "lost_slots",
        "hash_collisions",
        "resizes_refused",
        "moved_shared_blocks",
        "dropped_while_held",
    ];
    assert_eq!(report.untouched(), unreachable_here);
}
