use super::rows::tests::{decoded, encoded};
use super::split::Piece;
use super::*;
use crate::naive;
use crate::naive::tests::{same_bits, values};
use kvist_base::{KvDtype, mix64};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

const LAYERS: usize = 2;
const LAYER: usize = 1;
const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

#[derive(Clone, Copy, Debug)]
struct Shape {
    head_dim: usize,
    kv_heads: usize,
    group: usize,
    block_size: usize,
    dtype: KvDtype,
}

const SMALL: Shape = Shape {
    head_dim: 16,
    kv_heads: 2,
    group: 3,
    block_size: 4,
    dtype: KvDtype::F16,
};

impl Shape {
    fn layout(&self) -> KvLayout {
        KvLayout {
            block_size: self.block_size,
            layers: LAYERS,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            dtype: self.dtype,
        }
    }

    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn q_values(&self) -> usize {
        self.heads() * self.head_dim
    }

    fn kv_values(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn limits(&self, threads: usize) -> AttentionLimits {
        AttentionLimits {
            threads,
            tokens_max: 64,
            context_max: 2048,
            heads: self.heads(),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        }
    }
}

/// The queries, keys and values of one sequence, all a function of its seed.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sequence {
    fn new(shape: &Shape, seed: u64, len: usize) -> Self {
        let scaled = |seed, len, by: f32| -> Vec<f32> {
            values(seed, len).into_iter().map(|v| v * by).collect()
        };
        let kv = |seed, by| {
            let kv = scaled(seed, len * shape.kv_values(), by);
            let heads = kv.chunks_exact(shape.head_dim);
            heads
                .flat_map(|head| decoded(shape.dtype, &encoded(shape.dtype, head)))
                .collect()
        };
        Self {
            q: scaled(seed, len * shape.q_values(), 2.0),
            k: kv(seed + 1000, 3.0),
            v: kv(seed + 2000, 1.0),
        }
    }
}

/// A step: sequences with the positions it computes, in an arena whose unwritten values are NaN:
/// so all-ones bytes read in every dtype.
struct Step {
    shape: Shape,
    q: Vec<f32>,
    spans: Vec<SequenceSpan>,
    tables: Vec<u32>,
    arena: Vec<u8>,
}

impl Step {
    /// `shuffle` picks which physical blocks the sequences get.
    fn new(shape: Shape, parts: &[(&Sequence, Range<usize>)], shuffle: u64) -> Self {
        let blocks_of = |positions: &Range<usize>| positions.end.div_ceil(shape.block_size);
        let blocks: usize = parts
            .iter()
            .map(|(_, positions)| blocks_of(positions))
            .sum();
        let mut order: Vec<u32> = (0..u32::try_from(blocks).unwrap()).collect();
        if shuffle > 0 {
            order.sort_by_key(|&block| mix64(u64::from(block) + shuffle));
        }
        let arena = vec![0xFF; blocks * shape.layout().block_bytes()];
        let mut step = Self {
            shape,
            q: vec![],
            spans: vec![],
            tables: order,
            arena,
        };
        let mut table_start = 0;
        for (sequence, positions) in parts {
            let as_u32 = |n: usize| u32::try_from(n).unwrap();
            let span = SequenceSpan {
                first_row: as_u32(step.q.len() / shape.q_values()),
                rows: as_u32(positions.len()),
                first_position: as_u32(positions.start),
                table_start: as_u32(table_start),
            };
            step.spans.push(span);
            let width = shape.q_values();
            step.q
                .extend(&sequence.q[positions.start * width..positions.end * width]);
            step.write(sequence, table_start, positions.end);
            table_start += blocks_of(positions);
        }
        step
    }

    fn write(&mut self, sequence: &Sequence, table_start: usize, len: usize) {
        let (layout, width) = (self.shape.layout(), self.shape.kv_values());
        for position in 0..len {
            let block = self.tables[table_start + position / layout.block_size] as usize;
            let slot = block * layout.block_size + position % layout.block_size;
            let span = position * width..(position + 1) * width;
            let (k, v) = (&sequence.k[span.clone()], &sequence.v[span]);
            kv_write(
                Isa::detect(),
                &layout,
                &KvToken {
                    layer: LAYER,
                    slot,
                    k,
                    v,
                },
                &mut self.arena,
            );
        }
    }

