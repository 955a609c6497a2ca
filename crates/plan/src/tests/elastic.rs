//! What changes at run time: the pool under another budget, streamed layers, and the ledger.

use super::*;
use crate::STAGED_BLOCKS;

fn mib(count: u64) -> Bytes {
    Bytes::MIB * count
}

fn with_offload(memory: Bytes, offload: Offload) -> Limits {
    Limits {
        offload,
        ..absolute(memory)
    }
}

fn sum_of(lines: &[PlanLine]) -> Bytes {
    lines.iter().map(|line| line.bytes).sum()
}

#[test]
fn another_budget_gives_the_plan_that_would_have_been_made_under_it() {
    let mut met = [0u32; 3];
    for seed in 0..2_000 {
        let (model, machine, limits) = random_inputs(seed);
        let limits = Limits {
            kv_cache: None,
            ..limits
        };
        let first = plan(&model, &machine, &limits).unwrap();
        if !first.fits() {
            met[0] += 1;
            continue;
        }
        // A fresh plan keeps the length only when it is given.
        let fixed_len = Limits {
            model_len: Some(first.model_len),
            ..limits.clone()
        };
        let first = plan(&model, &machine, &fixed_len).unwrap();
        let least = first.budget_min();
        let budget = if seed % 4 == 0 {
            least
                .saturating_sub(Bytes(1 + mix64(seed) % gib(1).0))
                .max(Bytes(1))
        } else {
            least + Bytes(mix64(seed) % (first.budget_max() - least + mib(128)).0)
        };
        let again = Limits {
            memory: MemoryLimit::Absolute(budget),
            ..fixed_len
        };
        let fresh = plan(&model, &plenty(), &again).unwrap();
        match first.replan(budget) {
            Ok(moved) => {
                met[1] += 1;
                assert_eq!(moved.fixed(), first.fixed(), "seed {seed}");
                assert!(moved.total <= budget && sum_of(&moved.lines) == moved.total);
                // The machine of the first plan bounds what any later budget can give.
                let fresh_blocks = fresh.kv.blocks.min(first.kv.blocks_max);
                assert_eq!(moved.kv.blocks, fresh_blocks, "seed {seed}");
                assert_eq!(moved.model_len, first.model_len);
                assert!(moved.fits() && fresh.fits());
            }
            Err(refused) => {
                met[2] += 1;
                assert!(!fresh.fits(), "seed {seed}: {refused}");
                let needed = first.budget_min();
                let given = budget;
                assert_eq!(refused, BudgetTooSmall { needed, given });
                assert!(first.replan(needed).is_ok());
            }
        }
    }
    assert!(met.iter().all(|count| *count > 100), "{met:?}");
}

/// A machine whose memory is no bound.
fn plenty() -> Machine {
    Machine {
        mem_total: Bytes(u64::MAX),
        mem_available: Bytes(u64::MAX),
        ..machine(2)
    }
}

#[test]
fn there_and_back_is_the_same_plan() {
    let first = plan(&seven_b(), &machine(24), &absolute(gib(8))).unwrap();
    let less = first.replan(gib(7)).unwrap();
    assert!(less.kv.blocks < first.kv.blocks && less.model_len == first.model_len);
    let back = less.replan(gib(8)).unwrap();
    assert_eq!(back, first);
    let all = first.replan(gib(500)).unwrap();
    assert_eq!(
        (all.kv.blocks, all.total),
        (first.kv.blocks_max, first.budget_max())
    );
    let useful = Blocks(64 * 32_768 / 16);
    assert!(
        all.kv.blocks < useful,
        "24 GiB cannot hold 64 sequences of 32768"
    );
}

#[test]
fn a_length_that_memory_set_is_no_promise() {
    let auto = plan(&seven_b(), &machine(24), &absolute(mib(5120))).unwrap();
    assert_eq!(auto.model_len_reason, ModelLenReason::CappedByMemory);
    let least = auto.replan(auto.budget_min()).unwrap();
    assert_eq!(
        (least.kv.tokens, least.model_len),
        (MODEL_LEN_MIN, auto.model_len)
    );
    let only = CapacityRow {
        context: MODEL_LEN_MIN,
        sequences: 1,
    };
    assert_eq!(
        least.verdict,
        Verdict::Fits {
            capacity: vec![only]
        }
    );

    let asked = Limits {
        model_len: Some(Tokens(4096)),
        ..absolute(mib(5120))
    };
    let asked = plan(&seven_b(), &machine(24), &asked).unwrap();
    let least = asked.replan(asked.budget_min()).unwrap();
    assert_eq!(least.kv.tokens, Tokens(4096));
    let refused = asked.replan(asked.budget_min() - Bytes(1)).unwrap_err();
    assert!(refused.to_string().contains("too small"), "{refused}");
}

