//! Two products of one input and the gate between them, in one run of the pool.

use super::{
    Activations, ColumnTiles, Isa, PANEL_ROWS, PanelMatrix, Pool, TileMut, TilePart, assert_fits,
    for_each_tile, multiply_panel, panel_at, store, tilings, with_results,
};
use crate::activation::silu_mul;

/// The gated half of an MLP: `silu(W_gate x) * (W_up x)`.
#[derive(Clone, Copy, Debug)]
pub struct GatedProduct<'a> {
    /// W_gate, `rows` x `cols`.
    pub gate: PanelMatrix<'a>,
    /// W_up, of the same shape; its format may be another one.
    pub up: PanelMatrix<'a>,
}

/// `out[t][r] = silu(gate[t][r]) * up[t][r]`, with the bits of two [`matmul`](super::matmul)s and
/// [`silu_mul`] on what they give. Neither half is ever in memory: the values are multiplied panel by
/// panel, where they were summed.
///
/// # Panics
/// As [`matmul`](super::matmul), for either matrix, and when their shapes differ.
pub fn matmul_gated(
    isa: Isa,
    pool: &Pool,
    product: GatedProduct<'_>,
    x: &Activations,
    out: &mut [f32],
) {
    assert_fits(&product.gate, x, out);
    assert_fits(&product.up, x, out);
    if out.is_empty() {
        return;
    }
    let [tiling] = tilings(pool.threads(), x, [[product.gate, product.up]]);
    let tiles = ColumnTiles::new(out, x.tokens(), tiling);
    for_each_tile(pool, [tiles], &|_, _, tile| {
        multiply_tile(isa, product, x, tile);
    });
}

fn multiply_tile(isa: Isa, product: GatedProduct<'_>, x: &Activations, tile: &mut TileMut<'_>) {
    let rows = tile.rows();
    with_results(rows, |[gate, up]| {
        for offset in (0..tile.columns()).step_by(PANEL_ROWS) {
            let first = tile.first_column() + offset;
            let tokens = x.rows(tile.first_row(), rows);
            multiply_panel(isa, panel_at(&product.gate, first), tokens, gate);
            multiply_panel(isa, panel_at(&product.up, first), tokens, up);
            silu_mul(isa, gate.as_flattened_mut(), up.as_flattened());
            let part = TilePart {
                rows: 0..rows,
                offset,
            };
            let columns = part.columns(tile);
            for (row, gate) in gate.iter().enumerate() {
                store(gate, &mut tile.row_mut(row)[columns.clone()]);
            }
        }
    });
}
