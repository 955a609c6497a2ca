//! Matrix products `y = W x` over panels, for one token or many.
//!
//! For one token row and one weight row the result has the same bits on every instruction tier,
//! in every batch and on any number of threads, because the sum is defined, not just its terms:
//!
//! - 32-weight formats, per block in k order: `acc = fma(idot, d_w * d_x, acc)` with the integer
//!   dot product `idot` exact; with a minimum then `acc = fma(m_w, d_x * sum_x, acc)`.
//! - K formats and `IQ4_XS`, per block: `acc = fma(isum, d_w * d_x, acc)` with `isum` the exact sum of
//!   sub-scale times integer dot product; with minima then
//!   `acc = fma(imin, -(m_w * d_x), acc)`, `imin` the exact sum of sub-minimum times code sum.
//! - Floating-point formats: four chains by `k % 4`, `acc[k % 4] = fma(w, x, acc[k % 4])`, then
//!   `(acc[0] + acc[1]) + (acc[2] + acc[3])`.
//!
//! Then the bias is added, then (for [`Epilogue::Accumulate`]) the old output; [`Epilogue::Gate`] is
//! [`silu_mul`].

mod fed;
mod gated;
mod scalar;
#[cfg(test)]
mod tests;

pub use fed::{FedProduct, PanelFeed, matmul_fed};
pub use gated::{GatedProduct, matmul_gated};

use std::ops::Range;

use kvist_base::QuantFormat;

use crate::activation::silu_mul;
use crate::acts::{ActRows, Activations, act_format};
#[cfg(target_arch = "aarch64")]
use crate::arch::neon;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86;
use crate::isa::{Isa, Tier};
use crate::panel::{PANEL_ROWS, PanelMatrix};
use crate::pool::Pool;
use crate::shared::{ColumnTiles, Tail, TileMut, Tiling, for_each_tile};

