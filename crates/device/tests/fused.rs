//! Fused operations give the bits of the operations they stand for, wherever the weights are and
//! whether or not they can share a run.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // test sizes are tiny

use std::num::NonZeroUsize;
use std::sync::Arc;

use kvist_base::{QuantFormat, mix64};
use kvist_device::{
    Buf, BufSpec, CpuDevice, CpuOptions, Device, DeviceError, Element, Epilogue, GatedOp, MatmulOp,
    Op, Projection, QkvOp, Residence, Weight, WeightSource,
};
use kvist_kernels::Isa;

const COLS: usize = 256;
/// Whole panels, a part of one, and less than one.
const ROWS: [usize; 3] = [64, 40, 9];
const TOKENS: [usize; 3] = [1, 7, 130];

const FORMATS: [[QuantFormat; 3]; 3] = {
    use QuantFormat::{F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q6K};
    // The last three want their inputs in different forms.
    [[Q4_1, Q5_0, Q4_0], [Q4K, Q6K, Q4K], [Q4K, F16, F32]]
};

const RESIDENCES: [[Residence; 3]; 3] = {
    use Residence::{Packed, Streamed};
    [
        [Packed, Packed, Packed],
        [Packed, Streamed, Packed],
        [Streamed, Streamed, Streamed],
    ]
};

fn values(seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|i| (mix64(seed << 32 | i) >> 40) as f32 / (1 << 22) as f32 - 2.0)
        .collect()
}

struct Bench(CpuDevice);

impl Bench {
    fn new(threads: usize, isa: Isa) -> Self {
        let threads = NonZeroUsize::new(threads).expect("not zero");
        Self(CpuDevice::new(CpuOptions { threads, isa }).expect("threads"))
    }

    fn weight(&mut self, format: QuantFormat, rows: usize, residence: Residence) -> Weight {
        let row_bytes = format.row_bytes(COLS).expect("whole blocks");
        let mut raw = vec![0; rows * row_bytes];
        for (row, out) in raw.chunks_exact_mut(row_bytes).enumerate() {
            let seed = (rows as u64) << 20 | row as u64;
            kvist_kernels::quant::encode_row(format, &values(seed, COLS), out);
        }
        let source = WeightSource {
            format,
            rows,
            cols: COLS,
            bytes: Arc::new(raw),
        };
        self.0.prepare(source, residence).expect("a valid weight")
    }

    fn buffer(&mut self, values: &[f32]) -> Buf {
        let spec = BufSpec {
            label: "test values",
            element: Element::F32,
            len: values.len(),
        };
        let buf = self.0.alloc(spec).expect("memory");
        self.0.write_f32(buf, values).expect("it fits");
        buf
    }

    fn bits(&self, buf: Buf) -> Vec<u32> {
        let values = self.0.read_f32(buf).expect("f32");
        values.iter().map(|value| value.to_bits()).collect()
    }
}

fn store(projection: &Projection, x: Buf, n: usize) -> Op {
    Op::Matmul(MatmulOp {
        weight: projection.weight,
        bias: projection.bias,
        x,
        out: projection.out,
        n,
        epilogue: Epilogue::Store,
    })
}

/// Runs `check` on every tier, with weights of each mixture of formats and residences.
fn in_every_mixture(rows: [usize; 3], mut check: impl FnMut(&mut Bench, [Weight; 3], usize)) {
    for (isa, threads) in Isa::available().into_iter().zip([1, 3, 2].iter().cycle()) {
        for (formats, residences) in FORMATS.iter().flat_map(|f| RESIDENCES.map(|r| (f, r))) {
            let mut bench = Bench::new(*threads, isa);
            let weights = [0, 1, 2].map(|i| bench.weight(formats[i], rows[i], residences[i]));
            bench.0.reserve(130).expect("memory");
            for n in TOKENS {
                check(&mut bench, weights, n);
            }
        }
    }
}

