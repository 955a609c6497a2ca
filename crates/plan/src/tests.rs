use kvist_base::{Blocks, Bytes, KvDtype, Tokens, WeightPart, mix64};

use super::*;

mod devices;
mod draft;
mod elastic;
mod schemes;

/// Qwen2.5 7B Instruct as a Q4_K_M file: 28 layers, 4 of 28 heads keep K and V.
fn seven_b() -> ModelShape {
    let weights = |label: &str, bytes: u64, kind| WeightLine {
        part: WeightPart::Mlp,
        values: 0,
        label: label.to_owned(),
        bytes: Bytes(bytes),
        kind,
        by_layer: Vec::new(),
    };
    ModelShape {
        name: "Qwen2.5-7B-Instruct".to_owned(),
        architecture: "qwen2".to_owned(),
        layers: 28,
        heads: 28,
        kv_heads: 4,
        head_dim: 128,
        dim: 3584,
        ffn_dim: 18_944,
        vocab_len: 152_064,
        context_max: Tokens(32_768),
        weights: vec![
            WeightLine {
                by_layer: vec![Bytes(116_000_000); 28],
                ..weights("Q4_K", 3_300_000_000, WeightKind::Resident)
            },
            weights("Q6_K", 1_073_446_912, WeightKind::Resident),
            weights("embedding Q4_K", 306_553_088, WeightKind::Mapped),
        ],
        layer_weight_max: Bytes(38_000_000),
        step: None,
        layer_panel_max: Bytes(400_000),
        file_bytes: Bytes(4_683_074_240),
    }
}

/// A model whose whole pool is small: 12 layers of 12 heads, as in OPT 125M.
fn tiny() -> ModelShape {
    ModelShape {
        name: "tiny".to_owned(),
        layers: 12,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        dim: 768,
        ffn_dim: 3072,
        vocab_len: 50_272,
        context_max: Tokens(2048),
        weights: vec![WeightLine {
            part: WeightPart::Mlp,
            values: 0,
            label: "F16".to_owned(),
            bytes: Bytes(250_000_000),
            kind: WeightKind::Resident,
            by_layer: Vec::new(),
        }],
        ..seven_b()
    }
}

fn gib(count: u64) -> Bytes {
    Bytes::GIB * count
}

/// A machine with `total` GiB, all but one of them available.
fn machine(total: u64) -> Machine {
    Machine::new(
        MemInfo {
            total: gib(total),
            available: gib(total - 1),
        },
        &[],
        4,
    )
}

fn absolute(memory: Bytes) -> Limits {
    Limits {
        memory: MemoryLimit::Absolute(memory),
        ..Limits::default()
    }
}

fn bytes_of(plan: &Plan, kind: LineKind) -> Bytes {
    plan.lines
        .iter()
        .filter(|line| line.kind == kind)
        .map(|line| line.bytes)
        .sum()
}

