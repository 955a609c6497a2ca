//! The fixture as llama.cpp's converter would write it: its names, its keys, and its row order of
//! the query and key projections.

use kvist_base::QuantFormat;
use kvist_weights::write::{GgufWriter, TensorShape, WriteError};
use kvist_weights::{GgmlType, StrArray};

use super::vocab::{self, Vocab};
use super::{TinyModel, weights};

/// How matrices are stored.
pub(super) struct Encoding<'e> {
    pub(super) format: QuantFormat,
    /// One row of weights to its bytes.
    pub(super) encode: &'e dyn Fn(&[f32]) -> Vec<u8>,
}

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message['role'] + ': ' + \
    message['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

pub(super) fn convert(model: &TinyModel, encoding: &Encoding) -> GgufWriter<'static> {
    let content = Content {
        vocab: Vocab::new(model.config_u32("vocab_size") as usize),
        template: CHAT_TEMPLATE,
        weights: &|name, shape| weights::generate(name, shape, model.golden.salt),
    };
    convert_with(model, encoding, content)
}

/// What is in a file beside the shape of the model.
pub(super) struct Content<'c> {
    pub(super) vocab: Vocab,
    pub(super) template: &'c str,
    /// From a tensor's name and shape to its rows.
    pub(super) weights: &'c dyn Fn(&str, &[usize]) -> Vec<f32>,
}

pub(super) fn convert_with(
    model: &TinyModel,
    encoding: &Encoding,
    content: Content<'_>,
) -> GgufWriter<'static> {
    let mut file = GgufWriter::new();
    add_keys(&mut file, model, encoding.format).expect("keys are distinct");
    add_vocab(&mut file, content.vocab, content.template).expect("keys are distinct");
    for (hub_name, shape) in &model.tensors {
        let mut rows = (content.weights)(hub_name, shape);
        if let Some(head_count) = interleaved_heads(model, hub_name) {
            rows = interleave_halves(&rows, shape, head_count);
        }
        // GGUF lists the fastest dimension first.
        let dims: Vec<usize> = shape.iter().rev().copied().collect();
        let encoding = if dims.len() > 1 { encoding } else { &VECTOR };
        add_tensor(&mut file, (&gguf_name(hub_name), &dims), &rows, encoding);
    }
    if model.config["rope_parameters"]["rope_type"] == "llama3" {
        let factors = rope_factors(model);
        add_tensor(
            &mut file,
            ("rope_freqs.weight", &[factors.len()]),
            &factors,
            &VECTOR,
        );
    }
    file
}

/// Vectors are f32 whatever the matrices are.
const VECTOR: Encoding = Encoding {
    format: QuantFormat::F32,
    encode: &|row| row.iter().flat_map(|weight| weight.to_le_bytes()).collect(),
};

fn add_tensor(
    file: &mut GgufWriter,
    (name, dims): (&str, &[usize]),
    weights: &[f32],
    encoding: &Encoding,
) {
    let data: Vec<u8> = weights
        .chunks_exact(dims[0])
        .flat_map(encoding.encode)
        .collect();
    let ggml_type = GgmlType::from(encoding.format);
    let added = file.tensor(
        TensorShape {
            name,
            ggml_type,
            dims,
        },
        data,
    );
    added.expect("the encoder returns whole rows of its format");
}

fn add_keys(
    file: &mut GgufWriter,
    model: &TinyModel,
    format: QuantFormat,
) -> Result<(), WriteError> {
    let arch = architecture(model);
    file.key("general.architecture", arch)?;
    file.key("general.type", "model")?;
    file.key("general.name", model.name.as_str())?;
    for (key, config_key) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
    ] {
        file.key(&format!("{arch}.{key}"), model.config_u32(config_key))?;
    }
    #[allow(clippy::cast_possible_truncation)] // f32 is what files hold
    for (key, pointer) in [
        ("rope.freq_base", "/rope_parameters/rope_theta"),
        ("attention.layer_norm_rms_epsilon", "/rms_norm_eps"),
    ] {
        file.key(&format!("{arch}.{key}"), model.config_f64(pointer) as f32)?;
    }
    // The converter writes a head's length only where the configuration states it, and these two
    // only for the llama family: qwen2 leaves them to be derived.
    if !model.config["head_dim"].is_null() {
        file.key(&format!("{arch}.attention.key_length"), head_len(model))?;
        file.key(&format!("{arch}.attention.value_length"), head_len(model))?;
    }
    if arch != "qwen2" {
        file.key(
            &format!("{arch}.vocab_size"),
            model.config_u32("vocab_size"),
        )?;
        file.key(&format!("{arch}.rope.dimension_count"), head_len(model))?;
    }
    if let Some(file_type) = file_type(format) {
        file.key("general.file_type", file_type)?;
    }
    file.key("general.quantization_version", 2u32)
}

fn add_vocab(file: &mut GgufWriter, vocab: Vocab, template: &str) -> Result<(), WriteError> {
    file.key("tokenizer.ggml.model", "gpt2")?;
    file.key("tokenizer.ggml.pre", "gpt-2")?;
    file.key(
        "tokenizer.ggml.tokens",
        vocab.tokens.iter().collect::<StrArray>(),
    )?;
    file.key("tokenizer.ggml.token_type", vocab.token_types)?;
    file.key(
        "tokenizer.ggml.merges",
        vocab.merges.iter().collect::<StrArray>(),
    )?;
    file.key("tokenizer.ggml.bos_token_id", vocab::BOS_ID)?;
    file.key("tokenizer.ggml.eos_token_id", vocab::EOS_ID)?;
    file.key("tokenizer.ggml.padding_token_id", vocab::PAD_ID)?;
    file.key("tokenizer.chat_template", template)
}

