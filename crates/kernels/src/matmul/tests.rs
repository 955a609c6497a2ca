#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use super::*;
use crate::acts::{ActWidths, Rows};
use crate::panel::{pack_panel, packed_bytes};
use crate::quant;
use kvist_base::mix64;
use std::num::NonZeroUsize;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
}

fn noise(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64)
        .map(|n| (mix64((seed << 32) + n) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// A matrix as a file has it and as the kernels want it.
struct Weights {
    format: QuantFormat,
    rows: usize,
    cols: usize,
    raw: Vec<u8>,
    packed: Vec<u8>,
}

impl Weights {
    fn from_raw(format: QuantFormat, cols: usize, raw: Vec<u8>) -> Self {
        let row_bytes = format.row_bytes(cols).unwrap();
        let rows = raw.len() / row_bytes;
        let mut packed = vec![0xAA; packed_bytes(format, rows, cols).unwrap()];
        let panel_bytes = packed.len() / rows.div_ceil(PANEL_ROWS);
        for (panel, rows) in packed
            .chunks_exact_mut(panel_bytes)
            .zip(raw.chunks(PANEL_ROWS * row_bytes))
        {
            pack_panel(Isa::SCALAR, (format, cols), rows, panel);
        }
        Self {
            format,
            rows,
            cols,
            raw,
            packed,
        }
    }

    fn noise(format: QuantFormat, rows: usize, cols: usize) -> Self {
        let row_bytes = format.row_bytes(cols).unwrap();
        let mut raw = vec![0; rows * row_bytes];
        for (row, out) in raw.chunks_exact_mut(row_bytes).enumerate() {
            quant::encode_row(format, &noise(cols, row as u64 + 1), out);
        }
        Self::from_raw(format, cols, raw)
    }

    fn matrix(&self) -> PanelMatrix<'_> {
        PanelMatrix::new(self.format, self.rows, self.cols, &self.packed).unwrap()
    }

    fn store(&self) -> Product<'_> {
        Product {
            weights: self.matrix(),
            bias: None,
            epilogue: Epilogue::Store,
        }
    }

    fn decoded(&self, row: usize) -> Vec<f32> {
        let row_bytes = self.format.row_bytes(self.cols).unwrap();
        let mut out = vec![0.0; self.cols];
        quant::decode_row(
            self.format,
            &self.raw[row * row_bytes..][..row_bytes],
            &mut out,
        );
        out
    }
}

