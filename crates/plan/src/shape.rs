//! What the planner knows about a model: the numbers in its file's header.

use kvist_base::{Bytes, KvDtype, Tokens, WeightPart};

use crate::error::PlanError;
use crate::step_cost::StepCost;

/// Where a run of weights lives while the model is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightKind {
    /// In the process's own memory, in kernel layout.
    Resident,
    /// In the file: lookups read the rows they need. Takes no memory of the process.
    Mapped,
}

/// The weights of one part, encoding and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightLine {
    /// The part of the model they belong to.
    pub part: WeightPart,
    /// What they are, such as `attention Q4_K`.
    pub label: String,
    /// How many there are; 0 when the file does not say.
    pub values: u64,
    /// Their size as served.
    pub bytes: Bytes,
    /// Where they live.
    pub kind: WeightKind,
    /// What each decoder layer's matrices have of `bytes`: the part that can be streamed. Empty for
    /// weights outside the layers.
    pub by_layer: Vec<Bytes>,
}

/// The sizes of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Name, for reports.
    pub name: String,
    /// Family, such as `qwen2`.
    pub architecture: String,
    /// Decoder layers that keep K and V.
    pub layers: u32,
    /// Query heads of a layer.
    pub heads: u32,
    /// Key and value heads of a layer.
    pub kv_heads: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// Values of the residual stream.
    pub dim: u32,
    /// Values between the two halves of the feed-forward network.
    pub ffn_dim: u32,
    /// Rows of the output layer.
    pub vocab_len: u32,
    /// Longest context the model was made for.
    pub context_max: Tokens,
    /// Every weight, summed by encoding and place.
    pub weights: Vec<WeightLine>,
    /// The largest single matrix of any decoder layer, as served.
    pub layer_weight_max: Bytes,
    /// What a step takes, as the engine allocates it; `None` reckons it from the dimensions, for models
    /// that are planned and not served.
    pub step: Option<StepCost>,
    /// What each thread needs to stream matrices of decoder layers: room for the largest panel of
    /// rows, as the file has it and as served.
    pub layer_panel_max: Bytes,
    /// Size of the model file.
    pub file_bytes: Bytes,
}

impl ModelShape {
    /// Bytes of KV one token holds in all layers: K and V, `kv_heads * head_dim` values each.
    pub fn kv_bytes_per_token(&self, dtype: KvDtype) -> Bytes {
        let row = Bytes::of_len(dtype.row_bytes(self.head_dim as usize));
        let rows = u64::from(self.kv_heads) * 2;
        let per_layer = row.0.saturating_mul(rows);
        Bytes(per_layer.saturating_mul(u64::from(self.layers)))
    }

    /// Bytes of all weights, wherever they live.
    pub fn weight_bytes(&self) -> Bytes {
        Bytes(
            self.weights
                .iter()
                .fold(0, |sum: u64, line| sum.saturating_add(line.bytes.0)),
        )
    }

    /// Bytes of each decoder layer's matrices as served: what streaming that layer saves.
    pub fn layer_bytes(&self) -> Vec<Bytes> {
        let mut layers = vec![Bytes::ZERO; self.layers as usize];
        for line in &self.weights {
            for (sum, bytes) in layers.iter_mut().zip(&line.by_layer) {
                *sum += *bytes;
            }
        }
        layers
    }

    /// Values of one token's queries over all heads of a layer.
    pub(crate) fn query_dim(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// Values of one token's keys over all heads of a layer.
    pub(crate) fn key_dim(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head_dim)
    }

    /// Refuses dimensions no model has. The bounds keep every product of the planner inside 64
    /// bits: 2^12 layers * 2^20 values * 2 * 4 bytes * 2^24 tokens is the largest, 2^59.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let dimensions = [
            ("layers", self.layers.into(), 1 << 12),
            ("heads", self.heads.into(), 1 << 20),
            ("kv_heads", self.kv_heads.into(), 1 << 20),
            ("head_dim", self.head_dim.into(), 1 << 20),
            ("dim", self.dim.into(), 1 << 22),
            ("ffn_dim", self.ffn_dim.into(), 1 << 22),
            ("vocab_len", self.vocab_len.into(), 1 << 24),
            ("context_max", self.context_max.0.into(), 1 << 24),
            ("heads * head_dim", self.query_dim(), 1 << 20),
            ("kv_heads * head_dim", self.key_dim(), 1 << 20),
        ];
        for (field, given, max) in dimensions {
            PlanError::check(field, given, 1, max)?;
        }
        PlanError::check("weight bytes", self.weight_bytes().0, 0, 1 << 56)?;
        PlanError::check("layer_weight_max", self.layer_weight_max.0, 0, 1 << 56)?;
        PlanError::check("layer_panel_max", self.layer_panel_max.0, 0, 1 << 40)?;
        self.weights
            .iter()
            .try_for_each(|line| self.check_layers(line))
    }

    /// A line's layers are all of the model's or none, and do not exceed the line.
    fn check_layers(&self, line: &WeightLine) -> Result<(), PlanError> {
        if line.by_layer.is_empty() {
            return Ok(());
        }
        let count = line.by_layer.len() as u64;
        if line.kind == WeightKind::Mapped {
            // In the file already: there is nothing to stream.
            return PlanError::check("layers of a mapped weight line", count, 0, 0);
        }
        let layers = u64::from(self.layers);
        PlanError::check("layers of a weight line", count, layers, layers)?;
        let sum = line
            .by_layer
            .iter()
            .fold(0, |sum: u64, bytes| sum.saturating_add(bytes.0));
        PlanError::check("bytes of a weight line's layers", sum, 0, line.bytes.0)
    }
}
