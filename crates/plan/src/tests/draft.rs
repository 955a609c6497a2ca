//! A second model that drafts: its lines, and what they follow.

use super::*;

/// A model of the same family, a fifteenth as large.
fn half_b() -> ModelShape {
    ModelShape {
        name: "Qwen2.5-0.5B-Instruct".to_owned(),
        layers: 24,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        dim: 896,
        ffn_dim: 4864,
        vocab_len: 151_936,
        weights: vec![WeightLine {
            bytes: Bytes(380_000_000),
            by_layer: Vec::new(),
            ..seven_b().weights[1].clone()
        }],
        ..seven_b()
    }
}

fn drafting(draft_max: u32) -> Limits {
    Limits {
        draft_max: Tokens(draft_max),
        draft_model: Some(Box::new(half_b())),
        ..absolute(gib(12))
    }
}

const KINDS: [LineKind; 3] = [
    LineKind::DraftWeights,
    LineKind::DraftKv,
    LineKind::DraftWork,
];

#[test]
fn a_draft_model_is_three_lines_and_no_others() {
    let (model, machine) = (seven_b(), machine(16));
    let without = Limits {
        draft_model: None,
        ..drafting(16)
    };
    let without = plan(&model, &machine, &without).unwrap();
    let with = plan(&model, &machine, &drafting(16)).unwrap();
    assert!(
        KINDS
            .iter()
            .all(|kind| bytes_of(&without, *kind) == Bytes::ZERO)
    );
    assert_eq!(bytes_of(&with, LineKind::DraftWeights), Bytes(380_000_000));
    // 24 layers of 2 heads of 64 values, two bytes each, keys and values: 12 KiB a token.
    assert_eq!(bytes_of(&with, LineKind::DraftKv), Bytes::KIB * 12 * 16_384);
    let added: Bytes = KINDS.iter().map(|kind| bytes_of(&with, *kind)).sum();
    assert_eq!(with.fixed(), without.fixed() + added);
    assert!(with.total <= with.budget);
}

#[test]
fn its_pool_follows_the_sequences_that_can_have_drafts() {
    let sizes = |limits: Limits| limits.draft_sizes(Tokens(32_768));
    let full = sizes(drafting(16)).unwrap();
    let expected = DraftSizes {
        sequences: 16,
        len_max: Tokens(16_384),
        blocks: Blocks(1024),
        rows_max: Tokens(256),
    };
    assert_eq!(full, expected);
    let short = sizes(Limits {
        model_len: Some(Tokens(200)),
        running_max: 4,
        step_tokens_max: Tokens(3),
        ..drafting(16)
    });
    let expected = DraftSizes {
        sequences: 4,
        len_max: Tokens(200),
        blocks: Blocks(4 * 13),
        rows_max: Tokens(4),
    };
    assert_eq!(short, Some(expected));
    assert_eq!(sizes(drafting(0)), None, "no drafts, no draft model");
}

#[test]
fn what_its_steps_take_is_what_it_says_it_allocates() {
    let step = StepCost {
        fixed: Bytes(1),
        per_token: Bytes(10),
        per_sequence: Bytes(100),
        per_logit_row: Bytes(1000),
        per_table_entry: Bytes(10_000),
        per_thread: Bytes(100_000),
        per_partition: Bytes(1_000_000),
    };
    let mut limits = drafting(16);
    limits.draft_model.as_mut().unwrap().step = Some(step);
    limits.model_len = Some(Tokens(1024));
    limits.threads = 3;
    let plan = plan(&seven_b(), &machine(16), &limits).unwrap();
    let steps = 1 + 256 * 10 + 16 * (100 + 1000 + 64 * 10_000) + 3 * 100_000 + 2 * 1_000_000;
    let logits = 16 * 151_936 * 4;
    let records = 1024 * 24;
    let work = bytes_of(&plan, LineKind::DraftWork);
    assert_eq!(work, Bytes(steps + logits + records));
}

#[test]
fn a_model_that_fits_alone_is_told_to_do_without() {
    let model = seven_b();
    let limits = Limits {
        memory: MemoryLimit::Absolute(gib(5)),
        model_len: Some(Tokens(8192)),
        ..drafting(16)
    };
    let plan = plan(&model, &machine(16), &limits).unwrap();
    let Verdict::DoesNotFit { ways_out, .. } = &plan.verdict else {
        panic!("{plan}")
    };
    assert_eq!(ways_out.first(), Some(&WayOut::NoDraftModel), "{plan}");
}

#[test]
fn a_draft_model_without_sense_is_refused() {
    let mut limits = drafting(16);
    limits.draft_model.as_mut().unwrap().kv_heads = 0;
    let error = plan(&seven_b(), &machine(16), &limits).unwrap_err();
    assert_eq!(error.field, "kv_heads");
}
