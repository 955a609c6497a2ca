//! Where keys and values lie in the KV arena.

use kvist_base::KvDtype;

use super::rows;
use crate::Isa;
use crate::lanes::{self, Kernel, Lanes};

/// The largest head the kernels take.
pub const HEAD_DIM_MAX: usize = 256;

/// The shape of the KV arena, block-contiguous:
///
/// ```text
/// [block][layer][k | v][kv_head][slot in block][row]
///        |<------------- one block --------------->|
/// ```
///
/// A KV row is one token's key, or value, of one head: `head_dim` values as `dtype` stores them.
/// Blocks, rows and offsets are counted in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Token positions in a block.
    pub block_size: usize,
    /// Layers that keep keys and values.
    pub layers: usize,
    /// Key (and value) heads of a layer.
    pub kv_heads: usize,
    /// Values of a head: a multiple of 8, at most [`HEAD_DIM_MAX`].
    pub head_dim: usize,
    /// How a row stores its values.
    pub dtype: KvDtype,
}

impl KvLayout {
    /// Bytes of one row.
    pub const fn row_bytes(&self) -> usize {
        self.dtype.row_bytes(self.head_dim)
    }

    /// Bytes of one block.
    pub const fn block_bytes(&self) -> usize {
        self.layers * 2 * self.side_bytes()
    }

    /// Where the keys of `head` start in `block`: `block_size` rows.
    pub const fn k_offset(&self, block: usize, layer: usize, head: usize) -> usize {
        let side = (block * self.layers + layer) * 2;
        side * self.side_bytes() + head * self.block_size * self.row_bytes()
    }

    /// Where the values of `head` start in `block`: `block_size` rows.
    pub const fn v_offset(&self, block: usize, layer: usize, head: usize) -> usize {
        self.k_offset(block, layer, head) + self.side_bytes()
    }

    /// Keys, or values, of one block and layer.
    const fn side_bytes(&self) -> usize {
        self.kv_heads * self.block_size * self.row_bytes()
    }

    /// Panics when no kernel can work on this shape: configuration was to refuse it.
    pub(super) fn assert_supported(&self) {
        assert!(self.block_size > 0 && self.layers > 0 && self.kv_heads > 0);
        assert!(self.head_dim > 0 && self.head_dim <= HEAD_DIM_MAX);
        assert!(self.head_dim.is_multiple_of(8), "a head is whole vectors");
    }
}

/// Keys and values of one token in one layer, and where they go.
#[derive(Clone, Copy, Debug)]
pub struct KvToken<'a> {
    /// The layer.
    pub layer: usize,
    /// `block * block_size + offset in the block`.
    pub slot: usize,
    /// `[kv_heads][head_dim]`.
    pub k: &'a [f32],
    /// `[kv_heads][head_dim]`.
    pub v: &'a [f32],
}

/// Writes one token's keys and values into the arena `kv`, each rounded to the nearest that the
/// dtype can say, ties to even. What is not finite, or beyond the dtype's range, stays or becomes
/// infinite or not a number, and so does what attention makes of it, which is reported upstream.
///
/// # Panics
/// When the layout is not supported, `k` or `v` has not one value for each head's dimension, or
/// the slot is outside the arena.
pub fn kv_write(isa: Isa, layout: &KvLayout, token: &KvToken<'_>, kv: &mut [u8]) {
    layout.assert_supported();
    assert!(token.layer < layout.layers);
    assert_eq!(token.k.len(), layout.kv_heads * layout.head_dim);
    assert_eq!(token.v.len(), layout.kv_heads * layout.head_dim);
    lanes::run(isa, Write { layout, token, kv });
}

struct Write<'a> {
    layout: &'a KvLayout,
    token: &'a KvToken<'a>,
    kv: &'a mut [u8],
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { layout, token, kv } = self;
        let (block, offset) = (
            token.slot / layout.block_size,
            token.slot % layout.block_size,
        );
        let row_bytes = layout.row_bytes();
        let k_start = layout.k_offset(block, token.layer, 0) + offset * row_bytes;
        let v_start = layout.v_offset(block, token.layer, 0) + offset * row_bytes;
        let head_stride = layout.block_size * row_bytes;
        for (start, values) in [(k_start, token.k), (v_start, token.v)] {
            for (head, values) in values.chunks_exact(layout.head_dim).enumerate() {
                let to = &mut kv[start + head * head_stride..][..row_bytes];
                rows::encode(lanes, layout.dtype, values, to);
            }
        }
    }
}
