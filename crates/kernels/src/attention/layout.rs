//! Where keys and values lie in the KV arena.

use crate::Isa;
use crate::lanes::{self, Kernel, Lanes};

/// The largest head the kernels take.
pub const HEAD_DIM_MAX: usize = 256;

/// The shape of the KV arena, block-contiguous:
///
/// ```text
/// [block][layer][k | v][kv_head][slot in block][head_dim]
///        |<-------------- one block ------------------>|
/// ```
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
}

impl KvLayout {
    /// Values of one block.
    pub const fn block_values(&self) -> usize {
        self.layers * 2 * self.side_values()
    }

    /// Where the keys of `head` start in `block`: `block_size` rows of `head_dim` values.
    pub const fn k_offset(&self, block: usize, layer: usize, head: usize) -> usize {
        let side = (block * self.layers + layer) * 2;
        side * self.side_values() + head * self.block_size * self.head_dim
    }

    /// Where the values of `head` start in `block`: `block_size` rows of `head_dim` values.
    pub const fn v_offset(&self, block: usize, layer: usize, head: usize) -> usize {
        self.k_offset(block, layer, head) + self.side_values()
    }

    /// Keys, or values, of one block and layer.
    const fn side_values(&self) -> usize {
        self.kv_heads * self.block_size * self.head_dim
    }

    /// Panics when no kernel can work on this shape: configuration was to refuse it.
    pub(super) fn assert_supported(&self) {
        assert!(self.block_size > 0 && self.layers > 0 && self.kv_heads > 0);
        assert!(self.head_dim > 0 && self.head_dim <= HEAD_DIM_MAX);
        assert!(self.head_dim.is_multiple_of(8), "a head is whole vectors");
    }
}

/// The KV arena, or its committed front, for reading.
#[derive(Clone, Copy, Debug)]
pub enum KvSlice<'a> {
    /// IEEE half precision bits.
    F16(&'a [u16]),
    /// Single precision.
    F32(&'a [f32]),
}

/// The KV arena for writing.
#[derive(Debug)]
pub enum KvSliceMut<'a> {
    /// IEEE half precision bits.
    F16(&'a mut [u16]),
    /// Single precision.
    F32(&'a mut [f32]),
}

/// Keys and values of one token in one layer, and where they go.
#[derive(Clone, Copy, Debug)]
pub struct KvRow<'a> {
    /// The layer.
    pub layer: usize,
    /// `block * block_size + offset in the block`.
    pub slot: usize,
    /// `[kv_heads][head_dim]`.
    pub k: &'a [f32],
    /// `[kv_heads][head_dim]`.
    pub v: &'a [f32],
}

/// Writes one token's keys and values. To f16 they round to nearest even; beyond its range they
/// become infinite and the attention that reads them not a number, which is reported upstream.
///
/// # Panics
/// When the layout is not supported, `k` or `v` has not one value for each head's dimension, or
/// the slot is outside the arena.
pub fn kv_write(isa: Isa, layout: &KvLayout, row: &KvRow<'_>, kv: KvSliceMut<'_>) {
    layout.assert_supported();
    assert!(row.layer < layout.layers);
    assert_eq!(row.k.len(), layout.kv_heads * layout.head_dim);
    assert_eq!(row.v.len(), layout.kv_heads * layout.head_dim);
    match kv {
        KvSliceMut::F16(kv) => lanes::run(isa, WriteF16 { layout, row, kv }),
        KvSliceMut::F32(kv) => {
            for (start, values) in destinations(layout, row) {
                kv[start..start + layout.head_dim].copy_from_slice(values);
            }
        }
    }
}

/// Each head's keys, then values, with the offset they go to.
#[inline(always)]
fn destinations<'a>(
    layout: &'a KvLayout,
    row: &KvRow<'a>,
) -> impl Iterator<Item = (usize, &'a [f32])> {
    let (block, offset) = (row.slot / layout.block_size, row.slot % layout.block_size);
    let (layer, within) = (row.layer, offset * layout.head_dim);
    let k = row.k.chunks_exact(layout.head_dim).enumerate();
    let v = row.v.chunks_exact(layout.head_dim).enumerate();
    k.map(move |(head, k)| (layout.k_offset(block, layer, head) + within, k))
        .chain(v.map(move |(head, v)| (layout.v_offset(block, layer, head) + within, v)))
}

struct WriteF16<'a> {
    layout: &'a KvLayout,
    row: &'a KvRow<'a>,
    kv: &'a mut [u16],
}

impl Kernel for WriteF16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for (start, values) in destinations(self.layout, self.row) {
            let (to, _) = self.kv[start..start + values.len()].as_chunks_mut::<8>();
            let (from, _) = values.as_chunks::<8>();
            for (to, from) in to.iter_mut().zip(from) {
                *to = lanes.narrow(lanes.load(from));
            }
        }
    }
}