#[test]
fn the_lines_of_a_7b_are_what_a_pencil_says() {
    let model = seven_b();
    assert_eq!(model.kv_bytes_per_token(KvDtype::F16), Bytes(57_344));
    assert_eq!(model.kv_bytes_per_token(KvDtype::BF16), Bytes(57_344));
    assert_eq!(model.kv_bytes_per_token(KvDtype::Q8_0), Bytes(30_464));
    assert_eq!(model.kv_bytes_per_token(KvDtype::F32), Bytes(114_688));
    let limits = Limits {
        threads: 2,
        ..absolute(gib(8))
    };
    let plan = plan(&model, &machine(24), &limits).unwrap();
    let expected = [
        (LineKind::WeightsResident, 4_373_446_912),
        (LineKind::WeightsMapped, 0),
        // 2 * 3584 + 36 * 128 + 3584 + 2 * 18 944 values of 4 bytes, 22 733 quantised, 16 flat.
        (
            LineKind::Activations,
            512 * ((7_168 + 4_608 + 3_584 + 37_888) * 4 + 22_733 + 16),
        ),
        (LineKind::Logits, 64 * 152_064 * 4),
        (LineKind::Sampler, 152_064 * 20),
        (LineKind::Tokenizer, 152_064 * 152),
        (LineKind::Threads, 2 * 65_536),
        (LineKind::Http, (1 << 20) + (64 + 256) * 24_576),
        (LineKind::Program, 9 << 20),
        (LineKind::Margin, (2 << 20) + 4_373_446_912 / 1000),
    ];
    for (kind, bytes) in expected {
        assert_eq!(bytes_of(&plan, kind), Bytes(bytes), "{kind:?}");
    }
    let fixed: u64 = expected.iter().map(|(_, bytes)| bytes).sum();
    // Whole extents of 2 MiB: the largest count of blocks whose pool and tables are within the rest.
    let pool = |blocks: u64| (blocks * 917_504).next_multiple_of(2 << 20);
    let blocks = (1..)
        .take_while(|n| fixed + pool(*n) + n * 320 <= gib(8).0)
        .last()
        .unwrap();
    assert_eq!(u64::from(plan.kv.blocks.0), blocks);
    assert_eq!(plan.kv.block_bytes, Bytes(917_504));
    assert_eq!(bytes_of(&plan, LineKind::KvPool), Bytes(pool(blocks)));
    assert_eq!(bytes_of(&plan, LineKind::KvTables), Bytes(blocks * 320));
    assert_eq!(
        (plan.model_len, plan.model_len_reason),
        (Tokens(32_768), ModelLenReason::AsModel)
    );
    assert!(
        plan.total <= plan.budget && plan.budget - plan.total < Bytes((2 << 20) + 917_504 + 320)
    );
}

#[test]
fn context_is_the_longest_that_fits_or_what_was_asked() {
    use ModelLenReason::{AsAsked, AsModel, CappedByMemory};
    // budget in MiB, context asked for, fits, context, reason
    let cases = [
        (8192, None, true, Some(32_768), AsModel),
        (4830, None, true, None, CappedByMemory),
        (4300, None, false, Some(512), CappedByMemory),
        (8192, Some(4096), true, Some(4096), AsAsked),
        (4830, Some(4096), true, Some(4096), AsAsked),
        (4830, Some(32_768), false, Some(32_768), AsAsked),
        (4300, Some(100), false, Some(100), AsAsked),
    ];
    for (mib, asked, fits, len, reason) in cases {
        let model_len = asked.map(Tokens);
        let limits = Limits {
            model_len,
            ..absolute(Bytes::MIB * mib)
        };
        let plan = plan(&seven_b(), &machine(24), &limits).unwrap();
        let case = format!("{mib} MiB, {asked:?}: {plan}");
        assert_eq!(plan.fits(), fits, "{case}");
        assert_eq!(plan.model_len, len.map_or(plan.kv.tokens, Tokens), "{case}");
        assert_eq!(plan.model_len_reason, reason, "{case}");
    }
}

#[test]
fn the_budget_is_the_least_of_share_limit_and_what_is_left() {
    let open = machine(24);
    let busy = Machine {
        mem_available: gib(8),
        ..open
    };
    let contained = Machine {
        cgroup_limit: Some(gib(8)),
        cgroup_used: Some(gib(1)),
        ..open
    };
    let share = MemoryLimit::Fraction;
    let mib = |count: u64| Bytes::MIB * count;
    let cases = [
        (open, share(0.5), gib(12), "50 % of the machine's 24.00 GiB"),
        (
            open,
            share(1.0),
            gib(23) - mib(512),
            "23.00 GiB available now, less 512.0 MiB left to the system",
        ),
        (busy, share(0.25), gib(6), "25 % of the machine's 24.00 GiB"),
        (
            busy,
            share(0.9),
            gib(8) - mib(512),
            "8.00 GiB available now, less 512.0 MiB left to the system",
        ),
        (busy, MemoryLimit::Absolute(gib(3)), gib(3), "as asked"),
        (
            contained,
            share(0.5),
            gib(4),
            "50 % of the container's 8.00 GiB",
        ),
        (
            contained,
            share(0.9),
            gib(7) - mib(256),
            "7.00 GiB available now, less 256.0 MiB left to the system",
        ),
    ];
    for (machine, memory, budget, source) in cases {
        let limits = Limits {
            memory,
            ..Limits::default()
        };
        let plan = plan(&tiny(), &machine, &limits).unwrap();
        assert_eq!(plan.budget, budget, "{source}");
        assert_eq!(plan.budget_source.to_string(), source);
    }
    let starved = Machine {
        mem_available: Bytes::MIB,
        ..open
    };
    assert_eq!(
        plan(&tiny(), &starved, &Limits::default()).unwrap().budget,
        Bytes::ZERO
    );
}

