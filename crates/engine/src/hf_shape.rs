//! A Hugging Face model's headers as the planner takes them.

use std::collections::BTreeMap;

use kvist_base::{Bytes, WeightPart};
use kvist_model::{HfConfig, HfQuantisation, hf_part_of};
use kvist_plan::{ModelShape, WeightKind, WeightLine, WeightScheme};
use kvist_weights::hf::{HfFolder, HfTensor};

use crate::what_if::WhatIfError;

/// Rows of weights a thread that streams has room for: a panel as the file has it, and as served.
const PANEL_BUFFER_ROWS: u64 = 32;

/// The numbers a plan is made of: sizes from the files' headers where they are, else from the index's
/// total, else from the dimensions.
pub(crate) fn hf_model_shape(
    folder: &HfFolder,
    config: &HfConfig,
    notes: &mut Vec<String>,
) -> Result<ModelShape, WhatIfError> {
    let computed = shape_of(folder, config);
    if !folder.tensors.is_empty() {
        let weights = lines_of(&folder.tensors, config);
        let in_layers = folder
            .tensors
            .iter()
            .filter(|tensor| in_layer(tensor, config).is_some());
        let largest = in_layers.clone().map(|tensor| tensor.bytes).max();
        let longest_row = in_layers.map(row_bytes).max();
        return Ok(ModelShape {
            file_bytes: weights.iter().map(|line| line.bytes).sum(),
            layer_weight_max: Bytes(largest.unwrap_or_default()),
            layer_panel_max: Bytes(
                longest_row
                    .unwrap_or_default()
                    .saturating_mul(PANEL_BUFFER_ROWS),
            ),
            weights,
            ..computed
        });
    }
    match (&config.quantised, folder.total) {
        (None, None) => Ok(computed),
        (None, Some(total)) => Ok(with_rest(computed, total, notes)),
        (Some(quantised), Some(total)) => Ok(with_layers_of(computed, &quantised.method, total)),
        (Some(quantised), None) => match scheme_of(quantised) {
            Some(scheme) => Ok(computed.quantised(scheme)),
            None => Err(WhatIfError::NoSize {
                path: folder.path.clone(),
                method: quantised.method.clone(),
            }),
        },
    }
}

/// The model as its dimensions say, unquantised.
fn shape_of(folder: &HfFolder, config: &HfConfig) -> ModelShape {
    let weights = computed_lines(config);
    let widest = config
        .ffn_dim
        .max(config.heads.saturating_mul(config.head_dim));
    let longest_row = u64::from(config.dim.max(widest));
    let widest = u64::from(config.dim) * u64::from(widest);
    let name = folder.path.canonicalize();
    let name = name.as_ref().unwrap_or(&folder.path).file_name();
    ModelShape {
        step: None,
        name: name.unwrap_or_default().to_string_lossy().into_owned(),
        architecture: config.family.clone(),
        layers: config.layers,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        dim: config.dim,
        ffn_dim: config.ffn_dim,
        vocab_len: config.vocab_len,
        context_max: config.context_max,
        file_bytes: weights.iter().fold(Bytes::ZERO, |sum, line| {
            sum.checked_add(line.bytes).unwrap_or(Bytes(u64::MAX))
        }),
        layer_weight_max: value_bytes(config, widest),
        layer_panel_max: value_bytes(config, PANEL_BUFFER_ROWS * longest_row),
        weights,
    }
}

fn value_bytes(config: &HfConfig, values: u64) -> Bytes {
    Bytes(values.saturating_mul(u64::from(config.value_bytes)))
}

/// A line for each part of the decoder.
fn computed_lines(config: &HfConfig) -> Vec<WeightLine> {
    let wide = u64::from;
    let (dim, layers) = (wide(config.dim), wide(config.layers));
    let (q_dim, kv_dim) = (
        wide(config.heads) * wide(config.head_dim),
        wide(config.kv_heads) * wide(config.head_dim),
    );
    let line = |part: WeightPart, values: u64, kind, by_layer: Vec<Bytes>| WeightLine {
        part,
        label: match part {
            WeightPart::Vectors => part.to_string(),
            _ => format!("{part} {} bits", 8 * config.value_bytes),
        },
        values,
        bytes: value_bytes(config, values),
        kind,
        by_layer,
    };
    let in_layers = |part, each: u64| {
        let by_layer = vec![value_bytes(config, each); config.layers as usize];
        let values = each.saturating_mul(layers);
        line(part, values, WeightKind::Resident, by_layer)
    };
    let beside = |part, values, kind| line(part, values, kind, Vec::new());
    let vocab = dim.saturating_mul(wide(config.vocab_len));
    let table = if config.is_tied {
        WeightKind::Resident
    } else {
        WeightKind::Mapped
    };
    let head = (!config.is_tied).then(|| beside(WeightPart::Head, vocab, WeightKind::Resident));
    let vectors = layers * (2 * dim + wide(config.bias_len)) + dim;
    let attention = dim.saturating_mul(2 * (q_dim + kv_dim));
    let mlp = dim.saturating_mul(3 * wide(config.ffn_dim));
    let mut lines = vec![
        in_layers(WeightPart::Attention, attention),
        in_layers(WeightPart::Mlp, mlp),
        beside(WeightPart::Embedding, vocab, table),
    ];
    lines.extend(head);
    lines.push(beside(WeightPart::Vectors, vectors, WeightKind::Resident));
    lines
}