fn product(isa: Isa, pool: &Pool, product: &Product<'_>, x: &[f32]) -> Vec<f32> {
    let cols = product.weights.cols();
    let mut acts = Activations::with_capacity(0, ActWidths::default());
    acts.prepare(
        isa,
        pool,
        act_format(product.weights.format()),
        Rows { values: x, cols },
    );
    let mut out = vec![7.0; x.len() / cols * product.weights.rows()];
    matmul(isa, pool, product, &acts, &mut out);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_tier_packs_the_same_panels() {
    for format in QuantFormat::ALL {
        for (rows, cols) in [(1, 256), (7, 512), (16, 768), (15, 1280)] {
            let row_bytes = format.row_bytes(cols).unwrap();
            let raw: Vec<u8> = (0..(rows * row_bytes) as u64)
                .map(|at| mix64(at).to_le_bytes()[5])
                .collect();
            let packed = |isa, before| {
                let mut panel = vec![before; packed_bytes(format, rows, cols).unwrap()];
                pack_panel(isa, (format, cols), &raw, &mut panel);
                panel
            };
            for isa in Isa::available() {
                let same = packed(isa, 0x55) == packed(Isa::SCALAR, 0xAA);
                assert!(same, "{isa} {format} {rows}x{cols}");
            }
        }
    }
}

#[test]
fn a_packed_row_decodes_to_the_file_values() {
    for format in QuantFormat::ALL {
        for rows in [1, 15, 16, 17, 33] {
            let weights = Weights::noise(format, rows, 512);
            for row in 0..rows {
                let mut out = vec![0.0; 512];
                weights.matrix().decode_row(row, &mut out);
                assert_eq!(
                    bits(&out),
                    bits(&weights.decoded(row)),
                    "{format} row {row}"
                );
            }
        }
    }
}

#[test]
fn missing_rows_of_a_panel_are_zero_weights() {
    for format in QuantFormat::ALL {
        let weights = Weights::noise(format, 3, 256);
        let padded = PanelMatrix::new(format, PANEL_ROWS, 256, &weights.packed).unwrap();
        for row in 3..PANEL_ROWS {
            let mut out = vec![1.0; 256];
            padded.decode_row(row, &mut out);
            assert!(out.iter().all(|w| *w == 0.0), "{format} row {row}");
        }
    }
}

#[test]
fn one_row_by_hand() {
    let raw: Vec<u8> = [0.5f32, -2.0, 4.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let weights = Weights::from_raw(QuantFormat::F32, 3, raw);
    for isa in Isa::available() {
        let out = product(
            isa,
            &pool(1),
            &weights.store(),
            &[2.0, 3.0, 0.25, 0.0, 1.0, 0.0],
        );
        assert_eq!(out, [-4.0, -2.0]);
    }
}

#[test]
fn every_tier_gives_the_scalar_bits() {
    let pool = pool(2);
    for format in QuantFormat::ALL {
        let step = format.block_weights().max(8);
        for (case, rows) in [1, 15, 16, 17, 33].into_iter().enumerate() {
            let cols = (step * [1, 3, 2, 5, 4][case]).min(2048);
            let weights = Weights::noise(format, rows, cols);
            for tokens in (1..=20).chain([33]) {
                let x = noise(tokens * cols, 99);
                let scalar = product(Isa::SCALAR, &pool, &weights.store(), &x);
                for isa in Isa::available() {
                    let out = product(isa, &pool, &weights.store(), &x);
                    assert_eq!(
                        bits(&out),
                        bits(&scalar),
                        "{isa} {format} {rows}x{cols}, {tokens} tokens"
                    );
                }
            }
        }
    }
}

#[test]
fn long_rows_and_many_tokens_give_the_scalar_bits() {
    let pool = pool(2);
    for format in QuantFormat::ALL {
        let (cols, tokens) = (2560, 103);
        let weights = Weights::noise(format, 18, cols);
        let x = noise(tokens * cols, 5);
        let scalar = product(Isa::SCALAR, &pool, &weights.store(), &x);
        for isa in Isa::available() {
            let out = product(isa, &pool, &weights.store(), &x);
            assert_eq!(bits(&out), bits(&scalar), "{isa} {format}");
        }
    }
}

#[test]
fn products_are_near_the_exact_ones() {
    for format in QuantFormat::ALL {
        let (rows, cols, tokens) = (17, 768, 9);
        let weights = Weights::noise(format, rows, cols);
        let x = noise(tokens * cols, 42);
        let out = product(Isa::detect(), &pool(2), &weights.store(), &x);
        let block = act_format(format).block_values();
        for row in 0..rows {
            let w = weights.decoded(row);
            for (token, x) in x.chunks_exact(cols).enumerate() {
                let (mut exact, mut tolerance) = (0.0f64, 0.0f64);
                for (w, x) in w.chunks(block).zip(x.chunks(block)) {
                    let amax = x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
                    // Half a code of rounding in each x, unless x stays f32.
                    let step = if block == 1 {
                        0.0
                    } else {
                        f64::from(amax) / 254.0
                    };
                    for (w, x) in w.iter().zip(x) {
                        let (w, x) = (f64::from(*w), f64::from(*x));
                        exact += w * x;
                        // Sums of K formats split a weight into scale and minimum parts that
                        // may be several times larger; 2^-18 covers f32 rounding of all.
                        tolerance += w.abs() * step + (w.abs() + 1.0) * 2f64.powi(-18);
                    }
                }
                let got = f64::from(out[token * rows + row]);
                assert!(
                    (got - exact).abs() <= tolerance,
                    "{format} token {token} row {row}: {got}, exact {exact} +- {tolerance}"
                );
            }
        }
    }
}

/// A row whose codes, sub-scales and minima are all bits set or all clear, with d = m = 1.
fn extreme_row(format: QuantFormat, cols: usize, pattern: u8) -> Vec<u8> {
    let codec = quant::codec(format).unwrap();
    let mut raw = vec![pattern; format.row_bytes(cols).unwrap()];
    for block in raw.chunks_exact_mut(format.block_bytes()) {
        let mut parts = quant::Parts::ZERO;
        (codec.split)(block, &mut parts);
        (parts.d, parts.m) = (0x3C00, 0x3C00);
        (codec.join)(&parts, block);
    }
    raw
}

#[test]
fn extreme_codes_do_not_saturate() {
    let cols = 512;
    for format in QuantFormat::ALL
        .into_iter()
        .filter(|format| format.block_weights() > 1)
    {
        // 0x80 is Q8_0's code -128 and Q6_K's sub-scale -128; 0x7F its largest.
        for pattern in [0x00, 0xFF, 0x80, 0x7F, 0xF0, 0x0F] {
            let weights = Weights::from_raw(format, cols, extreme_row(format, cols, pattern));
            let decoded = weights.decoded(0);
            for signs in 0..4u8 {
                let tokens: Vec<f32> = (0..8 * cols)
                    .map(|k| match signs {
                        0 => 127.0,
                        1 => -127.0,
                        2 => [127.0, -127.0][k % 2],
                        _ => [127.0, 127.0, -127.0, -127.0][k % 4],
                    })
                    .collect();
                // Integers throughout, below 2^24 a block: f32 sums of them are exact or rounded
                // once per block.
                let exact: f64 = decoded
                    .iter()
                    .zip(&tokens)
                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
                    .sum();
                let size: f64 = decoded.iter().map(|w| f64::from(w.abs()) * 127.0).sum();
                let size = size + 63.0 * 127.0 * 31.0 * cols as f64;
                let scalar = product(Isa::SCALAR, &pool(1), &weights.store(), &tokens[..cols]);
                let error = (f64::from(scalar[0]) - exact).abs();
                assert!(
                    error <= size * 2f64.powi(-22),
                    "{format} {pattern:#x}: off by {error}"
                );
                for isa in Isa::available() {
                    for count in [1, 3, 8] {
                        let x = &tokens[..count * cols];
                        let out = product(isa, &pool(1), &weights.store(), x);
                        assert!(
                            out.iter().all(|y| y.to_bits() == scalar[0].to_bits()),
                            "{isa} {format} {pattern:#x} signs {signs}: {out:?} not {scalar:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_token_alone_and_in_a_batch_gives_the_same_bits_on_any_threads() {
    for format in QuantFormat::ALL {
        let (rows, cols, tokens) = (70, 512, 101);
        let weights = Weights::noise(format, rows, cols);
        let x = noise(tokens * cols, 11);
        let isa = Isa::detect();
        let batch = product(isa, &pool(1), &weights.store(), &x);
        for threads in 2..=3 {
            let out = product(isa, &pool(threads), &weights.store(), &x);
            assert_eq!(bits(&out), bits(&batch), "{format} on {threads} threads");
        }
        let alone_pool = pool(2);
        for (token, x) in x.chunks_exact(cols).enumerate() {
            let alone = product(isa, &alone_pool, &weights.store(), x);
            assert_eq!(
                bits(&alone),
                bits(&batch[token * rows..][..rows]),
                "{format} token {token}"
            );
        }
    }
}

#[test]
fn bias_and_residual_are_added_in_this_order() {
    let weights = Weights::noise(QuantFormat::Q4_0, 19, 64);
    let (bias, x) = (noise(19, 4), noise(3 * 64, 6));
    let plain = product(Isa::detect(), &pool(2), &weights.store(), &x);
    let with_bias = Product {
        bias: Some(&bias),
        ..weights.store()
    };
    let biased = product(Isa::detect(), &pool(2), &with_bias, &x);
    let accumulate = Product {
        epilogue: Epilogue::Accumulate,
        ..with_bias
    };
    let residual = product(Isa::detect(), &pool(2), &accumulate, &x);
    for (index, y) in plain.iter().enumerate() {
        let expected = y + bias[index % 19];
        assert_eq!(biased[index].to_bits(), expected.to_bits());
        assert_eq!(residual[index].to_bits(), (7.0 + expected).to_bits());
    }
}

/// Panels as a file would give them, some of which are missing.
struct Shelf<'a> {
    weights: &'a Weights,
    missing: Option<usize>,
}

impl PanelFeed for Shelf<'_> {
    fn panel(&self, index: usize, _: usize, multiply: &mut dyn FnMut(&[u8])) {
        if self.missing != Some(index) {
            multiply(self.weights.matrix().panel(index));
        }
    }
}

#[test]
fn panels_from_a_feed_give_the_bits_of_panels_in_memory() {
    for format in QuantFormat::ALL {
        let (rows, cols) = (70, 256);
        let weights = Weights::noise(format, rows, cols);
        let bias = noise(rows, 2);
        for (threads, tokens) in [(1, 1), (2, 5), (3, 2 * TILE_TOKENS + 3)] {
            let (isa, pool) = (Isa::detect(), pool(threads));
            let x = noise(tokens * cols, 3);
            let resident = Product {
                bias: Some(&bias),
                epilogue: Epilogue::Accumulate,
                ..weights.store()
            };
            let expected = product(isa, &pool, &resident, &x);
            let mut acts = Activations::with_capacity(0, ActWidths::default());
            let values = Rows { values: &x, cols };
            acts.prepare(isa, &pool, act_format(format), values);
            for missing in [None, Some(2)] {
                let feed = Shelf {
                    weights: &weights,
                    missing,
                };
                let fed = FedProduct {
                    format,
                    rows,
                    cols,
                    feed: &feed,
                    bias: resident.bias,
                    epilogue: resident.epilogue,
                };
                let mut out = vec![7.0; tokens * rows];
                matmul_fed(isa, &pool, &fed, &acts, &mut out);
                for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
                    let is_missing = missing == Some(i % rows / PANEL_ROWS);
                    let expected = if is_missing { 7.0 } else { *expected };
                    assert_eq!(out.to_bits(), expected.to_bits(), "{format} element {i}");
                }
            }
        }
    }
}

#[test]
fn a_value_that_is_no_number_reaches_every_result() {
    for format in QuantFormat::ALL {
        let weights = Weights::noise(format, 17, 256);
        for isa in Isa::available() {
            for tokens in [2, 9] {
                let mut x = noise(tokens * 256, 8);
                x[256 + 3] = f32::NAN;
                let out = product(isa, &pool(1), &weights.store(), &x);
                for (token, row) in out.chunks_exact(17).enumerate() {
                    let all = row.iter().all(|y| y.is_nan() == (token == 1));
                    assert!(all, "{isa} {format} token {token}: {row:?}");
                }
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert!(PanelMatrix::new(QuantFormat::Q4_0, 16, 33, &[]).is_none());
    assert!(PanelMatrix::new(QuantFormat::Q4_0, 16, 32, &[0; 287]).is_none());
    assert!(PanelMatrix::new(QuantFormat::Q4_0, 16, 32, &[0; 288]).is_some());
    assert_eq!(packed_bytes(QuantFormat::Q6K, 17, 512), Some(2 * 2 * 3360));
    assert_eq!(packed_bytes(QuantFormat::F32, usize::MAX, 64), None);
}

#[test]
fn several_products_in_one_run_give_the_bits_of_each() {
    use QuantFormat as Q;
    // Sizes around a panel, a task and the tail; formats that share a preparation.
    let shapes = [
        [(Q::Q4_0, 100), (Q::Q8_0, 16), (Q::Q4_1, 1)],
        [(Q::Q4K, 700), (Q::Q6K, 33), (Q::Q4K, 900)],
        [(Q::F16, 17), (Q::F32, 40), (Q::BF16, 16)],
    ];
    for shape in shapes {
        let cols = 512;
        let weights = shape.map(|(format, rows)| Weights::noise(format, rows, cols));
        let bias = noise(weights[1].rows, 3);
        for tokens in [1, 2, 9, 97] {
            let x = noise(tokens * cols, 8);
            let mut products = weights.each_ref().map(Weights::store);
            products[1].bias = Some(&bias);
            products[2].epilogue = Epilogue::Accumulate;
            let apart = products.map(|p| product(Isa::SCALAR, &pool(1), &p, &x));
            for (isa, threads) in Isa::available().into_iter().zip([1, 2, 3].iter().cycle()) {
                let pool = pool(*threads);
                let mut acts = Activations::with_capacity(0, ActWidths::default());
                let rows = Rows { values: &x, cols };
                acts.prepare(isa, &pool, act_format(shape[0].0), rows);
                let mut outs = shape.map(|(_, rows)| vec![7.0; tokens * rows]);
                let mut targets = outs.iter_mut();
                let each = products.map(|p| (p, targets.next().unwrap().as_mut_slice()));
                matmul_each(isa, &pool, each, &acts);
                for (out, apart) in outs.iter().zip(&apart) {
                    assert_eq!(bits(out), bits(apart), "{isa} {shape:?} {tokens} tokens");
                }
            }
        }
    }
}

#[test]
fn a_gated_product_gives_the_bits_of_its_parts() {
    use QuantFormat as Q;
    for (gate, up) in [(Q::Q4_1, Q::Q5_0), (Q::Q4K, Q::Q6K), (Q::F32, Q::BF16)] {
        let (cols, rows) = (256, 200);
        let (gate, up) = (
            Weights::noise(gate, rows, cols),
            Weights::noise(up, rows, cols),
        );
        for tokens in [1, 3, 20, 100] {
            let x = noise(tokens * cols, 4);
            let mut apart = product(Isa::SCALAR, &pool(1), &gate.store(), &x);
            let ups = product(Isa::SCALAR, &pool(1), &up.store(), &x);
            silu_mul(Isa::SCALAR, &mut apart, &ups);
            for (isa, threads) in Isa::available().into_iter().zip([1, 2, 3].iter().cycle()) {
                let pool = pool(*threads);
                let mut acts = Activations::with_capacity(0, ActWidths::default());
                let rows_of = Rows { values: &x, cols };
                acts.prepare(isa, &pool, act_format(gate.format), rows_of);
                let mut out = vec![7.0; tokens * rows];
                let parts = GatedProduct {
                    gate: gate.matrix(),
                    up: up.matrix(),
                };
                matmul_gated(isa, &pool, parts, &acts, &mut out);
                assert_eq!(bits(&out), bits(&apart), "{isa} {tokens} tokens");
            }
        }
    }
}
