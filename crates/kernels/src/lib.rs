//! CPU maths over slices: quantised formats, matrix products, norm, rope, attention.
//!
//! Every function here takes and returns plain slices. All SIMD of the project is in [`arch`];
//! an [`Isa`] value proves at run time that the CPU has the instructions. The scalar tier is the
//! oracle: for one input every tier gives the same bits, whatever the batch and the thread count.

mod activation;
mod acts;
pub mod arch;
mod attention;
mod exp;
mod isa;
mod lanes;
mod matmul;
pub mod naive;
mod norm;
mod panel;
#[allow(unsafe_code)] // hands a borrowed closure to threads
mod pool;
mod probe;
pub mod quant;
mod rope;
#[allow(unsafe_code)] // disjoint mutable views of one slice
mod shared;

pub use activation::silu_mul;
pub use acts::{ActFormat, ActWidths, Activations, Rows, act_format};
pub use attention::{
    AttentionBatch, AttentionLimits, AttentionScratch, HEAD_DIM_MAX, KvLayout, KvToken, KvView,
    SequenceSpan, kv_write, paged_attention,
};
pub use isa::{Isa, IsaError};
pub use matmul::{
    Epilogue, FedProduct, GatedProduct, PanelFeed, Product, matmul, matmul_each, matmul_fed,
    matmul_gated,
};
pub use norm::rms_norm;
pub use panel::{PANEL_ROWS, PanelMatrix, pack_panel, packed_bytes, panel_bytes};
pub use pool::Pool;
pub use probe::DotProbe;
pub use rope::{RopeStyle, Rotation, rope_angles, rope_row};
pub use shared::{
    ColumnTiles, Tail, TileMut, Tiling, WorkerLocal, for_each_chunk, for_each_chunk_on,
    for_each_tile,
};