#[test]
fn the_pool_never_exceeds_what_admitted_sequences_can_use() {
    let limits = Limits {
        running_max: 4,
        ..Limits::default()
    };
    let plan = plan(&tiny(), &machine(24), &limits).unwrap();
    assert_eq!(plan.kv.tokens, Tokens(4 * 2048));
    assert!(plan.total < gib(1), "{plan}");
    let odd = Limits {
        model_len: Some(Tokens(1001)),
        ..limits
    };
    let plan = crate::plan(&tiny(), &machine(24), &odd).unwrap();
    assert_eq!(
        plan.kv.blocks,
        Blocks(4 * 63),
        "each sequence may leave one block in part"
    );
}

#[test]
fn capacity_counts_whole_blocks_and_respects_the_sequence_limit() {
    let plan = plan(&seven_b(), &machine(24), &absolute(gib(8))).unwrap();
    let Verdict::Fits { capacity } = &plan.verdict else {
        panic!("{plan}")
    };
    let lengths: Vec<u32> = capacity.iter().map(|row| row.context.0).collect();
    assert_eq!(lengths, [512, 1024, 2048, 4096, 8192, 16_384, 32_768]);
    for row in capacity {
        let blocks_each = row.context.0 / 16;
        assert_eq!(row.sequences, (plan.kv.blocks.0 / blocks_each).min(64));
        assert!(row.sequences >= 1);
    }
    let short = Limits {
        model_len: Some(Tokens(100)),
        ..absolute(gib(8))
    };
    let short = crate::plan(&seven_b(), &machine(24), &short).unwrap();
    let only = CapacityRow {
        context: Tokens(100),
        sequences: 64,
    };
    assert_eq!(
        short.verdict,
        Verdict::Fits {
            capacity: vec![only]
        }
    );
}

#[test]
fn more_memory_never_gives_less() {
    let mut last = (false, Tokens::ZERO, Blocks::ZERO);
    for mib in (4000..14_000).step_by(53) {
        let plan = plan(&seven_b(), &machine(24), &absolute(Bytes::MIB * mib)).unwrap();
        let blocks = if plan.fits() {
            plan.kv.blocks
        } else {
            Blocks::ZERO
        };
        let now = (
            plan.fits(),
            if plan.fits() {
                plan.model_len
            } else {
                Tokens::ZERO
            },
            blocks,
        );
        assert!(
            now.0 >= last.0 && now.1 >= last.1 && now.2 >= last.2,
            "{mib} MiB: {plan}"
        );
        last = now;
    }
    assert!(last.0);
}

#[test]
fn every_other_limit_costs_memory_as_it_grows() {
    type Set = fn(&mut Limits, u32);
    let limits: [(&str, Set, u32); 5] = [
        ("running_max", |l, n| l.running_max = n, 256),
        (
            "step_tokens_max",
            |l, n| l.step_tokens_max = Tokens(n),
            4096,
        ),
        ("threads", |l, n| l.threads = n, 256),
        (
            "kv_dtype",
            |l, n| l.kv_dtype = if n > 1 { KvDtype::F32 } else { KvDtype::F16 },
            2,
        ),
        ("model_len", |l, n| l.model_len = Some(Tokens(n)), 8192),
    ];
    for (name, set, max) in limits {
        // Generous: the total is a sum of demands. Tight: what is left for the pool shrinks.
        let (mut least, mut total, mut pool) = (None, Bytes::ZERO, Tokens(u32::MAX));
        for value in std::iter::successors(Some(1u32), |n| Some(n * 2)).take_while(|n| *n <= max) {
            let at = |memory| {
                let mut limits = Limits {
                    running_max: 2,
                    ..absolute(memory)
                };
                set(&mut limits, value);
                plan(&tiny().with_context(8192), &machine(2000), &limits).unwrap()
            };
            let (generous, tight) = (at(gib(1900)), at(gib(2)));
            assert!(
                generous.fits() && generous.total >= total,
                "{name} {value}: {generous}"
            );
            total = generous.total;
            least.get_or_insert(total);
            if name != "model_len" && name != "running_max" && tight.fits() {
                assert!(tight.kv.tokens <= pool, "{name} {value}: {tight}");
                pool = tight.kv.tokens;
            }
        }
        assert!(Some(total) > least, "{name} changes nothing");
    }
}

