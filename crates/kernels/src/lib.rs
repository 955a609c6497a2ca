//! CPU maths over slices: quantised formats, matrix products, norm, rope, attention.
//!
//! Every function here takes and returns plain slices. All SIMD of the project is in [`arch`];
//! an [`Isa`] value proves at run time that the CPU has the instructions. The scalar tier is the
//! oracle: for one input every tier gives the same bits, whatever the batch and the thread count.

pub mod arch;
mod isa;
#[allow(unsafe_code)] // hands a borrowed closure to threads
mod pool;
#[allow(unsafe_code)] // disjoint mutable views of one slice
mod shared;

pub use isa::Isa;
pub use pool::Pool;
pub use shared::{
    ColumnTiles, TileIdx, TileMut, Tiling, WorkerLocal, for_each_chunk, for_each_chunk_on,
    for_each_tile,
};
