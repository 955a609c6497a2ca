//! Llama (Touvron et al. 2023; Llama 3 with its per-frequency rotation factors) and SmolLM3, which
//! leaves every fourth layer without rotation.

use kvist_device::{Buf, Device, ForwardBatch, KvCache, RopeStyle};
use kvist_weights::GgufFile;

use crate::Model;
use crate::binding::Binder;
use crate::blocks::{Layer, QkvBias, Rotation, Trunk};
use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::family::{Architecture, Placement};
use crate::step::StepShape;

/// GGUF files of this family store q and k with their rows permuted so that a rotated pair is adjacent.
const STYLE: RopeStyle = RopeStyle::Pairs;

#[derive(Debug)]
pub(crate) struct Llama {
    trunk: Trunk,
    layers: Vec<(Layer, Rotation)>,
}

impl Llama {
    pub(crate) fn load(
        file: &GgufFile,
        device: &mut dyn Device,
        config: DecoderConfig,
        (shape, placement): (StepShape, &Placement),
    ) -> Result<Self, ModelError> {
        let mut binder = Binder::new(file, device, (config.architecture.name(), placement))?;
        let layers = (0..config.layers)
            .map(|idx| {
                let layer = Layer::bind(&mut binder, &config, (idx, QkvBias::Optional))?;
                Ok((layer, rotation(config.architecture, idx)))
            })
            .collect::<Result<_, ModelError>>()?;
        let trunk = Trunk::bind(&mut binder, config, shape)?;
        binder.finish()?;
        Ok(Self { trunk, layers })
    }
}

/// SmolLM3's interval is part of the architecture: files do not carry it.
fn rotation(architecture: Architecture, layer: usize) -> Rotation {
    match architecture {
        Architecture::SmolLm3 if layer % 4 == 3 => Rotation::None,
        _ => Rotation::By(STYLE),
    }
}

impl Model for Llama {
    fn config(&self) -> &DecoderConfig {
        &self.trunk.config
    }

    fn forward(
        &mut self,
        device: &mut dyn Device,
        kv: KvCache,
        batch: &ForwardBatch<'_>,
    ) -> Result<(), ModelError> {
        let Self { trunk, layers } = self;
        trunk.run(device, batch, |pass| {
            for (idx, (layer, rotation)) in layers.iter().enumerate() {
                pass.attention(layer, (idx, kv), *rotation);
                pass.mlp(layer);
            }
        })
    }

    fn logits(&self) -> Buf {
        self.trunk.buffers.logits
    }
}