    fn batch(&self) -> AttentionBatch<'_> {
        AttentionBatch {
            q: &self.q,
            sequences: &self.spans,
            block_tables: &self.tables,
            heads: self.shape.heads(),
            scale: 1.0 / (self.shape.head_dim as f32).sqrt(),
            layer: LAYER,
            kv: KvView {
                layout: self.shape.layout(),
                bytes: &self.arena,
            },
        }
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let mut scratch = AttentionScratch::new(&self.shape.limits(threads));
        self.run_with(isa, threads, &mut scratch)
    }

    fn run_with(&self, isa: Isa, threads: usize, scratch: &mut AttentionScratch) -> Vec<f32> {
        let pool = Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap();
        let mut out = vec![f32::NAN; self.q.len()];
        paged_attention(isa, &pool, &self.batch(), scratch, &mut out);
        out
    }
}

/// Checks one sequence's rows against the oracle; the tolerance follows from the operands.
fn check(shape: &Shape, sequence: &Sequence, positions: Range<usize>, out: &[f32]) {
    let head_dim = shape.head_dim;
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (row, position) in positions.enumerate() {
        for head in 0..shape.heads() {
            let of_head = |kv: &[f32]| -> Vec<f32> {
                let rows = kv.chunks_exact(shape.kv_values()).take(position + 1);
                let start = head / shape.group * head_dim;
                rows.flat_map(|row| row[start..start + head_dim].to_vec())
                    .collect()
            };
            let (k, v) = (of_head(&sequence.k), of_head(&sequence.v));
            let q = &sequence.q[position * shape.q_values() + head * head_dim..][..head_dim];
            let mut expected = vec![0.0; head_dim];
            naive::attention(q, &k, &v, scale, &mut expected);
            let magnitude = |key: &[f32]| -> f64 {
                q.iter()
                    .zip(key)
                    .map(|(a, b)| f64::from((a * b * scale).abs()))
                    .sum()
            };
            let score = k.chunks_exact(head_dim).map(magnitude).fold(0.0, f64::max);
            // A score rounds once a step of its chain and in scaling; a weight doubles that
            // (its own and the maximum's) and adds exp's; the sums have a step a position.
            let score_error = score * (head_dim as f64 + 2.0);
            let steps = 2.0 * score_error + 2.0 * (position + 1) as f64 + 32.0;
            let tolerance = steps * UNIT_ROUNDOFF;
            let got = &out[row * shape.q_values() + head * head_dim..][..head_dim];
            for (got, exact) in got.iter().zip(&expected) {
                let error = (f64::from(*got) - exact).abs();
                let is_near = error <= tolerance;
                assert!(
                    is_near,
                    "{shape:?} {position} {head}: {got} for {exact} +- {tolerance}"
                );
            }
        }
    }
}

#[test]
fn two_positions_by_hand() {
    let shape = Shape {
        head_dim: 8,
        kv_heads: 1,
        group: 1,
        block_size: 1,
        dtype: KvDtype::F32,
    };
    let mut sequence = Sequence {
        q: vec![0.0; 16],
        k: vec![0.0; 16],
        v: vec![0.0; 16],
    };
    // Scores 0 and ln 3 after the scale: weights 1/4 and 3/4.
    sequence.q[8] = 8f32.sqrt();
    sequence.k[8] = 3f32.ln();
    sequence.v[0] = 8.0;
    sequence.v[8] = 16.0;
    let out = Step::new(shape, &[(&sequence, 0..2)], 0).run(Isa::detect(), 1);
    assert!((out[0] - 8.0).abs() < 1e-6 && (out[8] - 14.0).abs() < 1e-5);
    assert_eq!(out[9..], [0.0; 7]);
}

#[test]
fn layout_offsets_are_those_of_the_drawing() {
    let layout = KvLayout {
        block_size: 4,
        layers: 3,
        kv_heads: 2,
        head_dim: 8,
        dtype: KvDtype::F16,
    };
    let head = 4 * 8 * 2;
    assert_eq!(layout.block_bytes(), 3 * 2 * 2 * head);
    assert_eq!(layout.k_offset(0, 0, 1), head);
    assert_eq!(layout.v_offset(0, 0, 0), 2 * head);
    assert_eq!(layout.k_offset(0, 1, 0), 4 * head);
    assert_eq!(layout.v_offset(5, 2, 1), (5 * 12 + 2 * 4 + 3) * head);
}

