//! Hyper-parameters of a decoder, from its file. Nothing is defaulted without a note.

use kvist_base::Tokens;
use kvist_weights::{GgufFile, Metadata};

use crate::error::ModelError;
use crate::family::Architecture;

/// Hyper-parameters of a decoder-only transformer with grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family.
    pub architecture: Architecture,
    /// Layers, each of attention and MLP.
    pub layers: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values a head; even.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn_dim: usize,
    /// Tokens in the vocabulary: rows of the embedding table.
    pub vocab_len: usize,
    /// Longest context the model was made for.
    pub context_max: Tokens,
    /// Added to the mean square before the root.
    pub norm_eps: f32,
    /// Positional rotation.
    pub rope: Rope,
    /// What the file left open and how it was read, for the operator.
    pub notes: Vec<String>,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f32,
    /// How far contexts were stretched.
    pub scaling: RopeScaling,
}

/// How rotation frequencies are changed for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all, or by the file's own factor per frequency (Llama 3).
    None,
    /// All divided by a factor.
    Linear(f32),
}

/// A wrapping limit for counts read from a file: beyond any model, far below overflow.
const COUNT_MAX: u32 = 1 << 20;

struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn bad(&self, key: &str, given: &dyn ToString, rule: &'static str) -> ModelError {
        ModelError::BadParameter {
            key: self.name(key),
            given: given.to_string(),
            rule,
        }
    }

    fn count(&self, key: &str) -> Result<usize, ModelError> {
        let given = self.metadata.require_u32(&self.name(key))?;
        self.check_count(key, given)
    }

    fn opt_count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.metadata.opt_u32(&self.name(key))? {
            Some(given) => self.check_count(key, given).map(Some),
            None => Ok(None),
        }
    }

    fn check_count(&self, key: &str, given: u32) -> Result<usize, ModelError> {
        if given == 0 || given > COUNT_MAX {
            return Err(self.bad(key, &given, "it must be between 1 and 1048576"));
        }
        Ok(given as usize)
    }

    fn positive(&self, key: &str, given: f32) -> Result<f32, ModelError> {
        if given.is_finite() && given > 0.0 {
            Ok(given)
        } else {
            Err(self.bad(key, &given, "it must be positive and finite"))
        }
    }
}

impl DecoderConfig {
    pub(crate) fn read(file: &GgufFile) -> Result<Self, ModelError> {
        let architecture = Architecture::of(file)?;
        let keys = Keys {
            metadata: file.metadata(),
            prefix: architecture.name(),
        };
        let mut notes = Vec::new();
        let dim = keys.count("embedding_length")?;
        let heads = keys.count("attention.head_count")?;
        let kv_heads = match keys.opt_count("attention.head_count_kv")? {
            Some(kv_heads) => kv_heads,
            None => {
                notes.push("no head_count_kv in the file: as many as query heads".to_owned());
                heads
            }
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.bad(
                "attention.head_count_kv",
                &kv_heads,
                "it must divide head_count",
            ));
        }
        let eps_key = "attention.layer_norm_rms_epsilon";
        let norm_eps = keys.positive(eps_key, keys.metadata.require_f32(&keys.name(eps_key))?)?;
        let head_dim = head_dim(&keys, dim, heads)?;
        let context = keys.metadata.require_u32(&keys.name("context_length"))?;
        if context == 0 {
            return Err(keys.bad("context_length", &context, "it must be at least 1"));
        }
        Ok(Self {
            architecture,
            layers: keys.count("block_count")?,
            dim,
            heads,
            kv_heads,
            head_dim,
            ffn_dim: keys.count("feed_forward_length")?,
            vocab_len: vocab_len(file)?,
            context_max: Tokens(context),
            norm_eps,
            rope: rope(&keys, head_dim, &mut notes)?,
            notes,
        })
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Inverse rotation frequencies, `head_dim / 2` of them, before per-frequency factors.
    ///
    /// Computed in f64 as `base^(-2i / head_dim)` (Su et al. 2021) and rounded once.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // rounded on purpose
    pub(crate) fn inv_freq(&self) -> Vec<f32> {
        let factor = match self.rope.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::Linear(factor) => f64::from(factor),
        };
        (0..self.head_dim / 2)
            .map(|i| {
                let exponent = -2.0 * i as f64 / self.head_dim as f64;
                (f64::from(self.rope.base).powf(exponent) / factor) as f32
            })
            .collect()
    }
}

fn head_dim(keys: &Keys<'_>, dim: usize, heads: usize) -> Result<usize, ModelError> {
    let head_dim = match keys.opt_count("attention.key_length")? {
        Some(length) => length,
        None if dim.is_multiple_of(heads) => dim / heads,
        None => {
            return Err(keys.bad(
                "attention.head_count",
                &heads,
                "it must divide embedding_length",
            ));
        }
    };
    if !head_dim.is_multiple_of(8) || head_dim > 256 {
        return Err(keys.bad(
            "attention.key_length",
            &head_dim,
            "it must be a multiple of 8, at most 256",
        ));
    }
    if let Some(length) = keys.opt_count("attention.value_length")?
        && length != head_dim
    {
        return Err(keys.bad(
            "attention.value_length",
            &length,
            "it must equal key_length",
        ));
    }
    if let Some(length) = keys.opt_count("rope.dimension_count")?
        && length != head_dim
    {
        return Err(keys.bad(
            "rope.dimension_count",
            &length,
            "partial rotation is not supported",
        ));
    }
    Ok(head_dim)
}

fn vocab_len(file: &GgufFile) -> Result<usize, ModelError> {
    let name = "token_embd.weight";
    match file.tensor(name) {
        Some(table) => Ok(table.rows()),
        None => Err(ModelError::MissingTensor {
            name: name.to_owned(),
            architecture: "every model",
        }),
    }
}

fn rope(keys: &Keys<'_>, head_dim: usize, notes: &mut Vec<String>) -> Result<Rope, ModelError> {
    const BASE: f32 = 10_000.0;
    debug_assert!(head_dim.is_multiple_of(2));
    let base = match keys.metadata.opt_f32(&keys.name("rope.freq_base"))? {
        Some(base) => keys.positive("rope.freq_base", base)?,
        None => {
            notes.push(format!(
                "no rope.freq_base in the file: {BASE}, the GGUF default"
            ));
            BASE
        }
    };
    let kind = keys.metadata.opt_str(&keys.name("rope.scaling.type"))?;
    let scaling = match kind {
        None | Some("none") => RopeScaling::None,
        Some("linear") => {
            let key = "rope.scaling.factor";
            RopeScaling::Linear(keys.positive(key, keys.metadata.require_f32(&keys.name(key))?)?)
        }
        Some(other) => {
            return Err(keys.bad("rope.scaling.type", &other, "supported are none and linear"));
        }
    };
    Ok(Rope { base, scaling })
}
