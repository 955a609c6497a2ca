//! Qwen 2, 2.5 and distillates on them (Yang et al. 2024): Llama's layer with biases on q, k and v,
//! rotated by halves.

use kvist_device::{Buf, Device, ForwardBatch, KvCache, RopeStyle};
use kvist_weights::GgufFile;

use crate::Model;
use crate::binding::Binder;
use crate::blocks::{Layer, QkvBias, Rotation, Trunk};
use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::family::Placement;
use crate::step::StepShape;

#[derive(Debug)]
pub(crate) struct Qwen2 {
    trunk: Trunk,
    layers: Vec<Layer>,
}

impl Qwen2 {
    pub(crate) fn load(
        file: &GgufFile,
        device: &mut dyn Device,
        config: DecoderConfig,
        (shape, placement): (StepShape, &Placement),
    ) -> Result<Self, ModelError> {
        let mut binder = Binder::new(file, device, (config.architecture.name(), placement))?;
        let layers = (0..config.layers)
            .map(|idx| Layer::bind(&mut binder, &config, (idx, QkvBias::Required)))
            .collect::<Result<_, ModelError>>()?;
        let trunk = Trunk::bind(&mut binder, config, shape)?;
        binder.finish()?;
        Ok(Self { trunk, layers })
    }
}

impl Model for Qwen2 {
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
            for (idx, layer) in layers.iter().enumerate() {
                pass.attention(layer, (idx, kv), Rotation::By(RopeStyle::Halves));
                pass.mlp(layer);
            }
        })
    }

    fn logits(&self) -> Buf {
        self.trunk.buffers.logits
    }
}