#[test]
fn near_the_oracle_in_many_shapes() {
    let heads = [
        (8, 1, 1),
        (16, 2, 2),
        (64, 2, 7),
        (80, 1, 3),
        (96, 1, 1),
        (128, 1, 4),
        (256, 1, 2),
        (40, 2, 1),
        (64, 1, 2),
        (24, 1, 1),
    ];
    let spans = [0..1, 0..33, 31..32, 30..36, 511..514, 1030..1031];
    for (case, (head_dim, kv_heads, group)) in heads.into_iter().enumerate() {
        let block_size = [16, 1, 3, 32][case % 4];
        let dtype = KvDtype::ALL[case % KvDtype::ALL.len()];
        let shape = Shape {
            head_dim,
            kv_heads,
            group,
            block_size,
            dtype,
        };
        let sequence = Sequence::new(&shape, case as u64, 1031);
        for positions in &spans {
            let step = Step::new(shape, &[(&sequence, positions.clone())], 1);
            check(
                &shape,
                &sequence,
                positions.clone(),
                &step.run(Isa::detect(), 2),
            );
        }
    }
}

/// Sequences at different depths, in one batch: chunks of prompts and single tokens.
fn mixed(shape: &Shape) -> Vec<(Sequence, Range<usize>)> {
    let spans = [0..5, 40..41, 505..520, 1100..1101, 3..4, 60..73];
    let sequence = |(seed, positions): (usize, Range<usize>)| {
        (Sequence::new(shape, seed as u64, positions.end), positions)
    };
    spans.into_iter().enumerate().map(sequence).collect()
}

fn borrowed(parts: &[(Sequence, Range<usize>)]) -> Vec<(&Sequence, Range<usize>)> {
    parts
        .iter()
        .map(|(sequence, positions)| (sequence, positions.clone()))
        .collect()
}

