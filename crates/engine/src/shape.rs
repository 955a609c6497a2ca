//! A model file's header as the planner takes it.

use std::collections::BTreeMap;

use kvist_base::Bytes;
use kvist_device::{Residence, packed_weight_bytes};
use kvist_model::{DecoderConfig, weight_uses};
use kvist_plan::{ModelShape, WeightKind, WeightLine};
use kvist_weights::GgufFile;

use crate::load::LoadError;

/// The numbers a plan is made of.
pub(crate) fn model_shape(
    file: &GgufFile,
    config: &DecoderConfig,
) -> Result<ModelShape, LoadError> {
    let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(ModelShape {
        name: model_name(file)?,
        architecture: config.architecture.name().to_owned(),
        layers: narrow(config.layers),
        heads: narrow(config.heads),
        kv_heads: narrow(config.kv_heads),
        head_dim: narrow(config.head_dim),
        dim: narrow(config.dim),
        ffn_dim: narrow(config.ffn_dim),
        vocab_len: narrow(config.vocab_len),
        context_max: config.context_max,
        weights: weight_lines(file)?,
        file_bytes: file.tensor_bytes(),
    })
}

/// The name the file gives itself, else the file's own.
fn model_name(file: &GgufFile) -> Result<String, LoadError> {
    if let Some(name) = file.metadata().opt_str("general.name")? {
        return Ok(name.to_owned());
    }
    let stem = file.paths().first().and_then(|path| path.file_stem());
    Ok(stem
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default())
}

/// Bytes by format and place, as loading will keep them.
fn weight_lines(file: &GgufFile) -> Result<Vec<WeightLine>, LoadError> {
    let mut resident: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut mapped = resident.clone();
    for weight in weight_uses(file) {
        let format = weight.tensor.format()?;
        let (rows, cols) = (weight.tensor.rows(), weight.tensor.cols());
        match weight.residence {
            Some(Residence::Mapped) => {
                *mapped.entry(format.to_string()).or_default() += weight.tensor.bytes;
            }
            Some(Residence::Packed) => {
                // The reader has proven that rows are whole quant blocks.
                let bytes = packed_weight_bytes(format, rows, cols).unwrap_or_default();
                *resident.entry(format.to_string()).or_default() += bytes;
            }
            None => {
                *resident.entry("norms, biases".to_owned()).or_default() += Bytes::of_len(cols) * 4;
            }
        }
    }
    let line = |kind| move |(label, bytes)| WeightLine { label, bytes, kind };
    let lines = resident.into_iter().map(line(WeightKind::Resident));
    Ok(lines
        .chain(mapped.into_iter().map(line(WeightKind::Mapped)))
        .collect())
}
