//! What single operations need beside their buffers: known before anything is allocated, so that a
//! plan can count it.

use kvist_base::{Bytes, QuantFormat};
use kvist_kernels::{ActWidths, Activations, AttentionLimits, AttentionScratch};

use crate::ops::KvSpec;

/// What [`Device::alloc_kv`](crate::Device::alloc_kv) allocates for attention on the CPU.
pub fn attention_scratch_bytes(spec: &KvSpec, threads: usize) -> Bytes {
    Bytes::of_len(AttentionScratch::bytes(&attention_limits(spec, threads)))
}

/// What [`Device::reserve`](crate::Device::reserve) allocates on the CPU for the inputs of products
/// with weights of these formats and columns.
pub fn input_scratch_bytes(
    weights: impl IntoIterator<Item = (QuantFormat, usize)>,
    tokens_max: usize,
) -> Bytes {
    let mut widths = ActWidths::default();
    for (format, cols) in weights {
        widths.include(format, cols);
    }
    Bytes::of_len(Activations::bytes_for(tokens_max, widths))
}

pub(super) fn attention_limits(spec: &KvSpec, threads: usize) -> AttentionLimits {
    AttentionLimits {
        threads,
        tokens_max: spec.readers.tokens_max,
        context_max: spec.readers.context_max,
        heads: spec.readers.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
    }
}
