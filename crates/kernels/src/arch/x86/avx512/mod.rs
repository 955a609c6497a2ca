//! The AVX-512-VNNI tier of matrix products.
//!
//! One vector is one group: 16 rows times 4 k, so a row's dot product is one 32-bit lane, exact
//! from the first product to the last. Weights are the unsigned operand of `vpdpbusd`; a zero point
//! is in where the lane starts, at `-zero * (sum of x)`. One multiply a cycle leaves room for
//! unpacking beside it, so tiles of any size unpack as they go and nothing is expanded.

mod codes;
mod floats;
pub(super) mod format;
mod tile256;
mod tile32;

use kvist_base::QuantFormat;

use crate::acts::ActRows;
use crate::isa::{Isa, Tier};
use crate::matmul::{Panel, PanelOut};
use crate::panel::PANEL_ROWS;
use format::{Format, Iq4Nl, Iq4Xs, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// Tokens of a register tile. Twelve have room in the registers and are no faster: multiplies are
/// the limit, not loads, for which a tile of two panels has been tried as well.
const TILE_TOKENS: usize = 8;

/// One panel for `out.len()` tokens.
pub(super) fn multiply_panel(isa: Isa, panel: Panel<'_>, x: ActRows<'_>, out: &mut PanelOut) {
    assert!(
        matches!(isa.tier(), Tier::Avx512),
        "the CPU was seen to have AVX-512 F, BW, DQ, VL and VNNI"
    );
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

/// What one tile reads: a panel and some token rows.
pub(super) struct Span<'a, B> {
    panel: &'a [u8],
    /// Block b of token t is `x[t * stride + b]`.
    x: &'a [B],
    stride: usize,
}

/// Tile by tile, tiles as equal as they come.
///
/// # Safety
/// The CPU has the features of this tier.
unsafe fn multiply<F: Format>(panel: Panel<'_>, x: &[F::Act], out: &mut PanelOut) {
    let blocks = panel.cols / F::WEIGHTS;
    out.fill([0.0; PANEL_ROWS]);
    if out.is_empty() || blocks == 0 {
        return;
    }
    let tile_tokens = out.len().div_ceil(out.len().div_ceil(TILE_TOKENS));
    let tokens = x.chunks(tile_tokens * blocks);
    for (out, x) in out.chunks_mut(tile_tokens).zip(tokens) {
        let span = Span {
            panel: panel.data,
            x,
            stride: blocks,
        };
        // SAFETY: the caller's promise.
        unsafe {
            match out.len() {
                1 => F::tile::<1>(&span, out),
                2 => F::tile::<2>(&span, out),
                3 => F::tile::<3>(&span, out),
                4 => F::tile::<4>(&span, out),
                5 => F::tile::<5>(&span, out),
                6 => F::tile::<6>(&span, out),
                7 => F::tile::<7>(&span, out),
                _ => F::tile::<8>(&span, out),
            }
        }
    }
}
