//! `config.json` of a Hugging Face model: the numbers a plan needs. Nothing here can be served yet.
//!
//! Keys that are not listed are ignored; keys that are missing are named. Of a model of several
//! kinds of input the text part is read, which is where its decoder is.

use kvist_base::{Tokens, WeightPart};
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

/// Counts beyond any model, far below overflow.
const COUNT_MAX: u64 = 1 << 24;
/// Layers beyond any model: what is kept for each is small.
const LAYERS_MAX: u32 = 1 << 12;
/// Families whose decoder is of the shape planned here.
const KNOWN: [&str; 13] = [
    "llama",
    "qwen2",
    "qwen3",
    "smollm3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "phi3",
    "granite",
    "olmo2",
    "ministral",
];
/// Keys of models that keep more or other things than keys and values of every layer, or have more
/// than one feed-forward network a layer.
const OTHER_SHAPES: [&str; 8] = [
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "kv_lora_rank",
    "linear_num_key_heads",
    "mamba_d_state",
    "ssm_cfg",
    "rwkv_version",
];

/// A configuration no plan can be made from.
#[derive(Debug, Error)]
pub enum HfConfigError {
    /// It is damaged.
    #[error("config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It does not say something.
    #[error("config.json has no {0}")]
    Missing(&'static str),
    /// It says something no model is.
    #[error("config.json: {field} must be {limit}, but is {given}")]
    Bad {
        /// The key.
        field: &'static str,
        /// What is allowed.
        limit: String,
        /// What it says.
        given: String,
    },
    /// A model of a kind that is not planned yet.
    #[error("config.json: {family} with {field}: such models cannot be planned yet")]
    Unsupported {
        /// The family.
        family: String,
        /// The key that says so.
        field: &'static str,
    },
}

/// The dimensions of a decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfConfig {
    /// `model_type`.
    pub family: String,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub dim: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// Width of the feed-forward network.
    pub ffn_dim: u32,
    /// Rows of the embedding table.
    pub vocab_len: u32,
    /// Longest context.
    pub context_max: Tokens,
    /// Whether the embedding table is the head too.
    pub is_tied: bool,
    /// Bytes of an unquantised value.
    pub value_bytes: u32,
    /// Bias values of a layer's attention.
    pub bias_len: u32,
    /// How its weights are quantised, when they are.
    pub quantised: Option<HfQuantisation>,
    /// What was left open and how it was read, for the operator.
    pub notes: Vec<String>,
}

/// `quantization_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfQuantisation {
    /// `quant_method`.
    pub method: String,
    /// Bits of a weight, when it says.
    pub bits: Option<u32>,
    /// Weights that share a scale, when it says.
    pub group_size: Option<u32>,
}

#[derive(Deserialize)]
struct RawQuantisation {
    quant_method: Option<String>,
    bits: Option<u32>,
    group_size: Option<i64>,
    load_in_4bit: Option<bool>,
    load_in_8bit: Option<bool>,
}

/// The decoder's part of a configuration, with the whole behind it.
struct Keys<'a> {
    decoder: &'a Map<String, Value>,
    whole: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        let found = self.decoder.get(field).or_else(|| self.whole.get(field));
        found.filter(|value| !value.is_null())
    }

    fn opt_count(&self, field: &'static str) -> Result<Option<u32>, HfConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let count = value
            .as_u64()
            .filter(|count| (1..=COUNT_MAX).contains(count));
        match count.and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(HfConfigError::Bad {
                field,
                limit: format!("between 1 and {COUNT_MAX}"),
                given: value.to_string().chars().take(100).collect(),
            }),
        }
    }

    fn count(&self, field: &'static str) -> Result<u32, HfConfigError> {
        self.opt_count(field)?.ok_or(HfConfigError::Missing(field))
    }

    fn flag(&self, field: &str) -> Option<bool> {
        self.get(field).and_then(Value::as_bool)
    }

    fn text(&self, field: &str) -> Option<&'a str> {
        self.get(field).and_then(Value::as_str)
    }
}

impl HfConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`HfConfigError`] names the key.
    pub fn parse(text: &str) -> Result<Self, HfConfigError> {
        let whole: Map<String, Value> = serde_json::from_str(text)?;
        let inner = whole.get("text_config").and_then(Value::as_object);
        let keys = Keys {
            decoder: inner.unwrap_or(&whole),
            whole: &whole,
        };
        let family = keys
            .text("model_type")
            .ok_or(HfConfigError::Missing("model_type"))?;
        let family: String = family.chars().take(100).collect();
        if let Some(field) = other_shape(&keys) {
            return Err(HfConfigError::Unsupported { family, field });
        }
        let mut notes = Vec::new();
        if !KNOWN.contains(&&*family) {
            notes.push(format!(
                "{family} is not a family kvist knows: planned as a plain decoder"
            ));
        }
        let (dim, heads) = (
            keys.count("hidden_size")?,
            keys.count("num_attention_heads")?,
        );
        let kv_heads = keys.opt_count("num_key_value_heads")?.unwrap_or_else(|| {
            notes.push("no num_key_value_heads: as many as query heads".to_owned());
            heads
        });
        let head_dim = head_dim(&keys, dim, heads)?;
        let quantised = quantisation(&keys)?;
        Ok(Self {
            layers: layers(&keys)?,
            dim,
            heads,
            kv_heads,
            head_dim,
            ffn_dim: keys.count("intermediate_size")?,
            vocab_len: keys.count("vocab_size")?,
            context_max: Tokens(keys.count("max_position_embeddings")?),
            is_tied: is_tied(&keys, &family, &mut notes),
            value_bytes: value_bytes(&keys, &mut notes)?,
            bias_len: bias_len(&keys, &family, (heads, kv_heads, head_dim)),
            quantised,
            notes,
            family,
        })
    }
}