impl ModelShape {
    fn with_context(self, tokens: u32) -> Self {
        Self {
            context_max: Tokens(tokens),
            ..self
        }
    }
}

#[test]
fn a_refusal_names_the_culprit_and_the_ways_out() {
    let limits = Limits {
        model_len: Some(Tokens(32_768)),
        running_max: 1024,
        step_tokens_max: Tokens(8192),
        ..absolute(gib(8))
    };
    let plan = plan(&seven_b(), &machine(24), &limits).unwrap();
    let Verdict::DoesNotFit {
        needed,
        available,
        shortfall,
        largest_line,
        ways_out,
    } = &plan.verdict
    else {
        panic!("{plan}")
    };
    assert_eq!((*needed, *available), (plan.total, gib(8)));
    assert_eq!(*shortfall, *needed - *available);
    assert_eq!(largest_line.name, "weights Q4_K");
    assert!(
        matches!(
            ways_out[..],
            [
                WayOut::SmallerContext { .. },
                WayOut::LighterKv {
                    kv_dtype: KvDtype::Q8_0,
                    ..
                },
                WayOut::FewerSequences { .. },
            ]
        ),
        "{ways_out:?}"
    );
    let crowded = Limits {
        running_max: 65_536,
        ..absolute(gib(8))
    };
    let plan = crate::plan(&seven_b(), &machine(24), &crowded).unwrap();
    let Verdict::DoesNotFit { largest_line, .. } = &plan.verdict else {
        panic!("{plan}")
    };
    assert_eq!(largest_line.kind, LineKind::Logits);
}

/// The inputs after following a way out.
fn follow(
    way_out: WayOut,
    inputs: &(ModelShape, Machine, Limits),
) -> (ModelShape, Machine, Limits) {
    let (mut model, mut machine, mut limits) = inputs.clone();
    match way_out {
        WayOut::SmallerContext { model_len } => limits.model_len = Some(model_len),
        WayOut::FewerSequences { running_max } => limits.running_max = running_max,
        WayOut::SmallerStep { step_tokens_max } => limits.step_tokens_max = step_tokens_max,
        WayOut::RaiseBudget { memory } => limits.memory = MemoryLimit::Absolute(memory),
        WayOut::MoreMemory { available, memory } => {
            machine.mem_available = available;
            machine.mem_total = machine.mem_total.max(available);
            machine.cgroup_limit = None;
            limits.memory = MemoryLimit::Absolute(memory);
        }
        WayOut::LighterWeights { scheme, bytes } => {
            model = model.quantised(scheme);
            assert_eq!(model.weight_bytes(), bytes);
        }
        WayOut::NoDraftModel => limits.draft_model = None,
        WayOut::SmallerPool { kv_cache } => limits.kv_cache = Some(kv_cache),
        WayOut::LighterKv { kv_dtype, .. } => limits.kv_dtype = kv_dtype,
        WayOut::StreamLayers { .. } => limits.offload = Offload::Auto,
        WayOut::RaiseShare { .. } | WayOut::MoreDevices { .. } | WayOut::LargerDevices { .. } => {
            panic!("{way_out:?} on a host")
        }
    }
    (model, machine, limits)
}

