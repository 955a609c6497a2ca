//! Operations as data, and the handles they name.

use kvist_base::{KvDtype, QuantFormat};
use kvist_kernels::RopeStyle;

/// A buffer of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buf(pub(crate) u32);

/// What a buffer's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Single-precision values.
    F32,
    /// Ids, positions, slots, tables.
    U32,
}

/// A buffer to be allocated.
#[derive(Clone, Copy, Debug)]
pub struct BufSpec {
    /// What it is for, in error messages and memory reports.
    pub label: &'static str,
    /// What it holds.
    pub element: Element,
    /// How many of them.
    pub len: usize,
}

/// A weight of one device: `rows x cols`, applied as `y = W x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    pub(crate) idx: u32,
    /// Output features, or entries of a table.
    pub rows: usize,
    /// Input features, or values of an entry.
    pub cols: usize,
    /// Encoding.
    pub format: QuantFormat,
}

/// A KV pool of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCache(pub(crate) u32);

/// A KV pool to be allocated, laid out `[block][layer][k|v][kv_head][offset][row]`; a row is
/// `dtype.row_bytes(head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Most blocks there can ever be: an address range, not memory.
    pub blocks: usize,
    /// Token positions in a block.
    pub block_size: usize,
    /// Layers that keep keys and values.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// How values are stored.
    pub dtype: KvDtype,
    /// Who will read it.
    pub readers: KvReaders,
}

/// What attention over a KV pool will at most be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvReaders {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Rows in a step.
    pub tokens_max: usize,
    /// Positions in a sequence.
    pub context_max: usize,
}

/// What a product does with what its output buffer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = y`
    Store,
    /// `out = out + y`: a residual connection.
    Accumulate,
    /// `out = silu(out) * y`: the second half of a gated MLP.
    Gate,
}

/// `out[n][rows] (=|+=) x[n][cols] W^T + bias`
#[derive(Clone, Copy, Debug)]
pub struct MatmulOp {
    /// The matrix.
    pub weight: Weight,
    /// [rows], added to every row of the product.
    pub bias: Option<Buf>,
    /// [n][cols]
    pub x: Buf,
    /// [n][rows]
    pub out: Buf,
    /// Rows of `x`.
    pub n: usize,
    /// Store or accumulate.
    pub epilogue: Epilogue,
}

/// One of several products with the same input: `out[n][rows] = x[n][cols] W^T + bias`
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    /// The matrix.
    pub weight: Weight,
    /// [rows], added to every row of the product.
    pub bias: Option<Buf>,
    /// [n][rows]
    pub out: Buf,
}

/// Queries, keys and values of the same rows: three products, between which no thread has to wait.
#[derive(Clone, Copy, Debug)]
pub struct QkvOp {
    /// [n][cols]
    pub x: Buf,
    /// Rows of `x`.
    pub n: usize,
    /// Queries, keys, values.
    pub projections: [Projection; 3],
}

/// The gated half of an MLP: `out[n][rows] = silu(x W_gate^T) * (x W_up^T)`
#[derive(Clone, Copy, Debug)]
pub struct GatedOp {
    /// W_gate.
    pub gate: Weight,
    /// W_up, of the same shape.
    pub up: Weight,
    /// [n][cols]
    pub x: Buf,
    /// [n][rows]
    pub out: Buf,
    /// Rows of `x`.
    pub n: usize,
}

/// Attention of rows over paged keys and values, prefill and decode mixed.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOp {
    /// The pool.
    pub kv: KvCache,
    /// Which layer's keys and values.
    pub layer: usize,
    /// [n][heads * head_dim]
    pub q: Buf,
    /// [sequences * 4] u32: the fields of a [`SequenceSpan`](crate::SequenceSpan) in order.
    pub spans: Buf,
    /// How many sequences.
    pub sequences: usize,
    /// Block tables, flat.
    pub block_tables: Buf,
    /// Entries of `block_tables` in use.
    pub tables_len: usize,
    /// [n][heads * head_dim]
    pub out: Buf,
    /// Rows.
    pub n: usize,
    /// Query heads; a multiple of the pool's `kv_heads`.
    pub heads: usize,
    /// Factor on `q . k`, usually `head_dim^-0.5`.
    pub scale: f32,
}

/// Rotation of every head of every row of `x` in place, by angles of [`Op::RopeAngles`].
#[derive(Clone, Copy, Debug)]
pub struct RopeOp {
    /// [n][heads * head_dim]
    pub x: Buf,
    /// [n][head_dim / 2]
    pub cos: Buf,
    /// [n][head_dim / 2]
    pub sin: Buf,
    /// Rows.
    pub n: usize,
    /// Heads in a row.
    pub heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Which values form a pair.
    pub style: RopeStyle,
}

/// Storing keys and values of rows into their slots.
#[derive(Clone, Copy, Debug)]
pub struct KvWriteOp {
    /// The pool.
    pub kv: KvCache,
    /// Which layer's keys and values.
    pub layer: usize,
    /// [n][kv_heads * head_dim]
    pub k: Buf,
    /// [n][kv_heads * head_dim]
    pub v: Buf,
    /// [n] u32
    pub slots: Buf,
    /// Rows.
    pub n: usize,
}

/// One operation. `n` counts rows; matrices are row-major and dense.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // fields are named in the formulas
pub enum Op {
    /// `out[i] = table[tokens[i]]`
    Embed {
        table: Weight,
        tokens: Buf,
        out: Buf,
        n: usize,
    },
    /// `out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight`, rows of `dim` values.
    RmsNorm {
        x: Buf,
        weight: Buf,
        out: Buf,
        n: usize,
        dim: usize,
        eps: f32,
    },
    /// Matrix product.
    Matmul(MatmulOp),
    /// Queries, keys and values.
    Qkv(QkvOp),
    /// Two products and the gate between them.
    Gated(GatedOp),
    /// `cos[i][j], sin[i][j]` of `positions[i] * inv_freq[j]`, `j < half`, for [`Op::Rope`].
    RopeAngles {
        positions: Buf,
        inv_freq: Buf,
        cos: Buf,
        sin: Buf,
        n: usize,
        half: usize,
    },
    /// Rotation by position.
    Rope(RopeOp),
    /// Storing keys and values.
    KvWrite(KvWriteOp),
    /// Attention.
    Attention(AttentionOp),
    /// `out[i] = x[rows[i]]`
    GatherRows {
        x: Buf,
        rows: Buf,
        out: Buf,
        n: usize,
        dim: usize,
    },
}

impl Op {
    /// The matrices it multiplies with, in the order it needs them.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = Weight> {
        let matrices = match self {
            Self::Matmul(op) => [Some(op.weight), None, None],
            Self::Qkv(op) => op.projections.map(|projection| Some(projection.weight)),
            Self::Gated(op) => [Some(op.gate), Some(op.up), None],
            _ => [None; 3],
        };
        matrices.into_iter().flatten()
    }
}
