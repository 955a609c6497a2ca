//! Every operation on the CPU device against a slow f64 version, and every way to misuse one.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // test sizes are tiny

use std::num::NonZeroUsize;
use std::sync::Arc;

use kvist_base::{BlockId, Bytes, KvDtype, QuantFormat, mix64};
use kvist_device::{
    AttentionOp, Buf, BufSpec, CpuDevice, CpuOptions, Device, DeviceError, DeviceMemory, Element,
    Epilogue, KvCache, KvReaders, KvSpec, KvWriteOp, MatmulOp, Op, Residence, RopeOp, RopeStyle,
    SequenceSpan, Weight, WeightShape, WeightSource, packed_weight_bytes,
};
use kvist_kernels::Isa;

/// Values in [-1, 1), the same for the same seed.
fn values(seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|i| (mix64(seed << 32 | i) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn device(threads: usize, isa: Isa) -> CpuDevice {
    let threads = NonZeroUsize::new(threads).expect("not zero");
    CpuDevice::new(CpuOptions { threads, isa }).expect("threads")
}

/// Every tier there is, on one thread and on more threads than cores.
fn devices() -> Vec<CpuDevice> {
    let threads = [1, 3];
    Isa::available()
        .iter()
        .flat_map(|isa| threads.map(|n| device(n, *isa)))
        .collect()
}

fn f32s(device: &mut CpuDevice, values: &[f32]) -> Buf {
    let spec = BufSpec {
        label: "test values",
        element: Element::F32,
        len: values.len(),
    };
    let buf = device.alloc(spec).expect("memory");
    device.write_f32(buf, values).expect("it fits");
    buf
}

fn u32s(device: &mut CpuDevice, values: &[u32]) -> Buf {
    let spec = BufSpec {
        label: "test ids",
        element: Element::U32,
        len: values.len(),
    };
    let buf = device.alloc(spec).expect("memory");
    device.write_u32(buf, values).expect("it fits");
    buf
}

fn weight(
    device: &mut CpuDevice,
    (rows, cols): (usize, usize),
    residence: Residence,
) -> (Weight, Vec<f32>) {
    let matrix = values(7, rows * cols);
    let bytes: Vec<u8> = matrix
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let source = WeightSource {
        format: QuantFormat::F32,
        rows,
        cols,
        bytes: Arc::new(bytes),
    };
    (
        device.prepare(source, residence).expect("a valid weight"),
        matrix,
    )
}

#[track_caller]
fn assert_near(ours: &[f32], exact: &[f64], tolerance: f64) {
    for (i, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        let error = (f64::from(*ours) - exact).abs();
        assert!(error <= tolerance, "element {i}: {ours}, exactly {exact}");
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

#[test]
fn embed_copies_rows_of_packed_and_mapped_tables() {
    for mut device in devices() {
        for residence in [Residence::Packed, Residence::Mapped] {
            let (table, matrix) = weight(&mut device, (37, 24), residence);
            let tokens = u32s(&mut device, &[36, 0, 17, 17]);
            let out = f32s(&mut device, &[0.0; 4 * 24]);
            device
                .run(&[Op::Embed {
                    table,
                    tokens,
                    out,
                    n: 4,
                }])
                .expect("valid");
            let out = device.read_f32(out).expect("f32");
            for (row, token) in out.chunks(24).zip([36, 0, 17, 17]) {
                assert_eq!(row, &matrix[token * 24..(token + 1) * 24]);
            }
        }
    }
}

#[test]
fn matmul_adds_bias_and_residual_and_sees_a_changed_input() {
    let (n, rows, cols) = (5, 19, 40);
    for mut device in devices() {
        let (weight, matrix) = weight(&mut device, (rows, cols), Residence::Packed);
        let x_values = values(1, n * cols);
        let x = f32s(&mut device, &x_values);
        let bias_values = values(2, rows);
        let bias = Some(f32s(&mut device, &bias_values));
        let out = f32s(&mut device, &vec![0.0; n * rows]);
        let op = MatmulOp {
            weight,
            bias,
            x,
            out,
            n,
            epilogue: Epilogue::Store,
        };
        let again = MatmulOp {
            epilogue: Epilogue::Accumulate,
            bias: None,
            ..op
        };
        device
            .run(&[Op::Matmul(op), Op::Matmul(again)])
            .expect("valid");
        let exact = |x: &[f32]| -> Vec<f64> {
            x.chunks(cols)
                .flat_map(|x| matrix.chunks(cols).map(|w| dot(w, x)).collect::<Vec<_>>())
                .collect()
        };
        let twice: Vec<f64> = exact(&x_values)
            .iter()
            .enumerate()
            .map(|(i, y)| 2.0 * y + f64::from(bias_values[i % rows]))
            .collect();
        assert_near(device.read_f32(out).expect("f32"), &twice, 1e-5);
        // What was prepared from the old input must not be used for the new one.
        let changed = values(3, n * cols);
        device.write_f32(x, &changed).expect("it fits");
        device
            .run(&[Op::Matmul(MatmulOp { bias: None, ..op })])
            .expect("valid");
        assert_near(device.read_f32(out).expect("f32"), &exact(&changed), 1e-5);
    }
}

#[test]
fn norm_and_gather_match_f64() {
    let (n, dim, eps) = (3, 48, 1e-5);
    for mut device in devices() {
        let (x_values, weights) = (values(1, n * dim), values(2, dim));
        let x = f32s(&mut device, &x_values);
        let weight = f32s(&mut device, &weights);
        let normed = f32s(&mut device, &vec![0.0; n * dim]);
        let rows = u32s(&mut device, &[2, 0]);
        let picked = f32s(&mut device, &vec![0.0; 2 * dim]);
        device
            .run(&[
                Op::RmsNorm {
                    x,
                    weight,
                    out: normed,
                    n,
                    dim,
                    eps,
                },
                Op::GatherRows {
                    x,
                    rows,
                    out: picked,
                    n: 2,
                    dim,
                },
            ])
            .expect("valid");
        let mut exact = vec![0.0; n * dim];
        for (row, out) in x_values.chunks(dim).zip(exact.chunks_mut(dim)) {
            let mean = dot(row, row) / dim as f64;
            for (i, out) in out.iter_mut().enumerate() {
                *out = f64::from(row[i]) / (mean + f64::from(eps)).sqrt() * f64::from(weights[i]);
            }
        }
        assert_near(device.read_f32(normed).expect("f32"), &exact, 1e-5);
        let picked = device.read_f32(picked).expect("f32");
        assert_eq!(picked[..dim], x_values[2 * dim..]);
        assert_eq!(picked[dim..], x_values[..dim]);
    }
}

#[test]
fn rotation_matches_the_formula_far_into_the_context() {
    const HEAD_DIM: usize = 16;
    const HEADS: usize = 2;
    const HALF: usize = HEAD_DIM / 2;
    let positions = [0u32, 1, 100_003];
    let n = positions.len();
    let inv_freq: Vec<f32> = (0..HALF)
        .map(|i| 10_000f32.powf(-(i as f32) / HALF as f32))
        .collect();
    let x_values = values(4, n * HEADS * HEAD_DIM);
    for style in [RopeStyle::Pairs, RopeStyle::Halves] {
        let mut exact = vec![0.0; x_values.len()];
        for (i, head) in x_values.chunks(HEAD_DIM).enumerate() {
            let position = f64::from(positions[i / HEADS]);
            for (j, freq) in inv_freq.iter().enumerate() {
                let (a, b) = match style {
                    RopeStyle::Pairs => (2 * j, 2 * j + 1),
                    RopeStyle::Halves => (j, j + HALF),
                };
                let (sin, cos) = (position * f64::from(*freq)).sin_cos();
                let (xa, xb) = (f64::from(head[a]), f64::from(head[b]));
                exact[i * HEAD_DIM + a] = xa * cos - xb * sin;
                exact[i * HEAD_DIM + b] = xa * sin + xb * cos;
            }
        }
        for mut device in devices() {
            let x = f32s(&mut device, &x_values);
            let (positions, inv_freq) =
                (u32s(&mut device, &positions), f32s(&mut device, &inv_freq));
            let cos = f32s(&mut device, &vec![0.0; n * HALF]);
            let sin = f32s(&mut device, &vec![0.0; n * HALF]);
            let angles = Op::RopeAngles {
                positions,
                inv_freq,
                cos,
                sin,
                n,
                half: HALF,
            };
            let rope = RopeOp {
                x,
                cos,
                sin,
                n,
                heads: HEADS,
                head_dim: HEAD_DIM,
                style,
            };
            device.run(&[angles, Op::Rope(rope)]).expect("valid");
            assert_near(device.read_f32(x).expect("f32"), &exact, 1e-6);
        }
    }
}

const KV: KvSpec = KvSpec {
    blocks: 8,
    block_size: 4,
    layers: 2,
    kv_heads: 2,
    head_dim: 8,
    dtype: KvDtype::F32,
    readers: KvReaders {
        heads: 4,
        tokens_max: 16,
        context_max: 32,
    },
};

/// Writes `n` rows of keys and values of layer 1 through a scattered block table.
fn filled_pool(device: &mut CpuDevice, n: usize, dtype: KvDtype) -> (KvCache, Vec<u32>) {
    let kv = device.alloc_kv(KvSpec { dtype, ..KV }).expect("memory");
    let table = [5u32, 2, 7, 0];
    let slots: Vec<u32> = (0..n as u32)
        .map(|p| table[p as usize / 4] * 4 + p % 4)
        .collect();
    let k = f32s(device, &values(10, n * 16));
    let v = f32s(device, &values(11, n * 16));
    let slots = u32s(device, &slots);
    device
        .run(&[Op::KvWrite(KvWriteOp {
            kv,
            layer: 1,
            k,
            v,
            slots,
            n,
        })])
        .expect("valid");
    (kv, table[..n.div_ceil(4)].to_vec())
}

/// Causal attention of the last `rows` of `context` positions, four query heads over two of keys.
fn exact_attention(q: &[f32], (context, rows): (usize, usize), scale: f64) -> Vec<f64> {
    let (keys, vals) = (values(10, context * 16), values(11, context * 16));
    let mut out = Vec::new();
    for (row, head) in (0..rows).flat_map(|row| (0..4).map(move |head| (row, head))) {
        let q = &q[(row * 4 + head) * 8..][..8];
        let at = |kv: &[f32], p: usize| kv[p * 16 + head / 2 * 8..][..8].to_vec();
        let visible = context - rows + row + 1;
        let weights: Vec<f64> = (0..visible)
            .map(|p| (dot(q, &at(&keys, p)) * scale).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        out.extend((0..8).map(|i| {
            let mix = |(p, w): (usize, &f64)| w * f64::from(at(&vals, p)[i]);
            weights.iter().enumerate().map(mix).sum::<f64>() / sum
        }));
    }
    out
}

#[test]
fn attention_reads_what_was_written_through_the_table() {
    let (context, rows, heads) = (13, 3, 4);
    // Half a step of the greatest magnitude, 1, and as much again by way of the scores.
    let dtypes = [
        (KvDtype::F32, 1e-6),
        (KvDtype::F16, 1e-3),
        (KvDtype::BF16, 8e-3),
        (KvDtype::Q8_0, 8e-3),
    ];
    for (dtype, tolerance) in dtypes {
        for mut device in devices() {
            let (kv, table) = filled_pool(&mut device, context, dtype);
            let q_values = values(12, rows * heads * KV.head_dim);
            let q = f32s(&mut device, &q_values);
            let out = f32s(&mut device, &vec![0.0; q_values.len()]);
            let spans = u32s(&mut device, &[0; 4]);
            let first_position = (context - rows) as u32;
            let span = SequenceSpan {
                first_row: 0,
                rows: rows as u32,
                first_position,
                table_start: 0,
            };
            device.write_spans(spans, &[span]).expect("it fits");
            let op = AttentionOp {
                kv,
                layer: 1,
                q,
                spans,
                sequences: 1,
                block_tables: u32s(&mut device, &table),
                tables_len: table.len(),
                out,
                n: rows,
                heads,
                scale: 0.35,
            };
            device.run(&[Op::Attention(op)]).expect("valid");
            let exact = exact_attention(&q_values, (context, rows), f64::from(op.scale));
            assert_near(device.read_f32(out).expect("f32"), &exact, tolerance);
        }
    }
}

/// Attention of one row at position `context - 1` of layer 1 through the table.
fn attend(device: &mut CpuDevice, kv: KvCache, (context, table): (usize, &[u32])) -> Vec<f32> {
    let q = f32s(device, &values(12, 4 * KV.head_dim));
    let out = f32s(device, &[0.0; 4 * KV.head_dim]);
    let spans = u32s(device, &[0; 4]);
    let span = SequenceSpan {
        first_row: 0,
        rows: 1,
        first_position: context as u32 - 1,
        table_start: 0,
    };
    device.write_spans(spans, &[span]).expect("it fits");
    let op = AttentionOp {
        kv,
        layer: 1,
        q,
        spans,
        sequences: 1,
        block_tables: u32s(device, table),
        tables_len: table.len(),
        out,
        n: 1,
        heads: 4,
        scale: 0.35,
    };
    device.run(&[Op::Attention(op)]).expect("valid");
    device.read_f32(out).expect("f32").to_vec()
}

#[test]
fn a_copied_or_reloaded_block_serves_as_well_as_the_written_one() {
    let mut device = device(1, Isa::detect());
    let (kv, table) = filled_pool(&mut device, 13, KvDtype::F16);
    let expected = attend(&mut device, kv, (13, &table));
    // 5, 2, 7, 0 -> 1, 2, 3, 0; 5 is read out and comes back as 6.
    let mut bytes = vec![0; device.kv_block_bytes(kv)];
    device.kv_copy(kv, BlockId(5), BlockId(1)).expect("valid");
    device.kv_copy(kv, BlockId(7), BlockId(3)).expect("valid");
    device.kv_read(kv, BlockId(5), &mut bytes).expect("valid");
    assert_eq!(attend(&mut device, kv, (13, &[1, 2, 3, 0])), expected);
    let committed = device.kv_committed(kv);
    assert_eq!(device.kv_release(kv, 0..8), committed);
    assert_eq!(device.kv_committed(kv), Bytes::ZERO);
    let (other, _) = filled_pool(&mut device, 13, KvDtype::F16);
    device.kv_load(other, BlockId(6), &bytes).expect("valid");
    assert_eq!(attend(&mut device, other, (13, &[6, 2, 7, 0])), expected);
}

#[test]
fn blocks_outside_the_pool_and_wrong_lengths_are_refused() {
    let mut device = device(1, Isa::detect());
    let kv = device.alloc_kv(KV).expect("memory");
    let whole = vec![0; device.kv_block_bytes(kv)];
    let mut short = vec![0; whole.len() - 1];
    let (last, beyond) = (BlockId(7), BlockId(8));
    #[track_caller]
    fn assert_refused(result: Result<(), DeviceError>, culprit: (&str, usize, usize)) {
        match result.expect_err("misuse") {
            DeviceError::OutOfRange {
                what, limit, given, ..
            } => assert_eq!((what, limit, given), culprit),
            other => panic!("{other}"),
        }
    }
    assert_refused(device.kv_copy(kv, beyond, last), ("block", 8, 8));
    assert_refused(device.kv_copy(kv, last, beyond), ("block", 8, 8));
    assert_refused(device.kv_load(kv, beyond, &whole), ("block", 8, 8));
    let lengths = ("length", whole.len(), short.len());
    assert_refused(device.kv_load(kv, last, &short), lengths);
    assert_refused(device.kv_read(kv, last, &mut short), lengths);
    assert_eq!(device.kv_committed(kv), Bytes::ZERO, "nothing was written");
}

#[test]
fn memory_is_told_by_purpose() {
    let mut device = device(1, Isa::detect());
    let before = device.memory();
    assert_eq!(before, DeviceMemory::default());
    f32s(&mut device, &[0.0; 100]);
    u32s(&mut device, &[0; 7]);
    f32s(&mut device, &[0.0; 20]);
    weight(&mut device, (16, 64), Residence::Packed);
    device.reserve(4).expect("memory");
    let scratch = device.memory().scratch;
    device.reserve(8).expect("memory");
    let kv = device.alloc_kv(KV).expect("memory");
    let memory = device.memory();
    let labels = [("test values", Bytes(480)), ("test ids", Bytes(28))];
    assert_eq!(memory.buffers, labels);
    assert!(memory.weights > Bytes::ZERO && memory.scratch > scratch);
    let reserved = Bytes::of_len(8 * device.kv_block_bytes(kv));
    assert_eq!(memory.kv_reserved, reserved);
    assert_eq!(memory.kv_committed, Bytes::ZERO);
    let (filled, _) = filled_pool(&mut device, 13, KvDtype::F32);
    let committed = device.kv_committed(filled);
    assert!(committed > Bytes::ZERO);
    assert_eq!(device.memory().kv_committed, committed);
}

#[test]
fn misuse_is_an_error_that_names_the_operation() {
    let mut device = device(1, Isa::detect());
    let (table, _) = weight(&mut device, (8, 8), Residence::Mapped);
    let x = f32s(&mut device, &[0.0; 64]);
    let ones = f32s(&mut device, &[1.0; 8]);
    let small = f32s(&mut device, &[0.0; 4]);
    let ids = u32s(&mut device, &[8, 0, 0, 0]);
    let run = |device: &mut CpuDevice, op: Op| device.run(&[op]).expect_err("misuse");

    let token = run(
        &mut device,
        Op::Embed {
            table,
            tokens: ids,
            out: x,
            n: 1,
        },
    );
    assert!(matches!(
        token,
        DeviceError::OutOfRange {
            op: "embed",
            limit: 8,
            given: 8,
            ..
        }
    ));
    let row = run(
        &mut device,
        Op::GatherRows {
            x,
            rows: ids,
            out: small,
            n: 1,
            dim: 8,
        },
    );
    assert!(matches!(
        row,
        DeviceError::OutOfRange {
            op: "gather_rows",
            limit: 8,
            given: 8,
            ..
        }
    ));
    let norm = |out, dim| Op::RmsNorm {
        x,
        weight: ones,
        out,
        n: 1,
        dim,
        eps: 1e-5,
    };
    let short = run(&mut device, norm(small, 5));
    assert!(matches!(
        short,
        DeviceError::TooShort {
            op: "rms_norm",
            have: 4,
            needed: 5,
            ..
        }
    ));
    let mixed = run(&mut device, norm(ids, 1));
    assert!(matches!(
        mixed,
        DeviceError::WrongBuffer { op: "rms_norm", .. }
    ));
    let aliased = run(&mut device, norm(x, 1));
    assert!(matches!(
        aliased,
        DeviceError::WrongBuffer { op: "rms_norm", .. }
    ));
    let matmul = MatmulOp {
        weight: table,
        bias: None,
        x,
        out: small,
        n: 1,
        epilogue: Epilogue::Store,
    };
    assert!(matches!(
        run(&mut device, Op::Matmul(matmul)),
        DeviceError::NotAMatrix { .. }
    ));
    let too_long = device.write_u32(ids, &[0; 5]).expect_err("misuse");
    assert!(matches!(
        too_long,
        DeviceError::TooShort {
            have: 4,
            needed: 5,
            ..
        }
    ));
    // A refused operation leaves its buffers usable.
    device.run(&[norm(small, 4)]).expect("valid");
}

#[test]
fn attention_checks_every_index_before_following_it() {
    let mut device = device(1, Isa::detect());
    let (kv, _) = filled_pool(&mut device, 4, KvDtype::F32);
    let q = f32s(&mut device, &[0.0; 32]);
    let out = f32s(&mut device, &[0.0; 32]);
    let spans = u32s(&mut device, &[0; 4]);
    let block_tables = u32s(&mut device, &[5]);
    let op = AttentionOp {
        kv,
        layer: 1,
        q,
        spans,
        sequences: 1,
        block_tables,
        tables_len: 1,
        out,
        n: 1,
        heads: 4,
        scale: 1.0,
    };
    let good = SequenceSpan {
        first_row: 0,
        rows: 1,
        first_position: 3,
        table_start: 0,
    };
    #[track_caller]
    fn assert_blames(result: Result<(), DeviceError>, culprit: &str) {
        let error = result.expect_err("misuse");
        assert!(
            matches!(error, DeviceError::OutOfRange { what, .. } if what == culprit),
            "{error}"
        );
    }
    for (culprit, span) in [
        (
            "row",
            SequenceSpan {
                first_row: 1,
                ..good
            },
        ),
        ("row", SequenceSpan { rows: 0, ..good }),
        (
            "block table entry",
            SequenceSpan {
                first_position: 4,
                ..good
            },
        ),
        (
            "block table entry",
            SequenceSpan {
                table_start: 1,
                ..good
            },
        ),
    ] {
        device.write_spans(spans, &[span]).expect("it fits");
        assert_blames(device.run(&[Op::Attention(op)]), culprit);
    }
    device.write_spans(spans, &[good]).expect("it fits");
    assert_blames(
        device.run(&[Op::Attention(AttentionOp { layer: 2, ..op })]),
        "layer",
    );
    assert_blames(
        device.run(&[Op::Attention(AttentionOp { heads: 3, ..op })]),
        "heads",
    );
    device.write_u32(block_tables, &[8]).expect("it fits");
    assert_blames(device.run(&[Op::Attention(op)]), "block");
    device.write_u32(block_tables, &[5]).expect("it fits");
    device.run(&[Op::Attention(op)]).expect("valid");
    let slots = u32s(&mut device, &[32]);
    let write = KvWriteOp {
        kv,
        layer: 1,
        k: q,
        v: out,
        slots,
        n: 1,
    };
    assert_blames(device.run(&[Op::KvWrite(write)]), "slot");
    let slots = u32s(&mut device, &[0]);
    let write = KvWriteOp {
        layer: 2,
        slots,
        ..write
    };
    assert_blames(device.run(&[Op::KvWrite(write)]), "layer");
}

#[test]
fn a_weight_must_have_the_bytes_its_shape_says() {
    let mut device = device(1, Isa::detect());
    let source = |rows, cols, len| WeightSource {
        format: QuantFormat::Q4_0,
        rows,
        cols,
        bytes: Arc::new(vec![0u8; len]),
    };
    for (rows, cols, len) in [(2, 32, 35), (2, 33, 36), (usize::MAX, 32, 36)] {
        for residence in [Residence::Packed, Residence::Mapped, Residence::Streamed] {
            let refused = device.prepare(source(rows, cols, len), residence);
            assert!(matches!(refused, Err(DeviceError::BadWeight { .. })));
        }
    }
    assert!(device.prepare(source(2, 32, 36), Residence::Packed).is_ok());
    let packed = packed_weight_bytes(QuantFormat::Q4_0, 2, 32).expect("whole quant blocks");
    assert_eq!(
        device.memory().weights,
        packed,
        "mapped ones are not counted"
    );
}

#[test]
fn announced_weights_give_the_same_products_and_count_the_same() {
    for mut device in devices() {
        let (rows, cols) = (40, 96);
        let shape = WeightShape {
            format: QuantFormat::F32,
            rows,
            cols,
        };
        // The third is one too many.
        device.expect_packed(&[shape; 2]).expect("memory");
        let packed = [0; 3].map(|_| weight(&mut device, (rows, cols), Residence::Packed));
        let one = packed_weight_bytes(QuantFormat::F32, rows, cols).expect("whole");
        assert_eq!(device.memory().weights, Bytes(3 * one.0));
        let input = values(3, cols);
        let x = f32s(&mut device, &input);
        for (weight, matrix) in packed {
            let out = f32s(&mut device, &vec![0.0; rows]);
            let product = MatmulOp {
                weight,
                bias: None,
                x,
                out,
                n: 1,
                epilogue: Epilogue::Store,
            };
            device.run(&[Op::Matmul(product)]).expect("a valid product");
            let got = device.read_f32(out).expect("a buffer").to_vec();
            for (got, row) in got.iter().zip(matrix.chunks_exact(cols)) {
                let exact: f64 = (row.iter().zip(&input))
                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
                    .sum();
                assert!(
                    (f64::from(*got) - exact).abs() < 1e-4,
                    "{got}, exactly {exact}"
                );
            }
        }
    }
}
