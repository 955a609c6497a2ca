//! Rows by their drawing, one value at a time, and what the fast code makes of them.

use half::{bf16, f16};
use kvist_base::KvDtype;

use crate::Isa;
use crate::attention::{KvLayout, KvToken, kv_write};
use crate::naive::tests::values;

/// A head as a row stores it.
pub(in crate::attention) fn encoded(dtype: KvDtype, head: &[f32]) -> Vec<u8> {
    match dtype {
        KvDtype::F32 => head.iter().flat_map(|v| v.to_le_bytes()).collect(),
        KvDtype::F16 => {
            let halves = head.iter().map(|v| f16::from_f32(*v));
            halves.flat_map(f16::to_le_bytes).collect()
        }
        KvDtype::BF16 => {
            let halves = head.iter().map(|v| bf16::from_f32(*v));
            halves.flat_map(bf16::to_le_bytes).collect()
        }
        KvDtype::Q8_0 => head.chunks(32).flat_map(q8_0).collect(),
    }
}

/// The greatest magnitude; not a number when a value is not finite.
fn peak(group: &[f32]) -> f32 {
    if group.iter().any(|x| !x.is_finite()) {
        return f32::NAN;
    }
    group.iter().fold(0.0, |max, x| max.max(x.abs()))
}

/// The f16 scale nearest to `wanted`, and each value divided by it.
fn scaled(group: &[f32], wanted: f32) -> (f16, Vec<f32>) {
    let scale = f16::from_f32(wanted);
    if !scale.is_finite() {
        return (f16::NAN, vec![0.0; group.len()]);
    }
    let inverse = match scale.to_f32() {
        0.0 => 0.0,
        scale => 1.0 / scale,
    };
    let steps = group.iter().map(|x| (x * inverse).round_ties_even());
    (scale, steps.collect())
}

fn q8_0(group: &[f32]) -> Vec<u8> {
    let (scale, steps) = scaled(group, peak(group) / 127.0);
    #[allow(clippy::cast_possible_truncation)] // clamped
    let codes = steps.iter().map(|x| x.clamp(-127.0, 127.0) as i8);
    let mut bytes = scale.to_le_bytes().to_vec();
    bytes.extend(codes.map(i8::cast_unsigned));
    bytes
}

