//! Sizes of a model in other encodings, against published ones.

use super::*;

/// DeepSeek-R1-Distill-Qwen-7B in 16 bits: 7 615 616 512 parameters, 6 525 288 448 of them in the
/// layers' matrices.
pub(super) fn r1_distill_7b() -> ModelShape {
    let (dim, ffn, vocab, layers) = (3584u64, 18_944u64, 152_064u64, 28u64);
    let attention = 2 * dim * dim + 2 * dim * 512;
    let mlp = 3 * dim * ffn;
    let line = |part: WeightPart, values: u64, per_layer: u64| WeightLine {
        part,
        label: format!("{part} BF16"),
        values,
        bytes: Bytes(values * 2),
        kind: WeightKind::Resident,
        by_layer: match per_layer {
            0 => Vec::new(),
            each => vec![Bytes(each * 2); 28],
        },
    };
    let vectors = layers * (2 * dim + dim + 2 * 512) + dim;
    ModelShape {
        name: "DeepSeek-R1-Distill-Qwen-7B".to_owned(),
        context_max: Tokens(131_072),
        weights: vec![
            line(WeightPart::Attention, attention * layers, attention),
            line(WeightPart::Mlp, mlp * layers, mlp),
            line(WeightPart::Embedding, dim * vocab, 0),
            line(WeightPart::Head, dim * vocab, 0),
            line(WeightPart::Vectors, vectors, 0),
        ],
        layer_weight_max: Bytes(2 * dim * ffn),
        ..seven_b()
    }
}

#[test]
fn a_7b_in_every_encoding_has_the_published_size() {
    let model = r1_distill_7b();
    let values: u64 = model.weights.iter().map(|line| line.values).sum();
    assert_eq!(values, 7_615_616_512);
    // Gigabytes: what checkpoints in these encodings take.
    let cases = [
        (WeightScheme::Bf16, 15.23),
        (WeightScheme::Int8, 8.71),
        (WeightScheme::Fp8, 8.71),
        (WeightScheme::Gptq, 5.57),
        (WeightScheme::Awq, 5.57),
        (WeightScheme::Nf4, 5.55),
        (WeightScheme::Q8_0, 8.10),
        // The file of this model on the hub has 4 683 073 184 bytes.
        (WeightScheme::Q4KM, 4.683),
    ];
    for (scheme, gigabytes) in cases {
        let bytes = model.quantised(scheme).weight_bytes();
        let error = bytes.0 as f64 / 1e9 / gigabytes - 1.0;
        println!(
            "{:8} {bytes} against {gigabytes} GB: {:+.2} %",
            scheme.name(),
            error * 100.0
        );
        assert!(error.abs() < 0.005, "{scheme:?}: {bytes}");
    }
    assert_eq!(model.bits_per_weight(), Some(16.0));
    let bits = model
        .quantised(WeightScheme::Q4KM)
        .bits_per_weight()
        .unwrap();
    assert!((4.8..5.0).contains(&bits), "{bits}");
}

#[test]
fn layers_of_an_encoding_sum_to_its_lines() {
    for scheme in WeightScheme::ALL {
        let model = r1_distill_7b().quantised(scheme);
        let in_layers = [WeightPart::Attention, WeightPart::Mlp];
        let lines = model
            .weights
            .iter()
            .filter(|line| in_layers.contains(&line.part));
        let bytes: Bytes = lines.map(|line| line.bytes).sum();
        let layers: Bytes = model.layer_bytes().into_iter().sum();
        assert!(layers <= bytes && (bytes - layers).0 < 100, "{scheme:?}");
        assert!(
            plan(&model, &machine(64), &absolute(gib(40)))
                .unwrap()
                .fits()
        );
    }
}

#[test]
fn a_16_bit_file_that_does_not_fit_is_told_what_would() {
    let limits = Limits {
        offload: Offload::Off,
        ..absolute(gib(6))
    };
    let small = Machine {
        mem_available: gib(7),
        ..machine(8)
    };
    let refused = plan(&r1_distill_7b(), &small, &limits).unwrap();
    let text = refused.to_string();
    assert!(
        text.contains("a Q4_K_M file of this model would be about 4.36 GiB"),
        "{text}"
    );
    assert!(text.contains("in every step: --offload-weights"), "{text}");
}
