//! GGUF files to checked, typed, memory-mapped views. Hostile input dies here.
//!
//! ```text
//! bytes -> header (counts, keys, tensor infos) -> Metadata + TensorInfo -> TensorData
//!          every length is proven by bytes          ranges are proven        a view into
//!          present before it is believed            against the file         the mapping
//! ```
//!
//! Nothing here knows a model architecture: keys are handed out typed, tensors by name. The format
//! is GGUF version 2 and 3, little-endian (ggml's `docs/gguf.md`). Every bound is in [`limits`]. Of folders from
//! the Hugging Face hub [`hf`] reads what a plan needs: headers, index and configuration.

mod cursor;
mod error;
mod file;
mod foreign;
mod ggml;
mod header;
pub mod hf;
pub mod limits;
mod metadata;
mod mmap;
mod split;
mod tensor;
mod value;
pub mod write;

pub use error::WeightsError;
pub use file::{GgufFile, TensorData};
pub use ggml::GgmlType;
pub use metadata::{Metadata, U32OrArray};
pub use tensor::{Dims, TensorInfo};
pub use value::{Array, StrArray, Value};
