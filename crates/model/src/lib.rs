//! Architectures as readable forward passes over a device: one file a family.
//!
//! [`open`] reads hyper-parameters from a file and nothing else; [`load`] binds its tensors to a
//! device. The blocks that families share are in `blocks.rs`; a family's file says how it puts them
//! together.

mod binding;
mod blocks;
mod config;
mod error;
mod family;
mod hf;
mod llama;
mod parts;
mod qwen2;
mod step;

pub use config::{DecoderConfig, Rope, RopeScaling};
pub use error::ModelError;
pub use family::{Architecture, Placement, WeightUse, open, weight_uses};
pub use hf::{HfConfig, HfConfigError, HfQuantisation, hf_part_of};
pub use parts::{layer_of, part_of};
pub use step::StepShape;

use kvist_device::{Buf, Device, ForwardBatch, KvCache};
use kvist_weights::GgufFile;

/// A decoder bound to a device.
pub trait Model: Send {
    /// Its hyper-parameters.
    fn config(&self) -> &DecoderConfig;

    /// Runs the batch's rows through every layer, storing their keys and values in `kv`, and leaves
    /// the logits of `batch.logit_rows` in [`Model::logits`].
    ///
    /// # Errors
    /// When the device fails, or the batch is larger than the [`StepShape`] it was loaded for.
    fn forward(
        &mut self,
        device: &mut dyn Device,
        kv: KvCache,
        batch: &ForwardBatch<'_>,
    ) -> Result<(), ModelError>;

    /// `[logit_rows][vocab_len]` f32, in the order of `batch.logit_rows`; valid until the next
    /// forward pass.
    fn logits(&self) -> Buf;
}

/// Binds a file's tensors to `device`, each where `placement` has it, and allocates what one step of
/// `shape` needs.
///
/// # Errors
/// [`ModelError`] names the tensor or key at fault, and what was expected.
pub fn load(
    file: &GgufFile,
    device: &mut dyn Device,
    shape: StepShape,
    placement: &Placement,
) -> Result<Box<dyn Model>, ModelError> {
    let config = open(file)?;
    placement.check(config.layers)?;
    let how = (shape, placement);
    match config.architecture {
        Architecture::Llama | Architecture::SmolLm3 => {
            Ok(Box::new(llama::Llama::load(file, device, config, how)?))
        }
        Architecture::Qwen2 => Ok(Box::new(qwen2::Qwen2::load(file, device, config, how)?)),
    }
}