/// One more than a way out allows, for those that promise the most that fits.
fn overdo(way_out: WayOut) -> Option<WayOut> {
    match way_out {
        WayOut::SmallerContext { model_len } => Some(WayOut::SmallerContext {
            model_len: model_len + Tokens(1),
        }),
        WayOut::FewerSequences { running_max } => Some(WayOut::FewerSequences {
            running_max: running_max + 1,
        }),
        WayOut::SmallerStep { step_tokens_max } => Some(WayOut::SmallerStep {
            step_tokens_max: step_tokens_max + Tokens(1),
        }),
        WayOut::RaiseBudget { memory } => Some(WayOut::RaiseBudget {
            memory: memory - Bytes::MIB - Bytes(1),
        }),
        WayOut::MoreMemory { .. }
        | WayOut::NoDraftModel
        | WayOut::SmallerPool { .. }
        | WayOut::LighterWeights { .. }
        | WayOut::LighterKv { .. }
        | WayOut::StreamLayers { .. } => None,
        WayOut::RaiseShare { .. } | WayOut::MoreDevices { .. } | WayOut::LargerDevices { .. } => {
            panic!("{way_out:?} on a host")
        }
    }
}

/// A model, machine and limits from a seed, most of them plausible.
fn random_inputs(seed: u64) -> (ModelShape, Machine, Limits) {
    let mut counter = seed << 16;
    let mut up_to = |max: u64| {
        counter += 1;
        mix64(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15)) % (max + 1)
    };
    let mut small = |max: u64| u32::try_from(up_to(max - 1) + 1).unwrap();
    let heads = small(64);
    let mut model = ModelShape {
        layers: small(80),
        heads,
        kv_heads: small(heads.into()),
        head_dim: small(256),
        dim: small(8192),
        ffn_dim: small(30_000),
        vocab_len: small(250_000),
        context_max: Tokens(small(131_072)),
        ..seven_b()
    };
    let limits = Limits {
        waiting_max: 256,
        running_max: small(512),
        step_tokens_max: Tokens(small(4096)),
        draft_max: Tokens::ZERO,
        draft_model: None,
        structured_outputs: small(2) == 1,
        block_size: Tokens(small(64)),
        kv_dtype: if small(2) == 1 {
            KvDtype::F16
        } else {
            KvDtype::F32
        },
        threads: small(64),
        kv_cache: (small(8) == 1).then(|| Bytes::MIB * u64::from(small(8000))),
        spill: None,
        offload: Offload::Off,
        model_len: (small(2) == 1).then(|| Tokens(small(model.context_max.0.into()))),
        memory: if small(2) == 1 {
            MemoryLimit::Fraction(f64::from(small(1000)) / 1000.0)
        } else {
            MemoryLimit::Absolute(Bytes::MIB * u64::from(small(32_000)))
        },
    };
    for line in &mut model.weights {
        line.bytes = Bytes(up_to(6_000_000_000));
        if line.kind == WeightKind::Resident {
            line.by_layer = vec![Bytes(line.bytes.0 / 100); model.layers as usize];
        }
        // 4, 8 or 16 bits a weight.
        line.values = (line.bytes.0 * 2) >> up_to(2);
    }
    let total = Bytes::MIB * (up_to(64_000) + 64);
    let memory = MemInfo {
        total,
        available: Bytes(up_to(total.0)),
    };
    let levels = [CgroupMemory {
        limit: Some(Bytes(up_to(2 * total.0))),
        used: Bytes(up_to(gib(2).0)),
    }];
    (
        model,
        Machine::new(memory, &levels[..usize::from(up_to(2) == 0)], 4),
        limits,
    )
}

