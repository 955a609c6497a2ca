//! Matrix products `y = W x` over panels, for one token or many.
//!
//! For one token row and one weight row the result has the same bits on every instruction tier,
//! in every batch and on any number of threads, because the sum is defined, not just its terms:
//!
//! - 32-weight formats, per block in k order: `acc = fma(idot, d_w * d_x, acc)` with the integer
//!   dot product `idot` exact; with a minimum then `acc = fma(m_w, d_x * sum_x, acc)`.
//! - K formats, per block: `acc = fma(isum, d_w * d_x, acc)` with `isum` the exact sum of
//!   sub-scale times integer dot product; with minima then
//!   `acc = fma(imin, -(m_w * d_x), acc)`, `imin` the exact sum of sub-minimum times code sum.
//! - Floating-point formats: four chains by `k % 4`, `acc[k % 4] = fma(w, x, acc[k % 4])`, then
//!   `(acc[0] + acc[1]) + (acc[2] + acc[3])`.
//!
//! Then the bias is added, then (for [`Epilogue::Accumulate`]) the old output.

mod fed;
mod scalar;
#[cfg(test)]
mod tests;

pub use fed::{FedProduct, PanelFeed, matmul_fed};

use std::ops::Range;

use kvist_base::QuantFormat;

use crate::acts::{Activations, act_format};
#[cfg(target_arch = "x86_64")]
use crate::arch::x86;
use crate::isa::{Isa, Tier};
use crate::panel::{PANEL_ROWS, PanelMatrix};
use crate::pool::Pool;
use crate::shared::{ColumnTiles, TileMut, Tiling, for_each_tile};

/// Token rows of one task: their codes stay in the second-level cache while panels pass.
const TILE_TOKENS: usize = 96;
/// Weight bytes of one task when few tokens share them: a few microseconds of streaming, so
/// that a core the machine takes away holds up the others for no longer.
const TASK_WEIGHT_BYTES: usize = 64 << 10;
/// Multiply-adds of one task when many tokens share the weights.
const TASK_MACS: usize = 4 << 20;

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = y`
    Store,
    /// `out += y`: a residual connection.
    Accumulate,
}

/// One matrix product.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// W, `rows` x `cols`.
    pub weights: PanelMatrix<'a>,
    /// Added to each token's result: `rows` values.
    pub bias: Option<&'a [f32]>,
    /// What becomes of the result.
    pub epilogue: Epilogue,
}

/// One panel and how to read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    pub format: QuantFormat,
    pub cols: usize,
    pub data: &'a [u8],
}

/// The results of one panel for some tokens.
pub(crate) type PanelOut = [[f32; PANEL_ROWS]];

/// `out[t][r] = sum over k of W[r][k] * x[t][k]`, with bias and epilogue as the product says.
///
/// `out` is `[tokens][rows]`.
///
/// # Panics
/// When `x` was not prepared for the weights' format or has other columns, or when `out` or the
/// bias has the wrong length.
pub fn matmul(isa: Isa, pool: &Pool, product: &Product<'_>, x: &Activations, out: &mut [f32]) {
    let weights = &product.weights;
    let (tokens, rows) = (x.tokens(), weights.rows());
    assert_eq!(
        x.format(),
        act_format(weights.format()),
        "x is prepared for these weights"
    );
    assert_eq!(x.cols(), weights.cols(), "x has a value for each column");
    assert_eq!(out.len(), tokens * rows, "out is [tokens][rows]");
    assert!(
        product.bias.is_none_or(|bias| bias.len() == rows),
        "a bias for each row"
    );
    if out.is_empty() {
        return;
    }
    let tile_tokens = tokens.min(TILE_TOKENS);
    let macs = tile_tokens * PANEL_ROWS * weights.cols();
    let panels = (TASK_WEIGHT_BYTES / weights.panel_bytes().max(1))
        .min(TASK_MACS / macs.max(1))
        .clamp(1, rows.div_ceil(PANEL_ROWS));
    let tiling = Tiling {
        stride: rows,
        columns: rows,
        tile_rows: tile_tokens,
        tile_columns: panels * PANEL_ROWS,
    };
    for_each_tile(
        pool,
        ColumnTiles::new(out, tokens, tiling),
        &|_, _, tile| {
            multiply_tile(isa, product, x, tile);
        },
    );
}

/// All panels of one tile, one after the other.
fn multiply_tile(isa: Isa, product: &Product<'_>, x: &Activations, tile: &mut TileMut<'_>) {
    let mut results = [[0.0; PANEL_ROWS]; TILE_TOKENS];
    let finish = Finish {
        bias: product.bias,
        epilogue: product.epilogue,
    };
    for offset in (0..tile.columns()).step_by(PANEL_ROWS) {
        let panel = Panel {
            format: product.weights.format(),
            cols: product.weights.cols(),
            data: product
                .weights
                .panel((tile.first_column() + offset) / PANEL_ROWS),
        };
        let part = TilePart {
            rows: 0..tile.rows(),
            offset,
        };
        multiply_part(isa, (panel, finish), x, (tile, part), &mut results);
    }
}

/// What becomes of the sums of a product.
#[derive(Clone, Copy)]
struct Finish<'a> {
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
}

/// One panel's columns of some rows of a tile.
struct TilePart {
    /// Rows of the tile, at most [`TILE_TOKENS`].
    rows: Range<usize>,
    /// The panel's first column in the tile.
    offset: usize,
}

/// One panel for some tokens. `results` is memory to work in: a tile's panels share it.
fn multiply_part(
    isa: Isa,
    (panel, finish): (Panel<'_>, Finish<'_>),
    x: &Activations,
    (tile, part): (&mut TileMut<'_>, TilePart),
    results: &mut [[f32; PANEL_ROWS]; TILE_TOKENS],
) {
    let TilePart { rows, offset } = part;
    let results = &mut results[..rows.len()];
    let tokens = x.rows(tile.first_row() + rows.start, rows.len());
    match isa.tier() {
        Tier::Scalar => scalar::multiply_panel(panel, tokens, results),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::AvxVnni | Tier::Avx512 => {
            x86::multiply_panel(isa, panel, tokens, results);
        }
    }
    let columns = offset..tile.columns().min(offset + PANEL_ROWS);
    let first = tile.first_column() + offset;
    for (row, result) in rows.zip(results) {
        let out = &mut tile.row_mut(row)[columns.clone()];
        if let Some(bias) = finish.bias {
            result
                .iter_mut()
                .zip(&bias[first..])
                .for_each(|(y, bias)| *y += bias);
        }
        match finish.epilogue {
            Epilogue::Store => out.copy_from_slice(&result[..out.len()]),
            Epilogue::Accumulate => out.iter_mut().zip(result).for_each(|(out, y)| *out += *y),
        }
    }
}
