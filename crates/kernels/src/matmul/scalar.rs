//! The scalar tier: the definition of the sums, written as the module documentation states them.

use kvist_base::QuantFormat;

use super::{Panel, PanelOut};
use crate::acts::{ActBlock32, ActBlock256, ActRows};
use crate::panel::{PANEL_ROWS, PanelLayout, take_block};
use crate::quant::{self, Parts};

/// One panel for `out.len()` tokens.
pub(super) fn multiply_panel(panel: Panel<'_>, x: ActRows<'_>, out: &mut PanelOut) {
    match x {
        ActRows::F32(x) => multiply_floats(panel, x, out),
        ActRows::Q8x32(x) => multiply_blocks(panel, x, out, accumulate32),
        ActRows::Q8x256(x) => multiply_blocks(panel, x, out, accumulate256),
    }
}

fn multiply_floats(panel: Panel<'_>, x: &[f32], out: &mut PanelOut) {
    let bytes = panel.format.block_bytes();
    for (x, out) in x.chunks_exact(panel.cols).zip(out) {
        for (row, out) in out.iter_mut().enumerate() {
            let mut chains = [0.0f32; 4];
            let weights = panel.data.chunks_exact(bytes).skip(row).step_by(PANEL_ROWS);
            for (k, (raw, x)) in weights.zip(x).enumerate() {
                let w = quant::decode_float(panel.format, raw);
                chains[k % 4] = w.mul_add(*x, chains[k % 4]);
            }
            *out = (chains[0] + chains[1]) + (chains[2] + chains[3]);
        }
    }
}

/// Adds one block's product to an accumulator.
type Accumulate<B> = fn(format: QuantFormat, parts: &Parts, x: &B, acc: &mut f32);

fn multiply_blocks<B>(panel: Panel<'_>, x: &[B], out: &mut PanelOut, accumulate: Accumulate<B>) {
    let Some(layout) = PanelLayout::of(panel.format) else {
        unreachable!("{} has no quant blocks", panel.format)
    };
    let blocks = panel.cols / panel.format.block_weights();
    out.fill([0.0; PANEL_ROWS]);
    let mut parts = Parts::ZERO;
    for (index, block) in panel.data.chunks_exact(layout.bytes).enumerate() {
        for row in 0..PANEL_ROWS {
            take_block(&layout, block, row, &mut parts);
            for (x, out) in x.chunks_exact(blocks).zip(out.iter_mut()) {
                accumulate(panel.format, &parts, &x[index], &mut out[row]);
            }
        }
    }
}

#[allow(clippy::cast_precision_loss)] // |idot| <= 32 * 128 * 127, exact in f32
fn accumulate32(format: QuantFormat, parts: &Parts, x: &ActBlock32, acc: &mut f32) {
    let idot = dot(format, &parts.codes[..32], &x.codes);
    *acc = (idot as f32).mul_add(parts.scale() * x.scale, *acc);
    if matches!(format, QuantFormat::Q4_1 | QuantFormat::Q5_1) {
        *acc = parts.min().mul_add(x.scaled_sum, *acc);
    }
}

#[allow(clippy::cast_precision_loss)] // one rounding to nearest, as every tier's conversion
fn accumulate256(format: QuantFormat, parts: &Parts, x: &ActBlock256, acc: &mut f32) {
    if let QuantFormat::Q6K | QuantFormat::Iq4Xs = format {
        let subs = if format == QuantFormat::Q6K { 16 } else { 8 };
        let isum: i32 = (0..subs)
            .map(|sub| {
                let k = 256 / subs * sub..256 / subs * (sub + 1);
                let scale = parts.sub_scales[sub].cast_signed();
                i32::from(scale) * dot(format, &parts.codes[k.clone()], &x.codes[k])
            })
            .sum();
        *acc = (isum as f32).mul_add(parts.scale() * x.scale, *acc);
        return;
    }
    let (mut isum, mut imin) = (0i32, 0i32);
    for sub in 0..8 {
        let k = 32 * sub..32 * (sub + 1);
        let scale = i32::from(parts.sub_scales[sub]);
        isum += scale * dot(format, &parts.codes[k.clone()], &x.codes[k]);
        imin += i32::from(parts.sub_mins[sub]) * i32::from(x.sums[sub]);
    }
    *acc = (isum as f32).mul_add(parts.scale() * x.scale, *acc);
    *acc = (imin as f32).mul_add(-(parts.min() * x.scale), *acc);
}

/// `sum of (code - zero) * x`, or of what the code stands for times x, exact.
fn dot(format: QuantFormat, codes: &[u8], x: &[i8]) -> i32 {
    let codebook = quant::codebook(format);
    let signed = |code: u8| match format {
        _ if let Some(values) = codebook => i32::from(values[usize::from(code)]),
        QuantFormat::Q8_0 => i32::from(code.cast_signed()),
        QuantFormat::Q4_0 => i32::from(code) - 8,
        QuantFormat::Q5_0 => i32::from(code) - 16,
        QuantFormat::Q6K => i32::from(code) - 32,
        _ => i32::from(code),
    };
    codes
        .iter()
        .zip(x)
        .map(|(&code, &x)| signed(code) * i32::from(x))
        .sum()
}