/// Bytes of one row of a matrix.
fn row_bytes(tensor: &HfTensor) -> u64 {
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let values = tensor
        .shape
        .iter()
        .copied()
        .fold(1u64, |count, len| count.saturating_mul(len));
    tensor.bytes.checked_div(values / cols.max(1)).unwrap_or(0)
}

/// The decoder layer whose matrix this is.
fn in_layer(tensor: &HfTensor, config: &HfConfig) -> Option<usize> {
    let (part, layer) = hf_part_of(&tensor.name, tensor.shape.len());
    layer.filter(|layer| part != WeightPart::Vectors && *layer < config.layers as usize)
}

/// Tensors by part and number type. Packed and scaled weights of a layer are one line, whose number
/// of weights the header does not say.
fn lines_of(tensors: &[HfTensor], config: &HfConfig) -> Vec<WeightLine> {
    let has_head = tensors
        .iter()
        .any(|tensor| hf_part_of(&tensor.name, tensor.shape.len()).0 == WeightPart::Head);
    let mut groups: BTreeMap<(WeightPart, String), WeightLine> = BTreeMap::new();
    for tensor in tensors {
        let (part, _) = hf_part_of(&tensor.name, tensor.shape.len());
        let is_layer_part = matches!(part, WeightPart::Attention | WeightPart::Mlp);
        let quantised = config.quantised.as_ref().filter(|_| is_layer_part);
        let label = match (part, quantised) {
            (WeightPart::Vectors, _) => part.to_string(),
            (_, Some(quantised)) => format!("{part} {}", quantised.method),
            (_, None) => format!("{part} {}", tensor.dtype),
        };
        let is_table = part == WeightPart::Embedding && has_head;
        let line = groups.entry((part, label.clone())).or_insert(WeightLine {
            part,
            label,
            values: 0,
            bytes: Bytes::ZERO,
            kind: if is_table {
                WeightKind::Mapped
            } else {
                WeightKind::Resident
            },
            by_layer: Vec::new(),
        });
        line.bytes += Bytes(tensor.bytes);
        if quantised.is_none() {
            line.values = line.values.saturating_add(tensor.values);
        }
        if let Some(layer) = in_layer(tensor, config) {
            line.by_layer.resize(config.layers as usize, Bytes::ZERO);
            line.by_layer[layer] += Bytes(tensor.bytes);
        }
    }
    groups.into_values().collect()
}

/// What the index counts beyond the decoder is resident too.
fn with_rest(shape: ModelShape, total: Bytes, notes: &mut Vec<String>) -> ModelShape {
    let computed = shape.weight_bytes();
    let rest = total.saturating_sub(computed);
    if computed > total {
        notes.push(format!(
            "the index says {total}, the dimensions {computed}: planned as the larger"
        ));
    }
    if rest == Bytes::ZERO {
        return shape;
    }
    let other = WeightLine {
        part: WeightPart::Other,
        label: "other, by the index".to_owned(),
        values: 0,
        bytes: rest,
        kind: WeightKind::Resident,
        by_layer: Vec::new(),
    };
    let mut weights = shape.weights;
    weights.push(other);
    ModelShape {
        weights,
        file_bytes: total,
        ..shape
    }
}

/// Quantised layers are what the index's total leaves beside embedding, head and vectors.
fn with_layers_of(shape: ModelShape, method: &str, total: Bytes) -> ModelShape {
    let is_layer = |line: &WeightLine| !line.by_layer.is_empty();
    let sum = |lines: &mut dyn Iterator<Item = &WeightLine>| -> u128 {
        lines.map(|line| u128::from(line.bytes.0)).sum()
    };
    let before = sum(&mut shape.weights.iter().filter(|line| is_layer(line))).max(1);
    let beside = sum(&mut shape.weights.iter().filter(|line| !is_layer(line)));
    let left = u128::from(total.0).saturating_sub(beside);
    let scale = |bytes: Bytes| {
        let scaled = u128::from(bytes.0) * left / before;
        Bytes(u64::try_from(scaled).unwrap_or(u64::MAX))
    };
    let scaled = |line: &WeightLine| {
        if !is_layer(line) {
            return line.clone();
        }
        WeightLine {
            label: format!("{} {method}", line.part),
            values: 0,
            bytes: scale(line.bytes),
            by_layer: line.by_layer.iter().copied().map(scale).collect(),
            ..line.clone()
        }
    };
    ModelShape {
        weights: shape.weights.iter().map(scaled).collect(),
        layer_weight_max: scale(shape.layer_weight_max),
        layer_panel_max: scale(shape.layer_panel_max),
        file_bytes: total,
        ..shape
    }
}

/// The scheme with the sizes of a checkpoint quantised so.
fn scheme_of(quantised: &HfQuantisation) -> Option<WeightScheme> {
    let HfQuantisation {
        method,
        bits,
        group_size,
    } = quantised;
    match (&**method, bits, group_size) {
        ("gptq", Some(4), Some(128)) => Some(WeightScheme::Gptq),
        ("awq", Some(4), Some(128)) => Some(WeightScheme::Awq),
        ("bitsandbytes", Some(4), _) => Some(WeightScheme::Nf4),
        ("bitsandbytes", Some(8), _) => Some(WeightScheme::Int8),
        ("fp8", ..) => Some(WeightScheme::Fp8),
        _ => None,
    }
}