#[test]
fn same_bits_on_every_tier_and_thread_count() {
    for dtype in KvDtype::ALL {
        for (head_dim, group) in [(16, 3), (72, 1), (64, 40)] {
            let shape = Shape {
                head_dim,
                group,
                dtype,
                ..SMALL
            };
            let parts = mixed(&shape);
            let step = Step::new(shape, &borrowed(&parts), 0);
            let expected = step.run(Isa::SCALAR, 1);
            assert!(expected.iter().all(|v| v.is_finite()));
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let out = step.run(isa, threads);
                    assert!(
                        same_bits(&out, &expected),
                        "{shape:?} {isa} {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn same_bits_alone_in_a_batch_in_any_chunks_and_in_any_blocks() {
    let parts = mixed(&SMALL);
    let batch = Step::new(SMALL, &borrowed(&parts), 0).run(Isa::detect(), 2);
    let shuffled = Step::new(SMALL, &borrowed(&parts), 99).run(Isa::detect(), 2);
    assert!(same_bits(&shuffled, &batch));
    let mut rows = batch.chunks_exact(SMALL.q_values());
    for (sequence, positions) in &parts {
        let together: Vec<f32> = rows
            .by_ref()
            .take(positions.len())
            .flatten()
            .copied()
            .collect();
        for chunk in [1, 2, 4, 11] {
            let mut chunked = Vec::new();
            for start in positions.clone().step_by(chunk) {
                let end = (start + chunk).min(positions.end);
                for block_size in [4, 5] {
                    let shape = Shape {
                        block_size,
                        ..SMALL
                    };
                    let alone =
                        Step::new(shape, &[(sequence, start..end)], 7).run(Isa::detect(), 1);
                    if block_size == 4 {
                        chunked.extend(alone);
                    } else {
                        assert!(same_bits(&chunked[chunked.len() - alone.len()..], &alone));
                    }
                }
            }
            assert!(same_bits(&chunked, &together), "{positions:?} by {chunk}");
        }
    }
}

#[test]
fn same_bits_whether_partitions_are_apart_or_not() {
    let sequence = Sequence::new(&SMALL, 5, 1700);
    for positions in [1699..1700, 1530..1538] {
        let step = Step::new(SMALL, &[(&sequence, positions)], 3);
        let mut roomy = AttentionScratch::new(&SMALL.limits(3));
        let apart = step.run_with(Isa::detect(), 3, &mut roomy);
        assert!(!roomy.split.merges.is_empty());
        assert!(
            roomy
                .split
                .pieces
                .iter()
                .all(|piece| piece.partitions.len() == 1)
        );
        let mut tight = AttentionScratch::new(&SMALL.limits(3));
        tight.partials.clear();
        let whole = step.run_with(Isa::detect(), 3, &mut tight);
        assert!(tight.split.merges.is_empty());
        assert!(same_bits(&apart, &whole));
    }
}

#[test]
fn a_later_position_cannot_be_seen_even_when_it_is_not_finite() {
    for dtype in KvDtype::ALL {
        let shape = Shape {
            dtype,
            group: 1,
            ..SMALL
        };
        let mut sequence = Sequence::new(&shape, 8, 40);
        let clean = Step::new(shape, &[(&sequence, 0..40)], 0).run(Isa::detect(), 2);
        let bad = 21;
        sequence.v[bad * shape.kv_values()..].fill(f32::INFINITY);
        sequence.k[bad * shape.kv_values()..].fill(f32::NAN);
        for isa in Isa::available() {
            let out = Step::new(shape, &[(&sequence, 0..40)], 0).run(isa, 2);
            let (before, after) = out.split_at(bad * shape.q_values());
            assert!(same_bits(before, &clean[..before.len()]), "{dtype} {isa}");
            assert!(after.iter().all(|v| v.is_nan()), "a fault is not hidden");
        }
    }
}

#[test]
fn very_large_scores_stay_finite() {
    let mut sequence = Sequence::new(&SMALL, 9, 600);
    sequence.q.iter_mut().for_each(|q| *q *= 1e4);
    let step = Step::new(SMALL, &[(&sequence, 590..600)], 0);
    assert!(step.run(Isa::detect(), 2).iter().all(|v| v.abs() <= 1.0));
}

#[test]
fn rows_of_no_sequence_are_left_alone_and_scratch_is_reusable() {
    let (a, b) = (Sequence::new(&SMALL, 1, 600), Sequence::new(&SMALL, 2, 9));
    let mut scratch = AttentionScratch::new(&SMALL.limits(2));
    let deep = Step::new(SMALL, &[(&a, 599..600)], 0);
    let first = deep.run_with(Isa::detect(), 2, &mut scratch);
    let mut sparse = Step::new(SMALL, &[(&b, 5..6), (&b, 7..9)], 0);
    sparse.spans.remove(0);
    let out = sparse.run_with(Isa::detect(), 2, &mut scratch);
    assert!(out[..SMALL.q_values()].iter().all(|v| v.is_nan()));
    check(&SMALL, &b, 7..9, &out[SMALL.q_values()..]);
    assert!(same_bits(
        &deep.run_with(Isa::detect(), 2, &mut scratch),
        &first
    ));
}

#[test]
fn an_empty_batch_does_nothing() {
    let step = Step::new(SMALL, &[], 0);
    assert!(step.run(Isa::detect(), 2).is_empty());
}

#[test]
fn inconsistent_batches_are_refused() {
    let sequence = Sequence::new(&SMALL, 1, 9);
    let refused = |change: &dyn Fn(&mut Step)| {
        let mut step = Step::new(SMALL, &[(&sequence, 0..4), (&sequence, 8..9)], 0);
        change(&mut step);
        catch_unwind(AssertUnwindSafe(|| step.run(Isa::detect(), 2))).is_err()
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|step| step.spans.reverse()));
    assert!(refused(&|step| step.spans[1].rows = 2));
    assert!(refused(&|step| step.spans[1].first_position = 12));
    assert!(refused(&|step| step.tables[0] = 1 << 20));
    assert!(refused(&|step| step.spans[0].rows = 5));
    assert!(refused(&|step| {
        step.q.pop();
    }));
}

#[test]
fn scratch_bytes_are_what_is_allocated() {
    for shape in [
        SMALL,
        Shape {
            group: 40,
            head_dim: 64,
            ..SMALL
        },
    ] {
        let limits = shape.limits(3);
        let mut scratch = AttentionScratch::new(&limits);
        let workers: usize = scratch
            .workers
            .iter_mut()
            .map(|worker| worker.allocated())
            .sum();
        let pieces = scratch.split.pieces.capacity() + scratch.split.merges.capacity();
        let claims = scratch.partial_claims.capacity() + scratch.out_claims.capacity();
        let allocated = workers
            + pieces * size_of::<Piece>()
            + scratch.partials.capacity() * size_of::<f32>()
            + claims * Claims::FLAG_BYTES;
        assert_eq!(AttentionScratch::bytes(&limits), allocated);
    }
}