#[test]
fn sums_hold_and_every_way_out_leads_out() {
    let (mut fit_count, mut taken) = (0, [0u32; 9]);
    for seed in 0..3_000 {
        let inputs = random_inputs(seed);
        let plan_of =
            |(model, machine, limits): &(ModelShape, Machine, Limits)| plan(model, machine, limits);
        let Ok(plan) = plan_of(&inputs) else {
            assert!(inputs.2.kv_cache.is_some(), "seed {seed}");
            continue;
        };
        assert_eq!(
            plan.lines.iter().map(|line| line.bytes).sum::<Bytes>(),
            plan.total
        );
        assert_eq!(
            plan.fits(),
            plan.total <= plan.budget,
            "seed {seed}: {plan}"
        );
        let Verdict::DoesNotFit {
            ways_out,
            shortfall,
            ..
        } = &plan.verdict
        else {
            fit_count += 1;
            assert!(plan.kv.tokens >= plan.model_len, "seed {seed}: {plan}");
            continue;
        };
        assert!((1..=3).contains(&ways_out.len()) && shortfall.0 > 0);
        for &way_out in ways_out {
            let after = plan_of(&follow(way_out, &inputs)).unwrap();
            assert!(after.fits(), "seed {seed}, {way_out:?}: {plan}{after}");
            if let Some(too_much) = overdo(way_out) {
                let after = plan_of(&follow(too_much, &inputs));
                assert!(
                    after.as_ref().is_ok_and(|after| !after.fits()),
                    "seed {seed}, {too_much:?}: {plan}{after:?}"
                );
            }
            let kind = match way_out {
                WayOut::SmallerContext { .. } => 0,
                WayOut::FewerSequences { .. } => 1,
                WayOut::SmallerStep { .. } => 2,
                WayOut::RaiseBudget { .. } => 3,
                WayOut::MoreMemory { .. } => 4,
                WayOut::LighterWeights { .. } => 5,
                WayOut::SmallerPool { .. } => 6,
                WayOut::LighterKv { .. } => 7,
                WayOut::StreamLayers { .. } => 8,
                _ => panic!("{way_out:?} on a host"),
            };
            taken[kind] += 1;
        }
    }
    assert!(fit_count > 200, "{fit_count} of 3 000 fit");
    assert!(
        taken.iter().all(|count| *count > 4),
        "ways out met: {taken:?}"
    );
}

#[test]
fn nonsense_is_refused_by_name() {
    type Edit = fn(&mut ModelShape, &mut Limits);
    let cases: [(Edit, &str); 13] = [
        (
            |_, l| l.running_max = 0,
            "max_num_seqs must be between 1 and 65536, but is 0",
        ),
        (
            |_, l| l.step_tokens_max = Tokens(0),
            "max_num_batched_tokens must be between 1 and 1048576, but is 0",
        ),
        (
            |_, l| l.block_size = Tokens(0),
            "block_size must be between 1 and 4096, but is 0",
        ),
        (
            |_, l| l.threads = 0,
            "threads must be between 1 and 4096, but is 0",
        ),
        (
            |_, l| l.model_len = Some(Tokens(0)),
            "max_model_len must be between 1 and 32768, but is 0",
        ),
        (
            |_, l| l.model_len = Some(Tokens(40_000)),
            "max_model_len must be at most 32768, the model's own context, but is 40000",
        ),
        (
            |_, l| l.memory = MemoryLimit::Fraction(1.5),
            "gpu_memory_utilization must be above 0 and at most 1, but is 1.5",
        ),
        (
            |_, l| l.memory = MemoryLimit::Fraction(f64::NAN),
            "gpu_memory_utilization must be above 0 and at most 1, but is NaN",
        ),
        (
            |_, l| l.memory = MemoryLimit::Fraction(0.0),
            "gpu_memory_utilization must be above 0 and at most 1, but is 0",
        ),
        (
            |_, l| l.memory = MemoryLimit::Absolute(Bytes(0)),
            "memory must be between 1 and 18446744073709551615, but is 0",
        ),
        (
            |m, _| m.layers = 0,
            "layers must be between 1 and 4096, but is 0",
        ),
        (
            |m, _| (m.kv_heads, m.head_dim) = (1 << 19, 4),
            "kv_heads * head_dim must be between 1 and 1048576, but is 2097152",
        ),
        (
            |m, _| m.weights[0].bytes = Bytes(u64::MAX),
            "weight bytes must be between 0 and 72057594037927936, but is 18446744073709551615",
        ),
    ];
    for (edit, message) in cases {
        let (mut model, mut limits) = (seven_b(), Limits::default());
        edit(&mut model, &mut limits);
        let err = plan(&model, &machine(24), &limits).unwrap_err();
        assert_eq!(err.to_string(), message);
    }
}