#[test]
fn a_pool_of_the_size_asked_for_is_exactly_that() {
    let exact = |kv_cache: Bytes, memory: Bytes| Limits {
        kv_cache: Some(kv_cache),
        ..absolute(memory)
    };
    let fits = plan(&seven_b(), &machine(24), &exact(mib(512), gib(8))).unwrap();
    // 585 blocks of 917 504 bytes are the most in 512 MiB; every later budget keeps them.
    assert_eq!(fits.kv.blocks, Blocks(585));
    assert_eq!(
        (fits.model_len, fits.model_len_reason),
        (Tokens(9360), ModelLenReason::CappedByPool)
    );
    assert_eq!(fits.replan(gib(20)).unwrap().kv.blocks, Blocks(585));
    assert!(fits.replan(fits.budget_min()).unwrap().kv.blocks < Blocks(585));

    let refused = plan(&seven_b(), &machine(24), &exact(gib(4), gib(8))).unwrap();
    assert!(!refused.fits() && refused.total > gib(8));
    assert_eq!(refused.kv.blocks, Blocks(4681));

    let too_small = Limits {
        model_len: Some(Tokens(16_384)),
        ..exact(mib(512), gib(8))
    };
    let refused = plan(&seven_b(), &machine(24), &too_small).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "kv_cache_memory_bytes must be at least 896.0 MiB, one sequence of 16384 tokens, \
         but is 512.0 MiB"
    );
    let huge = exact(Bytes(u64::MAX), gib(8));
    assert!(plan(&seven_b(), &machine(24), &huge).is_err());
}

#[test]
fn the_spill_tier_is_charged_for_its_index() {
    let spill = |size| Limits {
        spill: Some(size),
        ..absolute(gib(8))
    };
    let with = plan(&seven_b(), &machine(24), &spill(gib(10))).unwrap();
    assert_eq!(with.kv.tier_slots, Blocks(11_702));
    let index = 11_702 * (192 + 16 * 4) + STAGED_BLOCKS * 917_504;
    assert_eq!(bytes_of(&with, LineKind::KvTier), Bytes(index));
    let without = plan(&seven_b(), &machine(24), &absolute(gib(8))).unwrap();
    assert_eq!(with.fixed(), without.fixed() + Bytes(index));
    let refused = plan(&seven_b(), &machine(24), &spill(Bytes(1000))).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("kv_spill must be at least 896.0 KiB"),
        "{refused}"
    );
}

#[test]
fn layers_are_streamed_only_when_it_takes_that_to_fit() {
    let plan_of =
        |memory, offload| plan(&seven_b(), &machine(24), &with_offload(memory, offload)).unwrap();
    let all_fits = plan_of(gib(8), Offload::Auto);
    assert!(
        all_fits.offload.is_empty() && bytes_of(&all_fits, LineKind::WeightsRing) == Bytes::ZERO
    );
    assert!(!plan_of(gib(4), Offload::Off).fits());

    let tight = plan_of(gib(4), Offload::Auto);
    assert!(tight.fits(), "{tight}");
    let OffloadPlan {
        layers,
        bytes,
        ring,
        is_idle,
    } = &tight.offload;
    assert_eq!(
        (*bytes, *ring),
        (Bytes(116_000_000 * layers.len() as u64), Bytes(400_000))
    );
    assert!(!is_idle);
    assert_eq!(bytes_of(&tight, LineKind::WeightsRing), *ring);
    let resident = 4_373_446_912 - bytes.0;
    assert_eq!(bytes_of(&tight, LineKind::WeightsResident), Bytes(resident));
    // One layer less would not do: 116 MB more than the whole pool and its slack.
    let pool = bytes_of(&tight, LineKind::KvPool) + bytes_of(&tight, LineKind::KvTables);
    let slack = tight.budget - tight.total;
    let needed = BlockSpace::of(&tight, MODEL_LEN_MIN);
    assert!(
        pool + slack < needed + Bytes(116_000_000) + Bytes(116_000_000 / 200),
        "{tight}"
    );

    let all = plan_of(gib(8), Offload::All);
    assert_eq!((all.offload.layers.len(), all.offload.is_idle), (28, true));
    let some = plan_of(gib(8), Offload::AtLeast(Bytes(300_000_000)));
    assert_eq!(
        (some.offload.layers.clone(), some.offload.is_idle),
        (vec![9, 18, 27], true)
    );
    let more = plan_of(gib(4), Offload::AtLeast(Bytes(1)));
    assert_eq!(
        more.offload, tight.offload,
        "at least as asked, and as many as it takes"
    );
    assert!(!plan_of(gib(1), Offload::Auto).fits());
}

/// What one sequence takes.
struct BlockSpace;

impl BlockSpace {
    fn of(plan: &Plan, len: Tokens) -> Bytes {
        let blocks = u64::from(len.0 / 16);
        Bytes((blocks * plan.kv.block_bytes.0).next_multiple_of(2 << 20) + blocks * 320)
    }
}

