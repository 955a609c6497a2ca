//! Tiny models with known outputs.
//!
//! A fixture holds a model's configuration, the names and shapes of its weights, and what the
//! reference implementation (transformers, f32, eager) computes from them. The weights are not
//! stored: each is a function of its tensor's name and the fixture's salt, see `weights.rs`.
//! From these [`TinyModel::write_gguf`] makes the GGUF file that llama.cpp's converter would make,
//! with a made-up vocabulary.

mod gguf;
mod safetensors;
mod script;
mod vocab;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use kvist_base::QuantFormat;
use serde_json::Value;

use safetensors::Safetensors;

pub use script::Script;

/// A fixture: a model of four layers, 64 wide, with 512 tokens.
#[derive(Debug)]
pub struct TinyModel {
    /// The fixture's name, such as `llama3`.
    pub name: String,
    /// What the reference implementation computes.
    pub golden: Golden,
    config: Value,
    /// Names and shapes of the weights as in the original checkpoint.
    tensors: Vec<(String, Vec<usize>)>,
}

/// Reference outputs. On an f32 path expect logits within 1e-3 and the same greedy tokens.
#[derive(Debug)]
pub struct Golden {
    /// A prompt of 40 tokens.
    pub input_ids: Vec<u32>,
    /// Positions in the prompt whose logits are known.
    pub positions: Vec<usize>,
    /// `[positions][vocabulary]`: the logits after each of these positions.
    pub logits: Vec<Vec<f32>>,
    /// The 24 tokens that greedy decoding appends to the prompt. End of sequence does not stop it.
    pub greedy: Vec<u32>,
    /// Which of the candidate weights the fixture uses: goes into every tensor's seed.
    pub salt: u64,
}

impl TinyModel {
    /// The fixtures there are: attention with scaled rotary frequencies; with biases; with tied
    /// embeddings and a layer without rotary embedding.
    pub const NAMES: [&str; 3] = ["llama3", "qwen2", "smollm3"];

    /// Reads a fixture.
    ///
    /// # Panics
    /// When there is no such fixture or it is damaged.
    pub fn load(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(name);
        let golden = Safetensors::read(&dir.join("golden.safetensors"));
        let tensors = read_json(&dir.join("tensors.json"));
        let tensors = tensors.as_object().expect("tensors.json is an object");
        Self {
            name: name.to_owned(),
            golden: Golden::new(&golden),
            config: read_json(&dir.join("config.json")),
            tensors: tensors
                .iter()
                .map(|(name, spec)| (name.clone(), shape(spec)))
                .collect(),
        }
    }

    /// Writes the model as a GGUF file, its matrices in an unquantised format.
    ///
    /// # Panics
    /// For a quantised format, which needs an encoder: [`Self::write_gguf_with`]. When the file
    /// cannot be written.
    pub fn write_gguf(&self, path: &Path, format: QuantFormat) {
        let encode: &dyn Fn(&[f32]) -> Vec<u8> = match format {
            QuantFormat::F32 => &|row| row.iter().flat_map(|w| w.to_le_bytes()).collect(),
            QuantFormat::F16 => &|row| {
                row.iter()
                    .flat_map(|&w| half::f16::from_f32(w).to_le_bytes())
                    .collect()
            },
            QuantFormat::BF16 => &|row| {
                row.iter()
                    .flat_map(|&w| half::bf16::from_f32(w).to_le_bytes())
                    .collect()
            },
            other => panic!("{other} needs an encoder: use write_gguf_with"),
        };
        self.write_gguf_with(path, format, encode);
    }

    /// Writes the model as a GGUF file, its matrices in `format`. `encode` turns one row (64 or
    /// 128 weights) into its bytes in that format; vectors stay f32, as converters keep them.
    ///
    /// # Panics
    /// When a row does not encode to the format's size, or the file cannot be written.
    pub fn write_gguf_with(
        &self,
        path: &Path,
        format: QuantFormat,
        encode: &dyn Fn(&[f32]) -> Vec<u8>,
    ) {
        let file = gguf::convert(self, &gguf::Encoding { format, encode });
        file.write_file(path).expect("a tiny model can be written");
    }

    /// Writes the model as f32 into a new directory under the system's temporary directory, named
    /// after this process and `test`, and returns the file's path.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_temporary(&self, test: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("kvist-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary directory can be made");
        let path = dir.join(format!("{}.gguf", self.name));
        self.write_gguf(&path, QuantFormat::F32);
        path
    }

    fn config_u32(&self, key: &str) -> u32 {
        self.config[key]
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_else(|| {
                panic!("config.json of {} has no number {key:?}", self.name);
            })
    }

    /// A number of the configuration; `key` is a JSON pointer.
    fn config_f64(&self, key: &str) -> f64 {
        self.config
            .pointer(key)
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("config.json of {} has no number at {key}", self.name))
    }
}

impl Golden {
    fn new(file: &Safetensors) -> Self {
        let positions: Vec<usize> = file.u32s("positions").iter().map(|&p| p as usize).collect();
        let logits = file.f32s("logits");
        let vocab_len = logits.len() / positions.len();
        Self {
            input_ids: file.u32s("input_ids"),
            logits: logits
                .chunks_exact(vocab_len)
                .map(<[f32]>::to_vec)
                .collect(),
            positions,
            greedy: file.u32s("greedy"),
            salt: file.metadata("salt").parse().expect("the salt is a number"),
        }
    }
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The shape in `["F32", rows, cols]`.
fn shape(spec: &Value) -> Vec<usize> {
    let spec = spec
        .as_array()
        .expect("a tensor is a list of a type and lengths");
    let lens = spec
        .iter()
        .skip(1)
        .map(|len| len.as_u64().and_then(|len| usize::try_from(len).ok()));
    lens.collect::<Option<_>>().expect("lengths are numbers")
}