#[test]
fn queries_keys_and_values_are_three_products() {
    in_every_mixture(ROWS, |bench, weights, n| {
        let x = bench.buffer(&values(1, n * COLS));
        let bias = bench.buffer(&values(2, ROWS[1]));
        let projection = |bench: &mut Bench, i: usize| Projection {
            weight: weights[i],
            bias: (i == 1).then_some(bias),
            out: bench.buffer(&vec![7.0; n * ROWS[i]]),
        };
        let fused = [0, 1, 2].map(|i| projection(bench, i));
        let apart = [0, 1, 2].map(|i| projection(bench, i));
        let qkv = Op::Qkv(QkvOp {
            x,
            n,
            projections: fused,
        });
        for seed in [3, 4] {
            // The second time from a changed input: nothing of the old one may be left.
            bench.0.write_f32(x, &values(seed, n * COLS)).expect("fits");
            bench.0.run(&[qkv]).expect("valid");
            let ops = apart.map(|projection| store(&projection, x, n));
            bench.0.run(&ops).expect("valid");
            for (fused, apart) in fused.iter().zip(&apart) {
                assert_eq!(bench.bits(fused.out), bench.bits(apart.out));
            }
        }
    });
}

#[test]
fn a_gated_product_is_two_products_and_a_gate() {
    in_every_mixture([40; 3], |bench, weights, n| {
        let x = bench.buffer(&values(1, n * COLS));
        let mut out = || bench.buffer(&vec![7.0; n * 40]);
        let (fused, gate, up) = (out(), out(), out());
        let op = GatedOp {
            gate: weights[0],
            up: weights[1],
            x,
            out: fused,
            n,
        };
        let projection = |weight, out| Projection {
            weight,
            bias: None,
            out,
        };
        let apart = [
            store(&projection(weights[0], gate), x, n),
            store(&projection(weights[1], up), x, n),
        ];
        bench.0.run(&[Op::Gated(op)]).expect("valid");
        bench.0.run(&apart).expect("valid");
        let read = |buf| bench.0.read_f32(buf).expect("f32").to_vec();
        let (mut gated, up) = (read(gate), read(up));
        kvist_kernels::silu_mul(Isa::SCALAR, &mut gated, &up);
        let gated: Vec<u32> = gated.iter().map(|value| value.to_bits()).collect();
        assert_eq!(bench.bits(fused), gated);
    });
}

#[test]
fn misuse_is_an_error_that_names_the_operation() {
    let mut bench = Bench::new(2, Isa::detect());
    let [a, b] = [32, 48].map(|rows| bench.weight(QuantFormat::Q8_0, rows, Residence::Packed));
    bench.0.reserve(1).expect("memory");
    let x = bench.buffer(&values(1, COLS));
    let [small, large, other] = [[0.0; 32], [0.0; 32], [0.0; 32]].map(|v| bench.buffer(&v));
    let gated = GatedOp {
        gate: a,
        up: b,
        x,
        out: small,
        n: 1,
    };
    let error = bench.0.run(&[Op::Gated(gated)]).expect_err("other shapes");
    assert!(matches!(
        error,
        DeviceError::OutOfRange {
            op: "gated",
            what: "rows of up",
            limit: 32,
            given: 48,
        }
    ));
    let qkv = |weights: [Weight; 3], outs: [Buf; 3]| {
        let projections = [0, 1, 2].map(|i| Projection {
            weight: weights[i],
            bias: None,
            out: outs[i],
        });
        Op::Qkv(QkvOp {
            x,
            n: 1,
            projections,
        })
    };
    let twice = bench.0.run(&[qkv([a; 3], [small, large, small])]);
    assert!(matches!(
        twice.expect_err("one output for two products"),
        DeviceError::WrongBuffer { op: "qkv", .. }
    ));
    let short = bench.0.run(&[qkv([a, b, a], [small, large, other])]);
    assert!(matches!(
        short.expect_err("no room"),
        DeviceError::TooShort {
            op: "qkv",
            have: 32,
            needed: 48,
            ..
        }
    ));
    // A refused operation leaves its buffers usable.
    let valid = qkv([a; 3], [small, large, other]);
    bench.0.run(&[valid]).expect("valid");
}