#[test]
fn streamed_layers_are_spread_evenly() {
    for layers in 1..40u32 {
        let model = ModelShape {
            layers,
            weights: vec![WeightLine {
                by_layer: vec![Bytes(10); layers as usize],
                ..seven_b().weights[0].clone()
            }],
            ..seven_b()
        };
        for count in 0..=layers {
            let bytes = Bytes(10) * u64::from(count);
            let offload = Offload::AtLeast(bytes);
            let plan = plan(&model, &machine(24), &with_offload(gib(8), offload)).unwrap();
            let streamed = plan.offload.layers;
            assert_eq!(streamed.len(), count as usize);
            assert_eq!(plan.offload.bytes, bytes);
            // In any prefix their number is within one of its fair share.
            for prefix in 0..layers {
                let before = streamed.iter().filter(|layer| **layer <= prefix).count();
                assert_eq!(
                    before,
                    (prefix as usize + 1) * count as usize / layers as usize
                );
            }
        }
    }
}

#[test]
fn the_fewest_layers_are_streamed() {
    let mut streamed_count = 0;
    for seed in 0..1_000 {
        let (model, machine, limits) = random_inputs(seed);
        let limits = Limits {
            kv_cache: None,
            offload: Offload::Auto,
            ..limits
        };
        let chosen = plan(&model, &machine, &limits).unwrap();
        let count = chosen.offload.layers.len();
        if !chosen.fits() || count == 0 {
            continue;
        }
        streamed_count += 1;
        // All of one size, so fewer bytes are fewer layers.
        let each = model.layer_bytes()[0];
        let fewer = |streamed: usize| Limits {
            offload: match streamed {
                0 => Offload::Off,
                _ => Offload::AtLeast(each * streamed as u64),
            },
            ..limits.clone()
        };
        for streamed in 1..count {
            // Asked for fewer, the planner still takes what is needed.
            let plan = plan(&model, &machine, &fewer(streamed)).unwrap();
            assert_eq!(plan.offload.layers.len(), count, "seed {seed}");
        }
        assert!(
            !plan(&model, &machine, &fewer(0)).unwrap().fits(),
            "seed {seed}"
        );
    }
    assert!(streamed_count > 50, "{streamed_count}");
}

#[test]
fn the_ledger_holds_every_line_to_its_plan() {
    let plan_of = |memory| plan(&seven_b(), &machine(24), &absolute(memory)).unwrap();
    let first = plan_of(gib(8));
    let mut ledger = Ledger::new(&first);
    let kinds: Vec<LineKind> = ledger.lines().iter().map(|line| line.kind).collect();
    assert!(kinds.iter().zip(kinds.iter().skip(1)).all(|(a, b)| a != b));
    assert_eq!(
        ledger
            .lines()
            .iter()
            .map(|line| line.planned)
            .sum::<Bytes>(),
        first.total
    );
    // Two resident lines of the plan are one of the ledger.
    assert_eq!(ledger.lines()[0].planned, Bytes(4_373_446_912));

    let holding = |committed: u64| Holding {
        committed: Bytes(committed),
        used: Bytes(committed / 2),
    };
    ledger
        .set(LineKind::WeightsResident, holding(4_373_446_912))
        .unwrap();
    ledger.set(LineKind::KvPool, holding(1 << 30)).unwrap();
    assert_eq!(ledger.committed(), Bytes(4_373_446_912 + (1 << 30)));
    assert_eq!(ledger.budget(), gib(8));

    let over = ledger.set(LineKind::Sampler, holding(1 << 40)).unwrap_err();
    assert_eq!(
        (over.line, over.wanted),
        (LineKind::Sampler, Bytes(1 << 40))
    );
    assert!(
        over.to_string()
            .starts_with("sampler would hold 1024.00 GiB, but "),
        "{over}"
    );
    assert_eq!(
        ledger.committed(),
        Bytes(4_373_446_912 + (1 << 30)),
        "a refusal changes nothing"
    );
    assert!(
        ledger.set(LineKind::KvTier, holding(1)).is_err(),
        "no such line in this plan"
    );
    assert_eq!(ledger.set(LineKind::KvTier, Holding::default()), Ok(()));

    ledger.set(LineKind::KvPool, holding(100 << 20)).unwrap();
    ledger.replan(&first.replan(gib(7)).unwrap());
    assert_eq!(ledger.budget(), gib(7));
    assert_eq!(ledger.committed(), Bytes(4_373_446_912 + (100 << 20)));
}

#[test]
#[should_panic(expected = "memory is given back before the plan shrinks")]
fn a_ledger_cannot_go_on_under_a_plan_that_has_no_room_for_it() {
    let asked = Limits {
        model_len: Some(Tokens(512)),
        ..absolute(gib(8))
    };
    let first = plan(&seven_b(), &machine(24), &asked).unwrap();
    let mut ledger = Ledger::new(&first);
    let planned = bytes_of(&first, LineKind::KvPool);
    let full = Holding {
        committed: planned,
        used: planned,
    };
    ledger.set(LineKind::KvPool, full).unwrap();
    ledger.replan(&first.replan(first.budget_min()).unwrap());
}