/// What a row says.
pub(in crate::attention) fn decoded(dtype: KvDtype, row: &[u8]) -> Vec<f32> {
    let halves = || row.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    let scale = |group: &[u8]| f16::from_le_bytes([group[0], group[1]]).to_f32();
    match dtype {
        KvDtype::F32 => {
            let (words, _) = row.as_chunks::<4>();
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
        KvDtype::F16 => halves()
            .map(|pair| f16::from_le_bytes(pair).to_f32())
            .collect(),
        KvDtype::BF16 => halves()
            .map(|pair| bf16::from_le_bytes(pair).to_f32())
            .collect(),
        KvDtype::Q8_0 => {
            let groups = row.chunks(34).map(|group| (scale(group), &group[2..]));
            let values = |(scale, codes): (f32, &[u8])| {
                let values = codes
                    .iter()
                    .map(|code| scale * f32::from(code.cast_signed()));
                values.collect::<Vec<_>>()
            };
            groups.flat_map(values).collect()
        }
    }
}

fn layout(dtype: KvDtype, head_dim: usize) -> KvLayout {
    KvLayout {
        block_size: 2,
        layers: 1,
        kv_heads: 2,
        head_dim,
        dtype,
    }
}

/// Writes `k` and `v` to slot 1 of a block of sevens, and returns the block.
fn written(isa: Isa, layout: &KvLayout, k: &[f32], v: &[f32]) -> Vec<u8> {
    let mut kv = vec![7; layout.block_bytes()];
    let row = KvToken {
        layer: 0,
        slot: 1,
        k,
        v,
    };
    kv_write(isa, layout, &row, &mut kv);
    kv
}

#[test]
fn every_tier_writes_the_bytes_of_the_drawing_and_no_others() {
    let factors = [1.0, 1e-3, 1e3, 1e-7, 0.0, 4e4];
    for dtype in KvDtype::ALL {
        for (case, head_dim) in [8, 16, 32, 40, 64, 72, 128, 256].into_iter().enumerate() {
            let layout = layout(dtype, head_dim);
            let of = |seed, factor: f32| -> Vec<f32> {
                let values = values(seed, 2 * head_dim).into_iter();
                values.map(|v| v * factor).collect()
            };
            for (seed, factor) in (case as u64 * 100..).zip(factors) {
                let (k, v) = (of(seed, factor), of(seed + 50, 1.0));
                let mut expected = vec![7; layout.block_bytes()];
                for (head, (k, v)) in k.chunks(head_dim).zip(v.chunks(head_dim)).enumerate() {
                    for (start, values) in [
                        (layout.k_offset(0, 0, head), k),
                        (layout.v_offset(0, 0, head), v),
                    ] {
                        let row = encoded(dtype, values);
                        expected[start + row.len()..][..row.len()].copy_from_slice(&row);
                    }
                }
                for isa in Isa::available() {
                    let kv = written(isa, &layout, &k, &v);
                    assert!(kv == expected, "{dtype} {head_dim} {factor} {isa}");
                }
            }
        }
    }
}

#[test]
fn halves_round_to_even_and_overflow_to_infinity() {
    let values = [
        1.0,
        -0.1,
        65_504.0,
        65_520.0,
        1e-8,
        -1e-7,
        2049.0,
        f32::NEG_INFINITY,
    ];
    let bits = [
        0x3C00, 0xAE66, 0x7BFF, 0x7C00, 0x0000, 0x8002, 0x6800, 0xFC00,
    ];
    let expected: Vec<u8> = bits.into_iter().flat_map(u16::to_le_bytes).collect();
    assert_eq!(encoded(KvDtype::F16, &values), expected);
    let both: Vec<f32> = values.iter().chain(&values).copied().collect();
    for isa in Isa::available() {
        let kv = written(isa, &layout(KvDtype::F16, 8), &both, &both);
        assert_eq!(kv[16..32], expected, "{isa}");
    }
}

#[test]
fn codes_by_hand() {
    // The peak, 254, makes the scale 2; halves go to the even code.
    let head = [254.0, -254.0, 1.0, 3.0, -1.0, -5.0, 0.0, 100.9];
    let codes = [127, -127, 0, 2, 0, -2, 0, 50_i8];
    let bytes = codes.map(i8::cast_unsigned);
    assert_eq!(
        encoded(KvDtype::Q8_0, &head),
        [&[0, 0x40][..], &bytes].concat()
    );
}

#[test]
fn a_stored_value_is_off_by_at_most_half_a_step_of_its_group() {
    let head: Vec<f32> = values(3, 72).iter().map(|v| v * 5.0).collect();
    let stored = decoded(KvDtype::Q8_0, &encoded(KvDtype::Q8_0, &head));
    for (exact, stored) in head.chunks(32).zip(stored.chunks(32)) {
        let peak = exact.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
        let half_step = peak / 127.0 * (1.0 + f32::from(f16::EPSILON)) / 2.0;
        for (exact, stored) in exact.iter().zip(stored) {
            assert!((exact - stored).abs() <= half_step * 1.001);
        }
    }
}

#[test]
fn a_group_that_cannot_be_scaled_is_not_a_number_and_its_neighbours_are() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -1e8] {
        let mut head = values(4, 64);
        head[40] = bad;
        let both = [head.clone(), head].concat();
        for isa in Isa::available() {
            let layout = layout(KvDtype::Q8_0, 64);
            let kv = written(isa, &layout, &both, &both);
            let row = &kv[layout.row_bytes()..2 * layout.row_bytes()];
            let row = decoded(KvDtype::Q8_0, row);
            assert!(row[..32].iter().all(|v| v.is_finite()), "{bad}");
            assert!(row[32..].iter().all(|v| v.is_nan()), "{bad}");
        }
    }
}

#[test]
fn what_was_stored_is_stored_again_without_loss() {
    for dtype in KvDtype::ALL {
        let stored = decoded(dtype, &encoded(dtype, &values(5, 72)));
        assert_eq!(decoded(dtype, &encoded(dtype, &stored)), stored, "{dtype}");
    }
}
