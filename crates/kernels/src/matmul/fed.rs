//! Products with a matrix that is not in memory as a whole: each panel is fetched by the task that
//! multiplies it, used for all tokens, and forgotten.

use kvist_base::QuantFormat;

use super::{Epilogue, Finish, Panel, TILE_TOKENS, TilePart, multiply_part, with_results};
use crate::acts::{Activations, act_format};
use crate::isa::Isa;
use crate::panel::{PANEL_ROWS, panel_bytes};
use crate::pool::Pool;
use crate::shared::{ColumnTiles, Tail, Tiling, for_each_tile};

/// Where panels come from.
pub trait PanelFeed: Sync {
    /// Calls `multiply` once with panel `index`: rows `16 * index` and on, in panel layout. A feed
    /// that cannot have the panel remembers why and does not call: that part of the output then
    /// stays as it was.
    ///
    /// `worker` is used by one thread at a time, for scratch memory.
    fn panel(&self, index: usize, worker: usize, multiply: &mut dyn FnMut(&[u8]));
}

/// One matrix product whose panels come from a feed.
#[derive(Clone, Copy)]
pub struct FedProduct<'a> {
    /// How the weights are encoded.
    pub format: QuantFormat,
    /// Values per token of the result.
    pub rows: usize,
    /// Values per token of the input.
    pub cols: usize,
    /// Where the weights are.
    pub feed: &'a dyn PanelFeed,
    /// Added to each token's result: `rows` values.
    pub bias: Option<&'a [f32]>,
    /// What becomes of the result.
    pub epilogue: Epilogue,
}

/// [`matmul`](super::matmul) of the matrix whose panels the feed gives: the same bits.
///
/// Every panel is fetched exactly once, in ascending order but for what threads do side by side.
///
/// # Panics
/// As [`matmul`](super::matmul), and when a row of weights is not whole quant blocks or the feed
/// gives something else than one panel.
pub fn matmul_fed(
    isa: Isa,
    pool: &Pool,
    product: &FedProduct<'_>,
    x: &Activations,
    out: &mut [f32],
) {
    let FedProduct {
        format, rows, cols, ..
    } = *product;
    let tokens = x.tokens();
    assert_eq!(
        x.format(),
        act_format(format),
        "x is prepared for these weights"
    );
    assert_eq!(x.cols(), cols, "x has a value for each column");
    assert_eq!(out.len(), tokens * rows, "out is [tokens][rows]");
    assert!(
        product.bias.is_none_or(|bias| bias.len() == rows),
        "a bias for each row"
    );
    let bytes = panel_bytes(format, cols).expect("rows are whole quant blocks");
    if out.is_empty() {
        return;
    }
    let finish = Finish {
        bias: product.bias,
        epilogue: product.epilogue,
    };
    let tiling = Tiling {
        stride: rows,
        columns: rows,
        tile_rows: tokens,
        tile_columns: PANEL_ROWS,
        tail: Tail {
            columns: 0,
            tile_columns: PANEL_ROWS,
        },
    };
    for_each_tile(
        pool,
        [ColumnTiles::new(out, tokens, tiling)],
        &|_, worker, tile| {
            let index = tile.first_column() / PANEL_ROWS;
            product.feed.panel(index, worker, &mut |data| {
                assert_eq!(data.len(), bytes, "one panel");
                let panel = Panel { format, cols, data };
                with_results::<1>(tokens.min(TILE_TOKENS), |[results]| {
                    for first in (0..tokens).step_by(TILE_TOKENS) {
                        let part = TilePart {
                            rows: first..tokens.min(first + TILE_TOKENS),
                            offset: 0,
                        };
                        multiply_part(isa, (panel, finish), x, (tile, part), results);
                    }
                });
            });
        },
    );
}
