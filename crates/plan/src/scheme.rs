//! What a model would weigh with its matrices encoded otherwise.

use kvist_base::{Bytes, WeightPart};
use serde::Serialize;

use crate::shape::{ModelShape, WeightLine};

/// How a whole model can be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightScheme {
    /// 16 bits, all matrices.
    Bf16,
    /// GGUF `Q8_0`: 8 bits and a scale for each 32, all matrices.
    Q8_0,
    /// GGUF `Q4_K_M`: 4 bits with two levels of scales; half of the value and down projections and
    /// the head in 6 bits.
    Q4KM,
    /// 8 bits in the decoder layers, 16 in embedding and head.
    Int8,
    /// As [`Int8`](Self::Int8), in floating point.
    Fp8,
    /// 4 bits, a 16-bit scale and a 4-bit zero point for each 128; embedding and head in 16 bits.
    Gptq,
    /// As [`Gptq`](Self::Gptq).
    Awq,
    /// 4 bits, an 8-bit scale for each 64, and one of 32 bits for 256 of those (bitsandbytes with
    /// double quantisation); embedding and head in 16 bits.
    Nf4,
}

/// Bytes of so many values: `values * bytes.0 / bytes.1`.
type Ratio = (u64, u64);

const BF16: Ratio = (2, 1);
const Q8_0: Ratio = (34, 32);
const Q4_K: Ratio = (144, 256);
const Q6_K: Ratio = (210, 256);
const INT8: Ratio = (1, 1);
/// 4 + 16 / 128 + 4 / 128 bits.
const GROUPS_OF_128: Ratio = (133, 256);
/// 4 + 8 / 64 + 32 / (64 * 256) bits.
const NF4: Ratio = (2113, 4096);

impl WeightScheme {
    /// Every scheme.
    pub const ALL: [Self; 8] = [
        Self::Bf16,
        Self::Q8_0,
        Self::Q4KM,
        Self::Int8,
        Self::Fp8,
        Self::Gptq,
        Self::Awq,
        Self::Nf4,
    ];

    /// The name people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4KM => "Q4_K_M",
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
            Self::Gptq => "GPTQ",
            Self::Awq => "AWQ",
            Self::Nf4 => "nf4",
        }
    }

    const fn of_layers(self) -> Ratio {
        match self {
            Self::Bf16 => BF16,
            Self::Q8_0 => Q8_0,
            Self::Q4KM => Q4_K,
            Self::Int8 | Self::Fp8 => INT8,
            Self::Gptq | Self::Awq => GROUPS_OF_128,
            Self::Nf4 => NF4,
        }
    }

    fn of_embedding(self, is_head_too: bool) -> Ratio {
        match self {
            Self::Q8_0 => Q8_0,
            // An output layer is kept in more bits, also when it is the embedding.
            Self::Q4KM if is_head_too => Q6_K,
            Self::Q4KM => Q4_K,
            _ => BF16,
        }
    }
}

fn bytes_of(values: u64, (numerator, denominator): Ratio) -> Bytes {
    Bytes(values.saturating_mul(numerator) / denominator)
}

/// Whether llama.cpp's `Q4_K_M` gives value and down projections of this layer 6 bits: the first and
/// the last eighth of the layers, and every third between.
fn has_more_bits(layer: u64, layers: u64) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// Rows that a thread streams at a time.
const PANEL_ROWS: u64 = 16;

impl ModelShape {
    /// Mean bits of a weight over all matrices; `None` when their number is not known.
    pub fn bits_per_weight(&self) -> Option<f64> {
        let matrices = || {
            self.weights
                .iter()
                .filter(|line| line.part != WeightPart::Vectors)
        };
        let values: u64 = matrices()
            .map(|line| line.values)
            .fold(0, u64::saturating_add);
        let bytes: u64 = matrices()
            .map(|line| line.bytes.0)
            .fold(0, u64::saturating_add);
        #[allow(clippy::cast_precision_loss)] // a mean
        (values > 0 && matrices().all(|line| line.values > 0))
            .then(|| bytes as f64 * 8.0 / values as f64)
    }

    /// This model with its matrices encoded by `scheme`. Sizes are those of the values and their
    /// scales; vectors stay as they are.
    pub fn quantised(&self, scheme: WeightScheme) -> Self {
        let is_tied = !self
            .weights
            .iter()
            .any(|line| line.part == WeightPart::Head);
        let mut weights: Vec<WeightLine> = Vec::new();
        for line in &self.weights {
            let line = match line.part {
                WeightPart::Vectors => line.clone(),
                WeightPart::Embedding => self.recode(line, scheme, scheme.of_embedding(is_tied)),
                WeightPart::Head => self.recode(line, scheme, scheme.of_embedding(true)),
                _ => self.recode(line, scheme, scheme.of_layers()),
            };
            let same =
                |other: &&mut WeightLine| other.label == line.label && other.kind == line.kind;
            match weights.iter_mut().find(same) {
                Some(sum) => sum.absorb(&line),
                None => weights.push(line),
            }
        }
        if scheme == WeightScheme::Q4KM {
            self.add_wider_projections(&mut weights);
        }
        let widest = u64::from(self.dim) * u64::from(self.ffn_dim).max(self.query_dim());
        let longest_row = u64::from(self.dim.max(self.ffn_dim)).max(self.query_dim());
        let widest_ratio = if scheme == WeightScheme::Q4KM {
            Q6_K
        } else {
            scheme.of_layers()
        };
        Self {
            step: None,
            file_bytes: weights.iter().map(|line| line.bytes).sum(),
            weights,
            layer_weight_max: bytes_of(widest, widest_ratio),
            layer_panel_max: bytes_of(2 * PANEL_ROWS * longest_row, widest_ratio),
            ..self.clone()
        }
    }

    fn recode(&self, line: &WeightLine, scheme: WeightScheme, ratio: Ratio) -> WeightLine {
        let scale = |layer: &Bytes| {
            let values =
                u128::from(layer.0) * u128::from(line.values) / u128::from(line.bytes.0.max(1));
            bytes_of(u64::try_from(values).unwrap_or(u64::MAX), ratio)
        };
        WeightLine {
            label: format!("{} {}", line.part, scheme.name()),
            bytes: bytes_of(line.values, ratio),
            by_layer: line.by_layer.iter().map(scale).collect(),
            ..line.clone()
        }
    }

    /// Adds what value and down projections of the chosen layers have over the other matrices.
    fn add_wider_projections(&self, weights: &mut [WeightLine]) {
        let layers = u64::from(self.layers);
        let value = u64::from(self.dim) * self.key_dim();
        let down = u64::from(self.dim) * u64::from(self.ffn_dim);
        for (part, values) in [(WeightPart::Attention, value), (WeightPart::Mlp, down)] {
            let extra = bytes_of(values, Q6_K).saturating_sub(bytes_of(values, Q4_K));
            let Some(line) = weights.iter_mut().find(|line| line.part == part) else {
                continue;
            };
            for (layer, bytes) in (0..layers).zip(&mut line.by_layer) {
                if has_more_bits(layer, layers) {
                    *bytes += extra;
                    line.bytes += extra;
                }
            }
        }
    }
}

impl WeightLine {
    fn absorb(&mut self, other: &Self) {
        self.values = self.values.saturating_add(other.values);
        self.bytes += other.bytes;
        if self.by_layer.is_empty() {
            self.by_layer.clone_from(&other.by_layer);
            return;
        }
        for (sum, bytes) in self.by_layer.iter_mut().zip(&other.by_layer) {
            *sum += *bytes;
        }
    }
}
