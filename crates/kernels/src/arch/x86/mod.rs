//! Matrix products and activation quantisation on x86-64: the AVX2 tier, and below it the others.
//!
//! One tile kernel per family of formats computes 16 rows for up to [`TILE_TOKENS`] tokens. For
//! few tokens it unpacks codes as it streams the weights; for more, the codes of a slice of the
//! panel are first expanded to bytes and every tile reads those.

mod acts;
mod avx512;
mod codes;
mod floats;
mod format;
mod pack;
mod run;
mod signed;
mod tile256;
mod tile32;
mod vnni;

use kvist_base::QuantFormat;

use crate::acts::{ActBlock32, ActBlock256, ActRows};
use crate::isa::{Isa, Tier};
use crate::matmul::{Panel, PanelOut};
use crate::panel::PANEL_ROWS;
use crate::quant::Parts;
use format::{Format, Iq4Nl, Iq4Xs, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// Tokens of a register tile: 2 accumulators each leave room for weights and activations.
const TILE_TOKENS: usize = 6;
/// k whose codes are expanded at a time: they and a tile's activations fit the first-level cache.
const SLICE_WEIGHTS: usize = 1024;

/// The duty of calling AVX2 code is met by whoever holds this tier's [`Isa`].
fn assert_avx2(isa: Isa) {
    assert!(
        isa.has_avx2(),
        "the CPU was seen to have AVX2, FMA and F16C"
    );
}

/// Quantises `values`, exactly what the blocks hold.
pub(crate) fn quantise32(isa: Isa, values: &[f32], blocks: &mut [ActBlock32]) {
    assert_avx2(isa);
    // SAFETY: the CPU has the features, asserted above.
    unsafe { acts::quantise32(values, blocks) }
}

/// Quantises `values`, exactly what the blocks hold.
pub(crate) fn quantise256(isa: Isa, values: &[f32], blocks: &mut [ActBlock256]) {
    assert_avx2(isa);
    // SAFETY: the CPU has the features, asserted above.
    unsafe { acts::quantise256(values, blocks) }
}

/// Writes run `index` of a panel block, of codes of `bits` bits.
pub(crate) fn put_run(
    isa: Isa,
    rows: &[Parts; PANEL_ROWS],
    (index, bits): (usize, usize),
    run: &mut [u8],
) {
    assert_avx2(isa);
    // SAFETY: the CPU has the features, asserted above.
    unsafe {
        match bits {
            4 => pack::put_run::<4>(rows, index, run),
            5 => pack::put_run::<5>(rows, index, run),
            6 => pack::put_run::<6>(rows, index, run),
            _ => pack::put_run::<8>(rows, index, run),
        }
    }
}

/// One panel for `out.len()` tokens.
pub(crate) fn multiply_panel(isa: Isa, panel: Panel<'_>, x: ActRows<'_>, out: &mut PanelOut) {
    match (isa.tier(), x) {
        (Tier::Avx512, _) => return avx512::multiply_panel(isa, panel, x, out),
        (Tier::AvxVnni(_), ActRows::Q8x32(_) | ActRows::Q8x256(_)) => {
            return vnni::multiply_panel(isa, panel, x, out);
        }
        _ => (),
    }
    assert_avx2(isa);
    use QuantFormat as Q;
    // SAFETY: the CPU has the features, asserted above.
    unsafe {
        match (panel.format, x) {
            (Q::F32 | Q::F16 | Q::BF16, ActRows::F32(x)) => floats::multiply(panel, x, out),
            (Q::Q4_0, ActRows::Q8x32(x)) => multiply::<Q4_0>(panel, x, out),
            (Q::Q4_1, ActRows::Q8x32(x)) => multiply::<Q4_1>(panel, x, out),
            (Q::Q5_0, ActRows::Q8x32(x)) => multiply::<Q5_0>(panel, x, out),
            (Q::Q5_1, ActRows::Q8x32(x)) => multiply::<Q5_1>(panel, x, out),
            (Q::Q8_0, ActRows::Q8x32(x)) => multiply::<Q8_0>(panel, x, out),
            (Q::Q4K, ActRows::Q8x256(x)) => multiply::<Q4K>(panel, x, out),
            (Q::Q5K, ActRows::Q8x256(x)) => multiply::<Q5K>(panel, x, out),
            (Q::Q6K, ActRows::Q8x256(x)) => multiply::<Q6K>(panel, x, out),
            (Q::Iq4Nl, ActRows::Q8x32(x)) => multiply::<Iq4Nl>(panel, x, out),
            (Q::Iq4Xs, ActRows::Q8x256(x)) => multiply::<Iq4Xs>(panel, x, out),
            (format, _) => unreachable!("activations not prepared for {format}"),
        }
    }
}

/// What one tile reads: some blocks of a panel and the same blocks of some token rows.
struct Span<'a, B> {
    /// The panel blocks.
    panel: &'a [u8],
    /// Their codes as bytes, `[k / 4][64]`; empty for a tile that unpacks.
    codes: &'a [u8],
    /// Block b of token t is `x[t * stride + b]`.
    x: &'a [B],
    stride: usize,
}

/// # Safety
/// The CPU has AVX2, FMA and F16C.
unsafe fn multiply<F: Format>(panel: Panel<'_>, x: &[F::Act], out: &mut PanelOut) {
    let blocks = panel.cols / F::WEIGHTS;
    out.fill([0.0; PANEL_ROWS]);
    if blocks == 0 {
        return;
    }
    if out.len() <= TILE_TOKENS || !F::EXPANDS {
        let span = Span {
            panel: panel.data,
            codes: &[],
            x,
            stride: blocks,
        };
        // SAFETY: the caller's promise.
        unsafe { run_tiles::<F, false>(span, out) };
        return;
    }
    let slice_blocks = SLICE_WEIGHTS / F::WEIGHTS;
    let mut codes = [0; SLICE_WEIGHTS * PANEL_ROWS];
    for (index, slice) in panel
        .data
        .chunks(slice_blocks * F::LAYOUT.bytes)
        .enumerate()
    {
        // SAFETY: the caller's promise.
        unsafe { codes::expand::<F>(slice, &mut codes) };
        let x = &x[index * slice_blocks..];
        let span = Span {
            panel: slice,
            codes: &codes,
            x,
            stride: blocks,
        };
        // SAFETY: the caller's promise.
        unsafe { run_tiles::<F, true>(span, out) };
    }
}

/// Adds the span's products to `out`, tile by tile, tiles as equal as they come.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
unsafe fn run_tiles<F: Format, const EXPANDED: bool>(
    mut span: Span<'_, F::Act>,
    mut out: &mut PanelOut,
) {
    let tile_tokens = out.len().div_ceil(out.len().div_ceil(F::TILE_TOKENS));
    while !out.is_empty() {
        let (tile, rest) = out.split_at_mut(tile_tokens.min(out.len()));
        // SAFETY: the caller's promise.
        unsafe {
            match tile.len() {
                1 => F::tile::<1, EXPANDED>(&span, tile),
                2 => F::tile::<2, EXPANDED>(&span, tile),
                3 => F::tile::<3, EXPANDED>(&span, tile),
                4 => F::tile::<4, EXPANDED>(&span, tile),
                5 => F::tile::<5, EXPANDED>(&span, tile),
                _ => F::tile::<6, EXPANDED>(&span, tile),
            }
        }
        if rest.is_empty() {
            return;
        }
        span.x = &span.x[tile.len() * span.stride..];
        out = rest;
    }
}
