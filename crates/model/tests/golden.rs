//! Tiny random models of each family against logits and greedy tokens that the reference
//! implementation computed in f32, run whole, in chunks, and from a shuffled pool: the bits of a row
//! must not depend on how it got into the batch.
#![allow(clippy::cast_possible_truncation)] // test sizes are tiny

use std::num::NonZeroUsize;

use kvist_base::KvDtype;
use kvist_device::{
    CpuDevice, CpuOptions, Device, ForwardBatch, KvCache, KvReaders, KvSpec, SequenceSpan,
};
use kvist_kernels::Isa;
use kvist_model::{Model, ModelError, Placement, StepShape};
use kvist_testkit::tiny::TinyModel;
use kvist_weights::GgufFile;

const BLOCK_SIZE: usize = 4;
const BLOCKS: usize = 32;
const CONTEXT: usize = 96;

struct Runner {
    device: CpuDevice,
    model: Box<dyn Model>,
    kv: KvCache,
    table: Vec<u32>,
}

impl Runner {
    fn new(tiny: &TinyModel, threads: usize, isa: Isa, test: &str) -> Self {
        Self::placed(tiny, (threads, isa), test, &Placement::default())
    }

    fn placed(
        tiny: &TinyModel,
        (threads, isa): (usize, Isa),
        test: &str,
        placement: &Placement,
    ) -> Self {
        let path = tiny.write_temporary(test);
        let file = GgufFile::open(&path).expect("testkit writes valid files");
        std::fs::remove_file(path).expect("just written");
        Self::open(&file, (threads, isa), placement)
    }

    fn open(file: &GgufFile, (threads, isa): (usize, Isa), placement: &Placement) -> Self {
        let threads = NonZeroUsize::new(threads).expect("not zero");
        let mut device = CpuDevice::new(CpuOptions { threads, isa }).expect("threads");
        let config = kvist_model::open(file).expect("a supported architecture");
        let kv = device
            .alloc_kv(KvSpec {
                blocks: BLOCKS,
                block_size: BLOCK_SIZE,
                layers: config.layers,
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                dtype: KvDtype::F32,
                readers: KvReaders {
                    heads: config.heads,
                    tokens_max: CONTEXT,
                    context_max: CONTEXT,
                },
            })
            .expect("memory for a test");
        let shape = StepShape {
            tokens_max: CONTEXT,
            sequences_max: CONTEXT,
            logit_rows_max: CONTEXT,
            tables_max: BLOCKS,
        };
        let model =
            kvist_model::load(file, &mut device, shape, placement).expect("a complete model");
        // Not the identity: a block's place in the pool must not matter.
        let table = (0..BLOCKS as u32)
            .map(|i| (i * 13 + 5) % BLOCKS as u32)
            .collect();
        Self {
            device,
            model,
            kv,
            table,
        }
    }

    /// Logits of every row of `tokens`, which begin at position `first`.
    fn forward(&mut self, tokens: &[u32], first: usize) -> Vec<Vec<f32>> {
        self.try_forward(tokens, first).expect("a valid batch")
    }

    fn try_forward(&mut self, tokens: &[u32], first: usize) -> Result<Vec<Vec<f32>>, ModelError> {
        let positions: Vec<u32> = (first as u32..).take(tokens.len()).collect();
        let slot = |position: &u32| {
            let position = *position as usize;
            self.table[position / BLOCK_SIZE] * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32
        };
        let slots: Vec<u32> = positions.iter().map(slot).collect();
        let logit_rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let spans = [SequenceSpan {
            first_row: 0,
            rows: tokens.len() as u32,
            first_position: first as u32,
            table_start: 0,
        }];
        let batch = ForwardBatch {
            tokens,
            positions: &positions,
            slots: &slots,
            spans: &spans,
            block_tables: &self.table,
            logit_rows: &logit_rows,
        };
        self.model.forward(&mut self.device, self.kv, &batch)?;
        let logits = self
            .device
            .read_f32(self.model.logits())
            .expect("f32 logits");
        let vocab_len = self.model.config().vocab_len;
        Ok(logits
            .chunks(vocab_len)
            .take(tokens.len())
            .map(<[f32]>::to_vec)
            .collect())
    }

    fn greedy(&mut self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut known = prompt.to_vec();
        let mut row = self.forward(prompt, 0).pop().expect("a prompt");
        for _ in 0..count {
            let best = (0..row.len())
                .max_by(|a, b| row[*a].total_cmp(&row[*b]))
                .expect("logits");
            known.push(best as u32);
            row = self
                .forward(&[best as u32], known.len() - 1)
                .pop()
                .expect("one row");
        }
        known.split_off(prompt.len())
    }
}