/// Token rows of one task: their codes stay in the second-level cache while panels pass.
const TILE_TOKENS: usize = 96;
/// Weight bytes of one task when few tokens share them. Each task is a stream of its own that memory
/// has to get going, so few and long ones are faster; a core that the machine takes away holds up the
/// others for one, some tens of microseconds.
const TASK_WEIGHT_BYTES: usize = 1 << 20;
/// Multiply-adds of one task when many tokens share the weights.
const TASK_MACS: usize = 4 << 20;
/// The last tasks of a run are this many times smaller, so that threads finish together.
const TAIL_FACTOR: usize = 4;
/// A thread has this many tasks of a matrix at least, however small it is.
const THREAD_TASKS: usize = 2;
/// How many tasks a thread has of the small ones.
const TAIL_TASKS: usize = 2 * TAIL_FACTOR;

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = y`
    Store,
    /// `out += y`: a residual connection.
    Accumulate,
    /// `out = silu(out) * y`: the second half of a gated MLP.
    Gate,
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
    matmul_each(isa, pool, [(*product, out)], x);
}

/// [`matmul`] of several matrices with the same input, in one run of the pool: the same bits.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_each<const N: usize>(
    isa: Isa,
    pool: &Pool,
    products: [(Product<'_>, &mut [f32]); N],
    x: &Activations,
) {
    for (product, out) in &products {
        let rows = product.weights.rows();
        assert_fits(&product.weights, x, out);
        assert!(
            product.bias.is_none_or(|bias| bias.len() == rows),
            "a bias for each row"
        );
    }
    if x.tokens() == 0 {
        return;
    }
    let weights = products.each_ref().map(|(product, _)| *product);
    let tilings = tilings(pool.threads(), x, weights.map(|product| [product.weights]));
    let mut tilings = tilings.into_iter();
    let tiles = products.map(|(_, out)| {
        let tiling = tilings.next().expect("one for each product");
        ColumnTiles::new(out, x.tokens(), tiling)
    });
    for_each_tile(pool, tiles, &|matrix, _, tile| {
        multiply_tile(isa, &weights[matrix], x, tile);
    });
}

fn assert_fits(weights: &PanelMatrix<'_>, x: &Activations, out: &[f32]) {
    assert_eq!(
        x.format(),
        act_format(weights.format()),
        "x is prepared for these weights"
    );
    assert_eq!(x.cols(), weights.cols(), "x has a value for each column");
    assert_eq!(
        out.len(),
        x.tokens() * weights.rows(),
        "out is [tokens][rows]"
    );
}

/// How each output is cut into tasks. An output is the product of `M` matrices of equal shape; the
/// outputs are computed in order, so the tail of the run is at the end of the last ones.
fn tilings<const N: usize, const M: usize>(
    threads: usize,
    x: &Activations,
    outputs: [[PanelMatrix<'_>; M]; N],
) -> [Tiling; N] {
    let tile_rows = x.tokens().min(TILE_TOKENS);
    let row_tiles = x.tokens().div_ceil(tile_rows);
    // Cutting into tasks of equal cost would not do: a thread may begin its last one as the others end.
    let mut tail_tasks = match threads {
        1 => 0,
        _ => (threads * TAIL_TASKS).div_ceil(row_tiles),
    };
    let mut tilings = outputs.map(|matrices| {
        let bytes: usize = matrices.iter().map(PanelMatrix::panel_bytes).sum();
        let (rows, cols) = (matrices[0].rows(), matrices[0].cols());
        let macs = M * tile_rows * PANEL_ROWS * cols;
        // A small matrix is all tail.
        let share = TAIL_FACTOR * rows.div_ceil(PANEL_ROWS) / (THREAD_TASKS * threads);
        let panels = (TASK_WEIGHT_BYTES / bytes.max(1))
            .min(TASK_MACS / macs.max(1))
            .min(share)
            .max(1);
        Tiling {
            stride: rows,
            columns: rows,
            tile_rows,
            tile_columns: panels * PANEL_ROWS,
            tail: Tail {
                columns: 0,
                tile_columns: panels.div_ceil(TAIL_FACTOR) * PANEL_ROWS,
            },
        }
    });
    for tiling in tilings.iter_mut().rev() {
        let Tail {
            columns,
            tile_columns,
        } = &mut tiling.tail;
        *columns = tiling.columns.min(tail_tasks * *tile_columns);
        tail_tasks -= columns.div_ceil(*tile_columns);
    }
    tilings
}

/// All panels of one tile, one after the other.
fn multiply_tile(isa: Isa, product: &Product<'_>, x: &Activations, tile: &mut TileMut<'_>) {
    let finish = Finish {
        bias: product.bias,
        epilogue: product.epilogue,
    };
    let rows = tile.rows();
    with_results::<1>(rows, |[results]| {
        for offset in (0..tile.columns()).step_by(PANEL_ROWS) {
            let panel = panel_at(&product.weights, tile.first_column() + offset);
            let part = TilePart {
                rows: 0..rows,
                offset,
            };
            multiply_part(isa, (panel, finish), x, (tile, part), results);
        }
    });
}

/// The panel of the rows from `first` on.
fn panel_at<'a>(weights: &PanelMatrix<'a>, first: usize) -> Panel<'a> {
    Panel {
        format: weights.format(),
        cols: weights.cols(),
        data: weights.panel(first / PANEL_ROWS),
    }
}

/// Lends memory for the results of `M` panels and at most [`TILE_TOKENS`] tokens.
fn with_results<const M: usize>(tokens: usize, f: impl FnOnce([&mut PanelOut; M])) {
    /// Clearing room for more would cost a task of few tokens as much as some of its products.
    const FEW: usize = 8;
    if tokens <= FEW {
        let mut results = [[[0.0; PANEL_ROWS]; FEW]; M];
        f(results.each_mut().map(|results| &mut results[..tokens]));
    } else {
        let mut results = [[[0.0; PANEL_ROWS]; TILE_TOKENS]; M];
        f(results.each_mut().map(|results| &mut results[..tokens]));
    }
}

/// What becomes of the sums of a product.
#[derive(Clone, Copy)]
struct Finish<'a> {
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
}

impl Finish<'_> {
    /// Brings one token's results of a panel, whose first row is `first`, to the output.
    fn apply(self, isa: Isa, first: usize, (result, out): (&mut [f32; PANEL_ROWS], &mut [f32])) {
        if let Some(bias) = self.bias {
            add(result, &bias[first..]);
        }
        match self.epilogue {
            Epilogue::Store => store(result, out),
            Epilogue::Accumulate => add(out, result),
            Epilogue::Gate => silu_mul(isa, out, &result[..out.len()]),
        }
    }
}

/// `to += from`, as far as both go. Most rows are whole panels, whose length the compiler then knows.
fn add(to: &mut [f32], from: &[f32]) {
    match (to.first_chunk_mut(), from.first_chunk()) {
        (Some(to), Some(from)) => add_each::<PANEL_ROWS>(to, from),
        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
    }
}

fn add_each<const N: usize>(to: &mut [f32; N], from: &[f32; N]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// The front of `result`, as long as `out` is.
fn store(result: &[f32; PANEL_ROWS], out: &mut [f32]) {
    match out.first_chunk_mut() {
        Some(out) => *out = *result,
        None => out.copy_from_slice(&result[..out.len()]),
    }
}

/// One panel's columns of some rows of a tile.
struct TilePart {
    /// Rows of the tile, at most [`TILE_TOKENS`].
    rows: Range<usize>,
    /// The panel's first column in the tile.
    offset: usize,
}

impl TilePart {
    fn columns(&self, tile: &TileMut<'_>) -> Range<usize> {
        self.offset..tile.columns().min(self.offset + PANEL_ROWS)
    }
}

/// One panel for some tokens. `results` is memory to work in: a tile's panels share it.
fn multiply_part(
    isa: Isa,
    (panel, finish): (Panel<'_>, Finish<'_>),
    x: &Activations,
    (tile, part): (&mut TileMut<'_>, TilePart),
    results: &mut PanelOut,
) {
    let columns = part.columns(tile);
    let first = tile.first_column() + part.offset;
    let rows = part.rows;
    let results = &mut results[..rows.len()];
    let tokens = x.rows(tile.first_row() + rows.start, rows.len());
    multiply_panel(isa, panel, tokens, results);
    for (row, result) in rows.zip(results) {
        let out = &mut tile.row_mut(row)[columns.clone()];
        finish.apply(isa, first, (result, out));
    }
}

/// The sums of one panel for the tokens of `x`.
fn multiply_panel(isa: Isa, panel: Panel<'_>, x: ActRows<'_>, results: &mut PanelOut) {
    match isa.tier() {
        Tier::Scalar => scalar::multiply_panel(panel, x, results),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::AvxVnni(_) | Tier::Avx512 => {
            x86::multiply_panel(isa, panel, x, results);
        }
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => neon::multiply_panel(isa, panel, x, results),
    }
}