/// The architecture's name in GGUF files.
fn architecture(model: &TinyModel) -> &str {
    model.config["model_type"]
        .as_str()
        .expect("config.json names the model's type")
}

/// llama.cpp's `enum llama_ftype`, where a file of this matrix format has one.
fn file_type(format: QuantFormat) -> Option<u32> {
    Some(match format {
        QuantFormat::F32 => 0,
        QuantFormat::F16 => 1,
        QuantFormat::Q4_0 => 2,
        QuantFormat::Q4_1 => 3,
        QuantFormat::Q8_0 => 7,
        QuantFormat::Q5_0 => 8,
        QuantFormat::Q5_1 => 9,
        QuantFormat::Iq4Nl => 25,
        QuantFormat::BF16 => 32,
        QuantFormat::Q4K | QuantFormat::Q5K | QuantFormat::Q6K | QuantFormat::Iq4Xs => return None,
    })
}

fn head_len(model: &TinyModel) -> u32 {
    model.config_u32("hidden_size") / model.config_u32("num_attention_heads")
}

/// `model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`.
fn gguf_name(hub_name: &str) -> String {
    match hub_name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => {}
    }
    let known = hub_name.strip_prefix("model.layers.").and_then(|rest| {
        let (layer, rest) = rest.split_once('.')?;
        let (part, kind) = rest.rsplit_once('.')?;
        let part = match part {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "post_attention_layernorm" => "ffn_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        };
        Some(format!("blk.{layer}.{part}.{kind}"))
    });
    known.unwrap_or_else(|| panic!("no GGUF name for {hub_name}"))
}

/// The heads of a tensor whose rows the converter reorders: queries and keys of architectures
/// that rotate adjacent pairs in GGUF files but halves of a head in checkpoints.
fn interleaved_heads(model: &TinyModel, hub_name: &str) -> Option<usize> {
    let heads = match architecture(model) {
        "llama" | "smollm3" if hub_name.contains(".q_proj.") => "num_attention_heads",
        "llama" | "smollm3" if hub_name.contains(".k_proj.") => "num_key_value_heads",
        _ => return None,
    };
    Some(model.config_u32(heads) as usize)
}

/// Rows of each head from `a0 a1 … b0 b1 …` to `a0 b0 a1 b1 …`, where rotation turns (aᵢ, bᵢ).
fn interleave_halves(weights: &[f32], shape: &[usize], head_count: usize) -> Vec<f32> {
    let head_rows = shape[0] / head_count;
    let cols = weights.len() / shape[0];
    let source_row = |row: usize| {
        let (head, within) = (row / head_rows, row % head_rows);
        head * head_rows + within % 2 * (head_rows / 2) + within / 2
    };
    (0..shape[0])
        .flat_map(|row| &weights[source_row(row) * cols..][..cols])
        .copied()
        .collect()
}

/// The frequency scaling of Llama 3.
struct RopeScaling {
    factor: f64,
    context: f64,
    low: f64,
    high: f64,
}

impl RopeScaling {
    /// What a frequency is divided by: 1 where its wavelength is short against the original
    /// context, `factor` where it is long, and a blend of both in between.
    fn factor_of(&self, wavelength: f64) -> f64 {
        let turns = self.context / wavelength;
        if turns > self.high {
            1.0
        } else if turns < self.low {
            self.factor
        } else {
            let smooth = (turns - self.low) / (self.high - self.low);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }
}

fn rope_factors(model: &TinyModel) -> Vec<f32> {
    let rope = |key: &str| model.config_f64(&format!("/rope_parameters/{key}"));
    let scaling = RopeScaling {
        factor: rope("factor"),
        context: rope("original_max_position_embeddings"),
        low: rope("low_freq_factor"),
        high: rope("high_freq_factor"),
    };
    let (base, head_len) = (rope("rope_theta"), head_len(model));
    let wavelengths = (0..head_len / 2)
        .map(|pair| std::f64::consts::TAU * base.powf(2.0 * f64::from(pair) / f64::from(head_len)));
    #[allow(clippy::cast_possible_truncation)] // stored as f32
    wavelengths
        .map(|wavelength| scaling.factor_of(wavelength) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_each_head_become_pairs() {
        let weights: Vec<f32> = (0..16u8).map(f32::from).collect();
        // Two heads of four rows, two columns: row r is (2r, 2r + 1).
        let rows = interleave_halves(&weights, &[8, 2], 2);
        let firsts: Vec<f32> = rows.iter().step_by(2).map(|weight| weight / 2.0).collect();
        assert_eq!(firsts, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }

    #[test]
    fn rotary_factors_go_from_one_to_the_factor() {
        let scaling = RopeScaling {
            factor: 8.0,
            context: 32.0,
            low: 1.0,
            high: 4.0,
        };
        let factors = [7.9, 8.0, 12.8, 32.0, 32.1].map(|length| scaling.factor_of(length));
        assert_eq!(factors, [1.0, 1.0, 1.0 / 0.5625, 8.0, 8.0]);

        let factors = rope_factors(&TinyModel::load("llama3"));
        assert_eq!(factors, [1.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
    }
}
