//! Which architectures there are, and which tensors each one reads.

use kvist_device::Residence;
use kvist_weights::{GgufFile, TensorInfo};

use crate::config::DecoderConfig;
use crate::error::ModelError;

/// An architecture by the name GGUF files carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM2, Mistral without sliding window: pre-norm, GQA, SwiGLU.
    Llama,
    /// Llama with every fourth layer free of positional rotation.
    SmolLm3,
    /// Qwen 2 and 2.5 and their distillates: Llama with biases on q, k and v.
    Qwen2,
}

impl Architecture {
    const ALL: [Self; 3] = [Self::Llama, Self::SmolLm3, Self::Qwen2];
    const SUPPORTED: &'static str = "llama, smollm3, qwen2";

    /// The name in `general.architecture`, and the prefix of its keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::SmolLm3 => "smollm3",
            Self::Qwen2 => "qwen2",
        }
    }

    pub(crate) fn of(file: &GgufFile) -> Result<Self, ModelError> {
        let given = file.metadata().require_str("general.architecture")?;
        Self::ALL
            .into_iter()
            .find(|family| family.name() == given)
            .ok_or_else(|| ModelError::UnknownArchitecture {
                given: given.to_owned(),
                supported: Self::SUPPORTED,
            })
    }
}

/// Reads a file's hyper-parameters; touches no weights.
///
/// # Errors
/// [`ModelError`] names the key at fault.
pub fn open(file: &GgufFile) -> Result<DecoderConfig, ModelError> {
    DecoderConfig::read(file)
}

/// A tensor and how it will be kept.
#[derive(Clone, Copy, Debug)]
pub struct WeightUse<'a> {
    /// The tensor.
    pub tensor: &'a TensorInfo,
    /// `None` for vectors, which become small f32 buffers. Matrices of layers are packed unless a
    /// [`Placement`] streams them.
    pub residence: Option<Residence>,
}

/// Which weights stay in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Layers whose matrices are streamed from the file, ascending.
    pub streamed_layers: Vec<u32>,
}

impl Placement {
    /// Where the matrices of a layer are.
    pub(crate) fn of_layer(&self, layer: usize) -> Residence {
        let is_streamed = self
            .streamed_layers
            .iter()
            .any(|streamed| *streamed as usize == layer);
        if is_streamed {
            Residence::Streamed
        } else {
            Residence::Packed
        }
    }

    /// Every layer named must be there: a plan for another model would stream too little.
    pub(crate) fn check(&self, layers: usize) -> Result<(), ModelError> {
        match self
            .streamed_layers
            .iter()
            .find(|layer| **layer as usize >= layers)
        {
            Some(layer) => Err(ModelError::NoSuchLayer {
                given: *layer,
                limit: layers,
            }),
            None => Ok(()),
        }
    }
}

/// Every tensor of the file with how loading will keep it: what a plan needs to know.
pub fn weight_uses(file: &GgufFile) -> Vec<WeightUse<'_>> {
    let tied = file.tensor("output.weight").is_none();
    file.tensors()
        .iter()
        .map(|tensor| WeightUse {
            tensor,
            residence: residence(tensor, tied),
        })
        .collect()
}

fn residence(tensor: &TensorInfo, tied: bool) -> Option<Residence> {
    match &*tensor.name {
        // A table that is only looked up stays in the file; one that is also the head is packed once.
        "token_embd.weight" if !tied => Some(Residence::Mapped),
        _ if tensor.rows() > 1 => Some(Residence::Packed),
        _ => None,
    }
}