#[test]
fn the_largest_shape_allowed_does_not_overflow() {
    let model = ModelShape {
        layers: 1 << 12,
        heads: 1,
        kv_heads: 1,
        head_dim: 1 << 20,
        dim: 1 << 22,
        ffn_dim: 1 << 22,
        vocab_len: 1 << 24,
        context_max: Tokens(1 << 24),
        weights: vec![WeightLine {
            bytes: Bytes(1 << 56),
            by_layer: Vec::new(),
            ..seven_b().weights[0].clone()
        }],
        ..seven_b()
    };
    let limits = Limits {
        running_max: 1 << 16,
        step_tokens_max: Tokens(1 << 20),
        block_size: Tokens(1 << 12),
        kv_dtype: KvDtype::F32,
        threads: 1 << 12,
        model_len: Some(Tokens(1 << 24)),
        ..Limits::default()
    };
    let largest = Machine {
        mem_total: Bytes(u64::MAX),
        mem_available: Bytes(u64::MAX),
        ..machine(2)
    };
    assert!(!plan(&model, &machine(24), &limits).unwrap().fits());
    assert!(plan(&model, &largest, &limits).unwrap().fits());
    let worst = ModelShape {
        layers: u32::MAX,
        kv_heads: u32::MAX,
        head_dim: u32::MAX,
        ..model
    };
    assert!(plan(&worst, &largest, &limits).is_err());
    assert_eq!(worst.kv_bytes_per_token(KvDtype::F32), Bytes(u64::MAX));
}

#[test]
fn a_pool_stops_where_token_counts_end() {
    let model = ModelShape {
        layers: 1,
        kv_heads: 1,
        head_dim: 1,
        ..tiny()
    }
    .with_context(1 << 24);
    let endless = Bytes(u64::MAX);
    let machine = Machine {
        mem_total: endless,
        mem_available: endless,
        ..machine(2)
    };
    for block_size in [1, 3, 16, 4096].map(Tokens) {
        let limits = Limits {
            block_size,
            running_max: 1 << 16,
            ..Limits::default()
        };
        let kv = plan(&model, &machine, &limits).unwrap().kv;
        assert!(kv.tokens.0 > u32::MAX - block_size.0, "{kv:?}");
    }
}

#[test]
fn the_table_shows_every_line_and_the_verdict() {
    let fits = plan(&seven_b(), &machine(24), &absolute(gib(8))).unwrap();
    let table = fits.to_table();
    for line in &fits.lines {
        let row = table
            .lines()
            .find(|row| row.trim_start().starts_with(&line.name))
            .unwrap();
        assert!(
            row.contains(&format!("{:.1}", line.bytes.as_mib())),
            "{row}"
        );
    }
    let row = |name: &str| {
        table
            .lines()
            .find(|row| row.trim_start().starts_with(name))
            .unwrap()
    };
    assert_eq!(
        row("weights Q4_K"),
        "  weights Q4_K                   3147.1    38.4  resident"
    );
    assert_eq!(
        row("budget"),
        "  budget                         8192.0   100.0  as asked"
    );
    assert!(
        table.contains("Longest sequence: 32 768 tokens, the model's own limit\n"),
        "{table}"
    );
    assert!(table.lines().all(|line| line == line.trim_end()));
    let last = |plan: &Plan| plan.to_table().lines().last().unwrap().to_owned();
    assert_eq!(
        last(&fits),
        "fits: 2 sequences of up to 32768 tokens; 3.73 GiB KV"
    );
    // 512 tokens are 28 MiB: 64 such sequences are 1792 MiB.
    assert!(
        table.contains("    length         1         4        16        64      most\n"),
        "{table}"
    );
    assert!(
        table.contains("       512      28.0     112.0     448.0    1792.0        64\n"),
        "{table}"
    );
    assert!(
        table.contains("     32768    1792.0         -         -         -         2\n"),
        "{table}"
    );

    let short = plan(&seven_b(), &machine(24), &absolute(gib(4))).unwrap();
    let expected =
        "Longest sequence: 512 of the model's 32 768, the least to serve, does not fit\n";
    assert!(short.to_table().contains(expected), "{short}");
    let auto = plan(&seven_b(), &machine(24), &absolute(Bytes::MIB * 5120)).unwrap();
    let expected = "largest that fits: 13 632 of the model's 32 768, the KV pool holds no more";
    assert!(auto.to_table().contains(expected), "{auto}");

    let limits = Limits {
        model_len: Some(Tokens(32_768)),
        ..absolute(gib(6))
    };
    let refused = plan(&seven_b(), &machine(24), &limits).unwrap();
    let text = refused.to_table();
    let expected = "Most goes to weights Q4_K (3.07 GiB). Any one of these is enough:\n  - ";
    assert!(text.contains(expected), "{text}");
    assert!(
        text.contains("--max-model-len 32352\n") && text.contains("--kv-cache-dtype q8_0\n"),
        "{text}"
    );
    assert_eq!(
        last(&refused),
        "does not fit: 6.02 GiB needed, 6.00 GiB allowed, 20.4 MiB short"
    );
}

