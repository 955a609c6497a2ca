//! Plans for devices with memory of their own, against published reckonings.

use super::schemes::r1_distill_7b;
use super::*;

/// What the runtime sees of an RTX 4090.
const CARD: Bytes = Bytes(25_383_256_719);

fn on_cards(count: u32, scheme: WeightScheme, share: f64) -> Plan {
    let model = r1_distill_7b().quantised(scheme);
    let devices = Devices {
        count,
        memory: CARD,
    };
    let limits = Limits {
        memory: MemoryLimit::Fraction(share),
        running_max: 65_536,
        ..Limits::default()
    };
    plan_devices(&model, devices, &limits).unwrap()
}

#[test]
fn a_7b_on_24_gb_cards_has_the_room_that_was_reckoned() {
    use WeightScheme::{Bf16, Gptq, Int8, Q4KM};
    // Cards, encoding, thousands of KV tokens at 0.9, 0.7 and 0.4 of 23.64 GiB; 0: does not fit.
    let cases = [
        (1, Bf16, [114.0, 25.5, 0.0]),
        (1, Int8, [228.0, 139.0, 6.5]),
        (1, Gptq, [283.0, 194.0, 61.0]),
        (1, Q4KM, [298.0, 210.0, 77.0]),
        (2, Bf16, [494.0, 317.0, 51.0]),
        (2, Gptq, [662.0, 485.0, 220.0]),
    ];
    for (count, scheme, expected) in cases {
        for (share, thousands) in [0.9, 0.7, 0.4].into_iter().zip(expected) {
            let plan = on_cards(count, scheme, share);
            assert_eq!(plan.fits(), thousands > 0.0, "{plan}");
            if !plan.fits() {
                println!("{count} x {:6} at {share}: does not fit", scheme.name());
                continue;
            }
            let room = f64::from(plan.kv.tokens.0) / 1000.0;
            let name = scheme.name();
            println!(
                "{count} x {name:6} at {share}: {room:6.1} k tokens against {thousands:6.1} k"
            );
            assert!((room / thousands - 1.0).abs() < 0.02, "{room} k: {plan}");
        }
    }
}

#[test]
fn a_device_holds_its_part_and_nothing_of_the_host() {
    let one = on_cards(1, WeightScheme::Bf16, 0.9);
    let two = on_cards(2, WeightScheme::Bf16, 0.9);
    assert_eq!(one.kv.bytes_per_token, Bytes(57_344));
    assert_eq!(two.kv.bytes_per_token, Bytes(28_672));
    let weights = |plan: &Plan| bytes_of(plan, LineKind::WeightsResident).0;
    let vectors = 333_312 * 2;
    assert_eq!(weights(&two), (weights(&one) - vectors) / 2 + vectors);
    for plan in [&one, &two] {
        let kinds: Vec<LineKind> = plan.lines.iter().map(|line| line.kind).collect();
        use LineKind::{KvPool, Margin, WeightsResident};
        assert!(
            kinds
                .iter()
                .all(|kind| [WeightsResident, KvPool, Margin].contains(kind)),
            "{plan}"
        );
        assert_eq!(
            plan.lines.iter().map(|line| line.bytes).sum::<Bytes>(),
            plan.total
        );
    }
    let text = two.to_string();
    assert!(text.starts_with(
        "Memory plan for DeepSeek-R1-Distill-Qwen-7B: each of 2 devices with 23.64 GiB\n"
    ));
    assert!(text.contains("90 % of the device's 23.64 GiB"), "{text}");
}

#[test]
fn ways_out_of_a_card_that_is_too_small_are_enough() {
    let plan = on_cards(1, WeightScheme::Bf16, 0.4);
    let Verdict::DoesNotFit { ways_out, .. } = &plan.verdict else {
        panic!("{plan}")
    };
    // 14.19 GiB of weights, 1 GiB of overhead and 512 tokens are 0.644 of the card.
    assert!(
        matches!(
            ways_out[..],
            [
                WayOut::RaiseShare { percent: 65 },
                WayOut::LighterWeights {
                    scheme: WeightScheme::Q8_0,
                    ..
                },
                WayOut::MoreDevices { count: 2 },
            ]
        ),
        "{plan}"
    );
    assert!(on_cards(1, WeightScheme::Bf16, 0.65).fits());
    assert!(!on_cards(1, WeightScheme::Bf16, 0.64).fits());
    assert!(on_cards(2, WeightScheme::Bf16, 0.4).fits());
}

#[test]
fn heads_that_cannot_be_divided_are_refused() {
    let devices = |count| Devices {
        count,
        memory: CARD,
    };
    let refused = plan_devices(&r1_distill_7b(), devices(8), &Limits::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "devices must be a divisor of 28 heads and of 4 key and value heads, but is 8"
    );
    assert!(plan_devices(&r1_distill_7b(), devices(0), &Limits::default()).is_err());
}