fn layers(keys: &Keys<'_>) -> Result<u32, HfConfigError> {
    let field = "num_hidden_layers";
    match keys.count(field)? {
        layers if layers <= LAYERS_MAX => Ok(layers),
        layers => Err(HfConfigError::Bad {
            field,
            limit: format!("at most {LAYERS_MAX}"),
            given: layers.to_string(),
        }),
    }
}

fn other_shape(keys: &Keys<'_>) -> Option<&'static str> {
    let says_so = |field: &&str| match keys.get(field) {
        // Families with and without experts share their configuration; 0 or 1 expert is none.
        Some(value) => value.as_u64() != Some(0) && value.as_u64() != Some(1),
        None => false,
    };
    OTHER_SHAPES.into_iter().find(says_so)
}

fn head_dim(keys: &Keys<'_>, dim: u32, heads: u32) -> Result<u32, HfConfigError> {
    match keys.opt_count("head_dim")? {
        Some(head_dim) => Ok(head_dim),
        None if dim.is_multiple_of(heads) => Ok(dim / heads),
        None => Err(HfConfigError::Bad {
            field: "num_attention_heads",
            limit: format!("a divisor of hidden_size, {dim}"),
            given: heads.to_string(),
        }),
    }
}

/// Where a file does not say, its family's own default counts.
fn is_tied(keys: &Keys<'_>, family: &str, notes: &mut Vec<String>) -> bool {
    keys.flag("tie_word_embeddings").unwrap_or_else(|| {
        let tied = family.starts_with("gemma") || family == "smollm3";
        let which = if tied { "tied" } else { "not tied" };
        notes.push(format!(
            "no tie_word_embeddings: {which}, as {family} has it"
        ));
        tied
    })
}

fn value_bytes(keys: &Keys<'_>, notes: &mut Vec<String>) -> Result<u32, HfConfigError> {
    match keys.text("torch_dtype").or_else(|| keys.text("dtype")) {
        Some("bfloat16" | "float16") => Ok(2),
        Some("float32") => Ok(4),
        Some(other) => Err(HfConfigError::Bad {
            field: "torch_dtype",
            limit: "bfloat16, float16 or float32".to_owned(),
            given: other.chars().take(100).collect(),
        }),
        None => {
            notes.push("no torch_dtype: 16 bits".to_owned());
            Ok(2)
        }
    }
}

fn bias_len(keys: &Keys<'_>, family: &str, (heads, kv_heads, head_dim): (u32, u32, u32)) -> u32 {
    let has_bias = keys.flag("attention_bias").unwrap_or(family == "qwen2");
    let values = heads
        .saturating_add(kv_heads.saturating_mul(2))
        .saturating_mul(head_dim);
    if has_bias { values } else { 0 }
}

fn quantisation(keys: &Keys<'_>) -> Result<Option<HfQuantisation>, HfConfigError> {
    let Some(value) = keys.get("quantization_config") else {
        return Ok(None);
    };
    let raw = RawQuantisation::deserialize(value)?;
    let loaded = match (raw.load_in_4bit, raw.load_in_8bit) {
        (Some(true), _) => Some(4),
        (_, Some(true)) => Some(8),
        _ => None,
    };
    let method = raw
        .quant_method
        .unwrap_or_else(|| "an unnamed method".to_owned());
    Ok(Some(HfQuantisation {
        method: method.chars().take(100).collect(),
        bits: raw.bits.or(loaded),
        group_size: raw.group_size.and_then(|size| u32::try_from(size).ok()),
    }))
}

/// The part of the model and the decoder layer a tensor belongs to, by its name and number of axes.
pub fn hf_part_of(name: &str, axes: usize) -> (WeightPart, Option<usize>) {
    if ["vision", "visual", "audio", "multi_modal_projector"]
        .iter()
        .any(|other| name.contains(other))
    {
        return (WeightPart::Other, None);
    }
    let layer = name.split_once("layers.").and_then(|(_, rest)| {
        let (layer, inner) = rest.split_once('.')?;
        Some((layer.parse().ok()?, inner))
    });
    let is_vector = axes <= 1 && (name.ends_with(".bias") || name.contains("norm"));
    let part = match layer {
        _ if is_vector => WeightPart::Vectors,
        Some((_, inner)) if inner.starts_with("self_attn.") => WeightPart::Attention,
        Some((_, inner)) if inner.starts_with("mlp.") => WeightPart::Mlp,
        None if name.contains("embed_tokens.") => WeightPart::Embedding,
        None if name.starts_with("lm_head.") || name.contains(".lm_head.") => WeightPart::Head,
        _ => WeightPart::Other,
    };
    (part, layer.map(|(layer, _)| layer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const QWEN: &str = r#"{"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152064, "max_position_embeddings": 131072, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "some_new_key": [1, 2, {"x": null}]}"#;

    #[test]
    fn dimensions_are_read_and_unknown_keys_are_fine() {
        let config = HfConfig::parse(QWEN).unwrap();
        assert_eq!(
            (config.layers, config.head_dim, config.kv_heads),
            (28, 128, 4)
        );
        assert_eq!((config.bias_len, config.value_bytes), (4608, 2));
        assert!(!config.is_tied && config.notes.is_empty() && config.quantised.is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        let whole: Map<String, Value> = serde_json::from_str(QWEN).unwrap();
        let needed = [
            "model_type",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
            "max_position_embeddings",
        ];
        for field in needed {
            let mut less = whole.clone();
            less.remove(field);
            let error = HfConfig::parse(&serde_json::to_string(&less).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), format!("config.json has no {field}"));
        }
        for field in ["num_key_value_heads", "tie_word_embeddings", "torch_dtype"] {
            let mut less = whole.clone();
            less.remove(field);
            let config = HfConfig::parse(&serde_json::to_string(&less).unwrap()).unwrap();
            assert!(
                config.notes.iter().any(|note| note.contains(field)),
                "{:?}",
                config.notes
            );
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let cases = [
            (
                "\"num_hidden_layers\": 28",
                "\"num_hidden_layers\": 0",
                "num_hidden_layers",
            ),
            (
                "\"num_hidden_layers\": 28",
                "\"num_hidden_layers\": 4097",
                "num_hidden_layers",
            ),
            (
                "\"hidden_size\": 3584",
                "\"hidden_size\": -1",
                "hidden_size",
            ),
            (
                "\"hidden_size\": 3584",
                "\"hidden_size\": 3585",
                "num_attention_heads",
            ),
            (
                "\"vocab_size\": 152064",
                "\"vocab_size\": 1e30",
                "vocab_size",
            ),
            ("bfloat16", "int3", "torch_dtype"),
            ("some_new_key", "num_local_experts", "num_local_experts"),
            ("some_new_key", "kv_lora_rank", "kv_lora_rank"),
        ];
        for (from, to, field) in cases {
            let error = HfConfig::parse(&QWEN.replace(from, to))
                .unwrap_err()
                .to_string();
            assert!(error.contains(field), "{to}: {error}");
        }
        for text in ["", "[]", "{", "null", "{\"model_type\": 3}"] {
            assert!(HfConfig::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_text_part_of_several_is_the_decoder() {
        let nested = format!(
            r#"{{"model_type": "gemma3", "torch_dtype": "bfloat16", "hidden_size": 7,
                "vision_config": {{"hidden_size": 9}}, "text_config": {QWEN}}}"#
        );
        let config = HfConfig::parse(&nested).unwrap();
        assert_eq!((config.family.as_str(), config.dim), ("qwen2", 3584));
    }

    #[test]
    fn quantisation_is_read_in_its_spellings() {
        let parse = |text: &str| {
            let key = format!("\"quantization_config\": {text}, \"some_new_key\"");
            HfConfig::parse(&QWEN.replace("\"some_new_key\"", &key))
                .unwrap()
                .quantised
                .unwrap()
        };
        let gptq = parse(r#"{"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true}"#);
        assert_eq!(
            (&*gptq.method, gptq.bits, gptq.group_size),
            ("gptq", Some(4), Some(128))
        );
        let bnb = parse(r#"{"quant_method": "bitsandbytes", "load_in_4bit": true}"#);
        assert_eq!((bnb.bits, bnb.group_size), (Some(4), None));
        assert_eq!(
            parse(r#"{"quant_method": "gptq", "group_size": -1}"#).group_size,
            None
        );
    }

    #[test]
    fn names_tell_part_and_layer() {
        use WeightPart::{Attention, Embedding, Head, Mlp, Other, Vectors};
        let cases = [
            ("model.embed_tokens.weight", 2, Embedding, None),
            ("lm_head.weight", 2, Head, None),
            (
                "model.layers.3.self_attn.q_proj.weight",
                2,
                Attention,
                Some(3),
            ),
            ("model.layers.3.self_attn.q_proj.bias", 1, Vectors, Some(3)),
            ("model.layers.11.mlp.down_proj.qweight", 2, Mlp, Some(11)),
            ("model.layers.0.mlp.down_proj.g_idx", 1, Mlp, Some(0)),
            (
                "language_model.model.layers.0.input_layernorm.weight",
                1,
                Vectors,
                Some(0),
            ),
            (
                "vision_tower.encoder.layers.0.mlp.fc1.weight",
                2,
                Other,
                None,
            ),
            ("model.norm.weight", 1, Vectors, None),
        ];
        for (name, axes, part, layer) in cases {
            assert_eq!(hf_part_of(name, axes), (part, layer), "{name}");
        }
    }
}