#[test]
fn json_has_plain_numbers() {
    let limits = Limits {
        model_len: Some(Tokens(32_768)),
        ..absolute(gib(6))
    };
    let refused = plan(&seven_b(), &machine(24), &limits).unwrap();
    let json = serde_json::to_value(&refused).unwrap();
    assert_eq!(json["budget"], gib(6).0);
    assert_eq!(json["budget_source"], "as asked");
    assert_eq!(json["model_len_reason"], "as_asked");
    assert_eq!(json["kv"]["bytes_per_token"], 57_344);
    assert_eq!(json["lines"][0]["kind"], "weights_resident");
    let verdict = &json["verdict"]["does_not_fit"];
    assert_eq!(verdict["needed"], refused.total.0);
    let context = &verdict["ways_out"][0]["smaller_context"]["model_len"];
    assert!(
        context.as_u64().is_some_and(|tokens| tokens % 16 == 0),
        "{verdict}"
    );
    let sum: u64 = json["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(json["total"], sum);
}

#[test]
fn speculation_is_an_index_for_each_sequence_that_can_have_a_draft_and_rows_for_the_longest() {
    let without = absolute(gib(8));
    let with = Limits {
        draft_max: Tokens(16),
        ..without.clone()
    };
    let bytes = |limits: &Limits, name: &str| {
        let plan = plan(&seven_b(), &machine(24), limits).unwrap();
        let line = plan.lines.iter().find(|line| line.name == name);
        line.map(|line| line.bytes.0)
    };
    assert_eq!(bytes(&without, "logits"), Some(64 * 152_064 * 4));
    assert_eq!(bytes(&with, "logits"), Some(64 * 152_064 * 4));
    assert_eq!(bytes(&without, "drafts"), None);
    assert_eq!(bytes(&with, "drafts"), Some(16 * 32_768 * 8));
    let alone = Limits {
        running_max: 1,
        model_len: Some(Tokens(1000)),
        ..with
    };
    assert_eq!(bytes(&alone, "drafts"), Some(1024 * 8));
    assert_eq!(bytes(&alone, "logits"), Some(17 * 152_064 * 4));
}

#[test]
fn grammars_are_tries_over_the_vocabulary_where_there_are_structured_outputs() {
    let bytes = |structured_outputs: bool| {
        let limits = Limits {
            structured_outputs,
            ..absolute(gib(8))
        };
        let plan = plan(&seven_b(), &machine(24), &limits).unwrap();
        let mut lines = plan.lines.iter();
        let line = lines.find(|line| line.kind == LineKind::Grammars);
        line.map(|line| line.bytes.0)
    };
    assert_eq!(bytes(false), None);
    assert_eq!(bytes(true), Some(152_064 * 224 + (16 << 20)));
}