#[test]
fn logits_and_greedy_tokens_match_the_reference() {
    for name in TinyModel::NAMES {
        let tiny = TinyModel::load(name);
        for isa in Isa::available() {
            let mut runner = Runner::new(&tiny, 2, isa, "reference");
            let rows = runner.forward(&tiny.golden.input_ids, 0);
            let mut worst = 0.0f32;
            for (position, expected) in tiny.golden.positions.iter().zip(&tiny.golden.logits) {
                for (ours, golden) in rows[*position].iter().zip(expected) {
                    worst = worst.max((ours - golden).abs());
                }
            }
            println!("{name} on {isa}: max |Δlogit| {worst:.2e}");
            assert!(worst <= 1e-3, "{name} on {isa}: max |Δlogit| {worst:e}");
            let greedy = runner.greedy(&tiny.golden.input_ids, tiny.golden.greedy.len());
            assert_eq!(greedy, tiny.golden.greedy, "{name} on {isa}");
        }
    }
}

#[test]
fn chunks_threads_and_tiers_do_not_change_a_bit() {
    for name in TinyModel::NAMES {
        let tiny = TinyModel::load(name);
        let tokens = &tiny.golden.input_ids;
        let whole = Runner::new(&tiny, 1, Isa::SCALAR, "bits").forward(tokens, 0);
        for isa in Isa::available() {
            for (threads, chunk) in [(1, 1), (2, 3), (3, 7), (2, 40)] {
                let mut runner = Runner::new(&tiny, threads, isa, "bits");
                let mut rows = Vec::new();
                for (i, piece) in tokens.chunks(chunk).enumerate() {
                    rows.extend(runner.forward(piece, i * chunk));
                }
                let same = rows.iter().flatten().zip(whole.iter().flatten());
                let differing = same.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                assert_eq!(
                    differing, 0,
                    "{name} on {isa}, {threads} threads, chunks of {chunk}"
                );
            }
        }
    }
}

#[test]
fn layers_streamed_from_the_file_do_not_change_a_bit() {
    let bits = |rows: Vec<Vec<f32>>| -> Vec<u32> {
        rows.iter().flatten().map(|logit| logit.to_bits()).collect()
    };
    for name in TinyModel::NAMES {
        let tiny = TinyModel::load(name);
        let (prompt, next) = tiny.golden.input_ids.split_at(33);
        let isa = Isa::detect();
        let mut resident = Runner::new(&tiny, 2, isa, "streamed");
        let expected = (
            bits(resident.forward(prompt, 0)),
            bits(resident.forward(next, 33)),
        );
        for streamed_layers in [vec![], vec![2], vec![0, 3], vec![0, 1, 2, 3]] {
            for threads in [1, 2] {
                let placement = Placement {
                    streamed_layers: streamed_layers.clone(),
                };
                let mut runner = Runner::placed(&tiny, (threads, isa), "streamed", &placement);
                let given = (
                    bits(runner.forward(prompt, 0)),
                    bits(runner.forward(next, 33)),
                );
                assert!(
                    given == expected,
                    "{name}, layers {streamed_layers:?}, {threads} threads"
                );
                let streamed = runner.device.stream_stats().bytes_read;
                assert_eq!(streamed.0 > 0, !streamed_layers.is_empty());
            }
        }
    }
}

#[test]
fn a_layer_that_is_not_there_cannot_be_streamed() {
    let tiny = TinyModel::load("llama3");
    let path = tiny.write_temporary("no-layer");
    let file = GgufFile::open(&path).expect("testkit writes valid files");
    let (threads, isa) = (NonZeroUsize::MIN, Isa::SCALAR);
    let mut device = CpuDevice::new(CpuOptions { threads, isa }).expect("threads");
    let shape = StepShape {
        tokens_max: 1,
        sequences_max: 1,
        logit_rows_max: 1,
        tables_max: 1,
    };
    let placement = Placement {
        streamed_layers: vec![1, 4],
    };
    let refused = kvist_model::load(&file, &mut device, shape, &placement).map(|_| ());
    let error = refused.expect_err("it has four layers");
    assert!(
        matches!(error, ModelError::NoSuchLayer { given: 4, limit: 4 }),
        "{error}"
    );
    std::fs::remove_file(path).expect("just written");
}

#[test]
fn a_file_cut_off_while_it_is_streamed_is_an_error() {
    let tiny = TinyModel::load("qwen2");
    let path = tiny.write_temporary("cut-off");
    let placement = Placement {
        streamed_layers: vec![1],
    };
    let file = GgufFile::open(&path).expect("testkit writes valid files");
    let mut runner = Runner::open(&file, (2, Isa::detect()), &placement);
    assert!(runner.try_forward(&[1, 2, 3], 0).is_ok());
    let writer = std::fs::File::options().write(true).open(&path);
    writer
        .and_then(|file| file.set_len(4096))
        .expect("it can be cut");
    let error = runner
        .try_forward(&[1, 2, 3], 0)
        .expect_err("half the file is gone");
    assert!(
        error.to_string().contains("cut-off"),
        "names the file: {error}"
    );
    std::fs::remove_file(path).expect("just written");
}
