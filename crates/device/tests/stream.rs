//! Streamed weights give the bits of packed ones, whatever the order of operations; what goes wrong
//! with their file is an error.
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // test sizes are tiny

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kvist_base::{QuantFormat, mix64};
use kvist_device::{
    Buf, BufSpec, CpuDevice, CpuOptions, Device, DeviceError, Element, Epilogue, MatmulOp, Op,
    Residence, SourceError, Weight, WeightBytes, WeightSource,
};
use kvist_kernels::Isa;

/// Every width is whole quant blocks of every format.
const COLS: usize = 256;
const TOKENS: usize = 130;

fn random(state: &mut u64, limit: usize) -> usize {
    *state = mix64(*state);
    (*state % limit as u64) as usize
}

fn values(seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|i| (mix64(seed << 32 | i) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// `rows` rows of `COLS` weights.
fn encoded(seed: u64, format: QuantFormat, rows: usize) -> Vec<u8> {
    let row_bytes = format.row_bytes(COLS).expect("whole blocks");
    let mut raw = vec![0; rows * row_bytes];
    for (row, out) in raw.chunks_exact_mut(row_bytes).enumerate() {
        kvist_kernels::quant::encode_row(format, &values(seed << 8 | row as u64, COLS), out);
    }
    raw
}

fn device(threads: usize) -> CpuDevice {
    let threads = NonZeroUsize::new(threads).expect("not zero");
    let isa = Isa::detect();
    CpuDevice::new(CpuOptions { threads, isa }).expect("threads")
}

fn buffer(device: &mut CpuDevice, values: &[f32]) -> Buf {
    let spec = BufSpec {
        label: "test values",
        element: Element::F32,
        len: values.len(),
    };
    let buf = device.alloc(spec).expect("memory");
    device.write_f32(buf, values).expect("it fits");
    buf
}

/// Four square matrices, so that products can follow each other, and three buffers.
struct Bench {
    device: CpuDevice,
    weights: Vec<Weight>,
    buffers: Vec<Buf>,
}

impl Bench {
    fn new(threads: usize, residence: impl Fn(usize) -> Residence) -> Self {
        let mut device = device(threads);
        let formats = [
            QuantFormat::Q4K,
            QuantFormat::Q4_0,
            QuantFormat::F16,
            QuantFormat::Q6K,
        ];
        let weights = formats.iter().enumerate().map(|(i, format)| {
            let source = WeightSource {
                format: *format,
                rows: COLS,
                cols: COLS,
                bytes: Arc::new(encoded(i as u64 + 1, *format, COLS)),
            };
            device
                .prepare(source, residence(i))
                .expect("a valid weight")
        });
        let weights = weights.collect();
        device.reserve(TOKENS).expect("memory");
        let buffers = (0..3)
            .map(|seed| buffer(&mut device, &values(seed + 50, TOKENS * COLS)))
            .collect();
        Self {
            device,
            weights,
            buffers,
        }
    }

    /// Runs of random products; the bits of all buffers after each.
    fn play(&mut self, seed: u64) -> Vec<Vec<u32>> {
        let mut state = seed;
        let mut seen = Vec::new();
        for _ in 0..12 {
            let ops: Vec<Op> = (0..random(&mut state, 7))
                .map(|_| {
                    let out = random(&mut state, 3);
                    let x = (out + 1 + random(&mut state, 2)) % 3;
                    let epilogue = [Epilogue::Store, Epilogue::Accumulate][random(&mut state, 2)];
                    Op::Matmul(MatmulOp {
                        weight: self.weights[random(&mut state, 4)],
                        bias: None,
                        x: self.buffers[x],
                        out: self.buffers[out],
                        n: [1, 2, 7, TOKENS][random(&mut state, 4)],
                        epilogue,
                    })
                })
                .collect();
            self.device.run(&ops).expect("valid operations");
            for buf in &self.buffers {
                let values = self.device.read_f32(*buf).expect("f32");
                seen.push(values.iter().map(|value| value.to_bits()).collect());
            }
        }
        seen
    }
}

#[test]
fn any_placement_gives_the_same_bits_under_random_operations() {
    for seed in 1..=6 {
        let expected = Bench::new(1, |_| Residence::Packed).play(seed);
        for threads in [1, 2, 3] {
            for streamed in [0b1111u64, 0b0101, 0b1000] {
                let residence = |i: usize| match streamed >> i & 1 {
                    1 => Residence::Streamed,
                    _ => Residence::Packed,
                };
                let mut bench = Bench::new(threads, residence);
                let seen = bench.play(seed);
                assert!(
                    seen == expected,
                    "seed {seed}, {threads} threads, streamed {streamed:b}"
                );
            }
        }
    }
}

#[test]
fn what_was_streamed_is_counted() {
    let mut bench = Bench::new(2, |i| match i {
        1 => Residence::Streamed,
        _ => Residence::Packed,
    });
    assert_eq!(bench.device.stream_stats().bytes_read.0, 0);
    let op = |weight| {
        Op::Matmul(MatmulOp {
            weight,
            bias: None,
            x: bench.buffers[0],
            out: bench.buffers[1],
            n: TOKENS,
            epilogue: Epilogue::Store,
        })
    };
    let ops = [op(bench.weights[0]), op(bench.weights[1])];
    bench.device.run(&ops).expect("valid");
    bench.device.run(&ops).expect("valid");
    let stats = bench.device.stream_stats();
    let bytes = QuantFormat::Q4_0.row_bytes(COLS).expect("whole blocks") * COLS;
    assert_eq!(
        stats.bytes_read.0,
        2 * bytes as u64,
        "once a run, however many tokens"
    );
    assert_eq!(stats.panels, 2 * COLS as u64 / 16);
}

/// Bytes that can be made to fail, and that note what was asked for.
struct Troubled {
    bytes: Vec<u8>,
    is_cut_off: AtomicBool,
    is_changed: AtomicBool,
    panics_ahead: bool,
    asked: AtomicUsize,
}

impl Troubled {
    fn new(panics_ahead: bool) -> Arc<Self> {
        Arc::new(Self {
            bytes: encoded(9, QuantFormat::Q4K, COLS),
            is_cut_off: AtomicBool::new(false),
            is_changed: AtomicBool::new(false),
            panics_ahead,
            asked: AtomicUsize::new(0),
        })
    }
}

impl WeightBytes for Troubled {
    fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), SourceError> {
        if self.is_cut_off.load(Ordering::SeqCst) && at > self.bytes.len() / 2 {
            return Err("model.gguf is cut off".into());
        }
        self.bytes.read_at(at, out)
    }

    fn will_need(&self, part: Range<usize>) {
        assert!(!self.panics_ahead, "a planted panic");
        self.asked.fetch_add(part.len(), Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), SourceError> {
        if self.is_changed.load(Ordering::SeqCst) {
            return Err("model.gguf has changed".into());
        }
        Ok(())
    }
}

/// A device that streams `bytes`, and the product that does.
fn streaming(threads: usize, bytes: &Arc<Troubled>) -> (CpuDevice, Op) {
    let mut device = device(threads);
    let source = WeightSource {
        format: QuantFormat::Q4K,
        rows: COLS,
        cols: COLS,
        bytes: Arc::<Troubled>::clone(bytes),
    };
    let weight = device
        .prepare(source, Residence::Streamed)
        .expect("a valid weight");
    let x = buffer(&mut device, &values(3, COLS));
    let out = buffer(&mut device, &vec![0.0; COLS]);
    let op = Op::Matmul(MatmulOp {
        weight,
        bias: None,
        x,
        out,
        n: 1,
        epilogue: Epilogue::Store,
    });
    (device, op)
}

#[test]
fn a_file_that_ends_or_changes_is_an_error_and_not_the_end() {
    for threads in [1, 3] {
        let bytes = Troubled::new(false);
        let (mut device, op) = streaming(threads, &bytes);
        device.run(&[op]).expect("nothing is wrong yet");
        for (trouble, text) in [
            (&bytes.is_cut_off, "model.gguf is cut off"),
            (&bytes.is_changed, "model.gguf has changed"),
        ] {
            trouble.store(true, Ordering::SeqCst);
            let error = device.run(&[op]).expect_err("the bytes are not there");
            assert!(matches!(error, DeviceError::Unreadable(_)), "{error:?}");
            assert!(error.to_string().contains(text), "{error}");
            trouble.store(false, Ordering::SeqCst);
            device.run(&[op]).expect("all is well again");
        }
    }
}

#[test]
fn a_weight_that_cannot_be_read_while_loading_is_an_error() {
    let bytes = Troubled::new(false);
    bytes.is_cut_off.store(true, Ordering::SeqCst);
    let source = WeightSource {
        format: QuantFormat::Q4K,
        rows: COLS,
        cols: COLS,
        bytes,
    };
    let refused = device(2).prepare(source, Residence::Packed);
    assert!(matches!(refused, Err(DeviceError::Unreadable(_))));
}

#[test]
fn the_weights_of_the_next_run_are_asked_for_in_this_one() {
    let bytes = Troubled::new(false);
    let len = bytes.bytes.len();
    let (mut device, op) = streaming(1, &bytes);
    for _ in 0..3 {
        device.run(&[op, op]).expect("valid");
    }
    // The thread has seen every question when it has ended.
    drop(device);
    // Each weight once a run, and the run that did not come any more.
    assert_eq!(bytes.asked.load(Ordering::SeqCst), 4 * 2 * len);
}

#[test]
fn a_dead_read_ahead_thread_is_an_error() {
    let bytes = Troubled::new(true);
    let (mut device, op) = streaming(1, &bytes);
    // It dies in its own time: on a busy machine, only after printing its last words.
    let ended = (0..10_000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        matches!(device.run(&[op]), Err(DeviceError::ReadAheadEnded))
    });
    assert!(ended, "the panic goes unnoticed");
}

#[test]
fn a_streamed_weight_is_no_table() {
    let bytes = Troubled::new(false);
    let (mut device, op) = streaming(1, &bytes);
    let Op::Matmul(op) = op else {
        unreachable!("a product")
    };
    let spec = BufSpec {
        label: "test ids",
        element: Element::U32,
        len: 1,
    };
    let tokens = device.alloc(spec).expect("memory");
    let embed = Op::Embed {
        table: op.weight,
        tokens,
        out: op.out,
        n: 1,
    };
    let error = device.run(&[embed]);
    assert!(matches!(error, Err(DeviceError::NotATable { .. })));
}
