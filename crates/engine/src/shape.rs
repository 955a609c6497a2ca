//! A model file's header as the planner takes it.

use std::collections::BTreeMap;

use kvist_base::{Bytes, KvDtype, WeightPart};
use kvist_device::{
    KvReaders, KvSpec, Residence, attention_scratch_bytes, input_scratch_bytes,
    packed_weight_bytes, stream_buffer_bytes,
};
use kvist_model::{DecoderConfig, StepShape, layer_of, part_of, weight_uses};
use kvist_plan::{ModelShape, StepCost, WeightKind, WeightLine};
use kvist_weights::GgufFile;

use crate::load::LoadError;

/// The numbers a plan is made of.
pub(crate) fn model_shape(
    file: &GgufFile,
    config: &DecoderConfig,
) -> Result<ModelShape, LoadError> {
    let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let Weights {
        lines,
        layer_weight_max,
        layer_panel_max,
    } = weights(file, config.layers)?;
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
        weights: lines,
        layer_weight_max,
        step: Some(step_cost(file, config)?),
        layer_panel_max,
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

/// The weights of a file, grouped as reports show them.
struct Weights {
    lines: Vec<WeightLine>,
    /// The largest matrix of a decoder layer.
    layer_weight_max: Bytes,
    /// What a thread needs to stream any matrix of a decoder layer.
    layer_panel_max: Bytes,
}

/// Bytes by part, format and place, as loading will keep them.
fn weights(file: &GgufFile, layers: usize) -> Result<Weights, LoadError> {
    let mut groups: BTreeMap<(WeightPart, String), WeightLine> = BTreeMap::new();
    let (mut layer_weight_max, mut layer_panel_max) = (Bytes::ZERO, Bytes::ZERO);
    for weight in weight_uses(file) {
        let format = weight.tensor.format()?;
        let (rows, cols) = (weight.tensor.rows(), weight.tensor.cols());
        let (part, label, kind, bytes) = match weight.residence {
            Some(residence) => {
                let part = part_of(&weight.tensor.name);
                let label = format!("{part} {format}");
                match residence {
                    Residence::Mapped => (part, label, WeightKind::Mapped, weight.tensor.bytes),
                    Residence::Packed | Residence::Streamed => {
                        // The reader has proven that rows are whole quant blocks.
                        let bytes = packed_weight_bytes(format, rows, cols).unwrap_or_default();
                        (part, label, WeightKind::Resident, bytes)
                    }
                }
            }
            None => {
                let part = WeightPart::Vectors;
                (
                    part,
                    part.to_string(),
                    WeightKind::Resident,
                    Bytes::of_len(cols) * 4,
                )
            }
        };
        let line = groups.entry((part, label.clone())).or_insert(WeightLine {
            part,
            label,
            values: 0,
            bytes: Bytes::ZERO,
            kind,
            by_layer: Vec::new(),
        });
        line.bytes += bytes;
        let values = (rows as u64).saturating_mul(cols as u64);
        line.values = line.values.saturating_add(values);
        let layer = layer_of(&weight.tensor.name).filter(|layer| *layer < layers);
        if let (Some(layer), Some(Residence::Packed)) = (layer, weight.residence) {
            line.by_layer.resize(layers, Bytes::ZERO);
            line.by_layer[layer] += bytes;
            layer_weight_max = layer_weight_max.max(bytes);
            // As above: rows are whole quant blocks.
            let panel = stream_buffer_bytes(format, cols).unwrap_or_default();
            layer_panel_max = layer_panel_max.max(panel);
        }
    }
    Ok(Weights {
        lines: groups.into_values().collect(),
        layer_weight_max,
        layer_panel_max,
    })
}

/// The terms of a step's memory. Whatever allocates it says what it will be for given limits, and each
/// sum is linear in each limit, so that its terms are differences.
fn step_cost(file: &GgufFile, config: &DecoderConfig) -> Result<StepCost, LoadError> {
    let buffers = |tokens_max, sequences_max, logit_rows_max, tables_max| {
        let shape = StepShape {
            tokens_max,
            sequences_max,
            logit_rows_max,
            tables_max,
        };
        shape.buffer_bytes(config)
    };
    let attention = |threads, tokens_max, context_max| {
        let readers = KvReaders {
            heads: config.heads,
            tokens_max,
            context_max,
        };
        let spec = KvSpec {
            blocks: 1,
            block_size: 1,
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            dtype: KvDtype::default(),
            readers,
        };
        attention_scratch_bytes(&spec, threads)
    };
    let mut inputs = Vec::new();
    for weight in weight_uses(file) {
        if matches!(
            weight.residence,
            Some(Residence::Packed | Residence::Streamed)
        ) {
            inputs.push((weight.tensor.format()?, weight.tensor.cols()));
        }
    }
    let fixed = (buffers(0, 0, 0, 0), attention(0, 0, 1));
    // One partition alone is never split, so the first difference is two of them.
    let two_partitions = attention(0, 0, 1024) - fixed.1;
    Ok(StepCost {
        fixed: fixed.0 + fixed.1,
        per_token: buffers(1, 0, 0, 0) - fixed.0 + attention(0, 1, 1) - fixed.1
            + input_scratch_bytes(inputs, 1),
        per_sequence: buffers(0, 1, 0, 0) - fixed.0,
        per_logit_row: buffers(0, 0, 1, 0) - fixed.0,
        per_table_entry: buffers(0, 0, 0, 1) - fixed.0,
        per_thread: attention(1, 0, 1) - fixed.1,
        per_partition: Bytes(two_partitions.0.div_ceil(2)),
    })
}
