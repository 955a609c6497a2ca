//! Plans of Hugging Face folders: from the configuration alone, with an index, with headers.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use kvist_base::Bytes;
use kvist_engine::plan::{
    CgroupMemory, Devices, Limits, Machine, MemInfo, MemoryLimit, Plan, WeightScheme,
};
use kvist_engine::{Engine, EngineOptions, LoadError, PlannedModel, WhatIf, plan_what_if};

/// DeepSeek-R1-Distill-Qwen-7B, as published.
const CONFIG: &str = include_str!("data/r1_distill_qwen_7b.json");
/// What the runtime sees of an RTX 4090.
const CARD: Bytes = Bytes(25_383_256_719);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, config: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kvist-hf-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        folder.write("config.json", config.as_bytes());
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    /// A safetensors file with its header, and zeros for data.
    fn write_safetensors(&self, name: &str, header: &str, data_len: usize) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data_len, 0);
        self.write(name, &bytes);
    }

    fn plan(&self, what_if: WhatIf) -> Result<PlannedModel, LoadError> {
        plan_of(&self.0, &Limits::default(), what_if)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn plan_of(path: &Path, limits: &Limits, what_if: WhatIf) -> Result<PlannedModel, LoadError> {
    let memory = MemInfo {
        total: Bytes::GIB * 64,
        available: Bytes::GIB * 60,
    };
    let none: [CgroupMemory; 0] = [];
    plan_what_if(path, &Machine::new(memory, &none, 4), limits, what_if)
}

fn on_cards(path: &Path, count: u32, scheme: WeightScheme, share: f64) -> Plan {
    let limits = Limits {
        memory: MemoryLimit::Fraction(share),
        running_max: 65_536,
        ..Limits::default()
    };
    let memory = CARD;
    let what_if = WhatIf {
        scheme: Some(scheme),
        devices: Some(Devices { count, memory }),
    };
    plan_of(path, &limits, what_if).unwrap().plan
}

#[test]
fn a_config_alone_gives_the_published_room_on_24_gb_cards() {
    use WeightScheme::{Bf16, Gptq, Int8, Q4KM};
    let folder = Folder::new("cards", CONFIG);
    // Cards, encoding, thousands of KV tokens at 0.9, 0.7 and 0.4; 0: does not fit.
    let cases = [
        (1, Bf16, [114.0, 25.5, 0.0]),
        (1, Int8, [228.0, 139.0, 6.5]),
        (1, Gptq, [283.0, 194.0, 61.0]),
        (1, Q4KM, [298.0, 210.0, 77.0]),
        (2, Bf16, [494.0, 317.0, 51.0]),
        (2, Gptq, [662.0, 485.0, 220.0]),
    ];
    for (count, scheme, expected) in cases {
        for (share, thousands) in [0.9, 0.7, 0.4].into_iter().zip(expected) {
            let plan = on_cards(&folder.0, count, scheme, share);
            let room = if plan.fits() {
                f64::from(plan.kv.tokens.0) / 1000.0
            } else {
                0.0
            };
            let name = scheme.name();
            println!(
                "{count} x {name:6} at {share}: {room:6.1} k tokens against {thousands:6.1} k"
            );
            assert!((room - thousands).abs() <= 0.02 * thousands, "{plan}");
        }
    }
}

#[test]
fn an_index_adds_what_the_dimensions_do_not_say() {
    let folder = Folder::new("index", CONFIG);
    let alone = folder.plan(WhatIf::default()).unwrap();
    assert_eq!(alone.shape.weight_bytes(), Bytes(7_615_616_512 * 2));
    assert!(
        alone
            .notes
            .iter()
            .any(|note| note.contains("not served yet"))
    );
    let index = r#"{"metadata": {"total_size": 15331233024},
                    "weight_map": {"a": "model-00001-of-00001.safetensors"}}"#;
    folder.write("model.safetensors.index.json", index.as_bytes());
    let more = folder.plan(WhatIf::default()).unwrap();
    assert_eq!(more.shape.weight_bytes(), Bytes(15_331_233_024));
    assert!(
        more.notes
            .iter()
            .any(|note| note.starts_with("1 of 1 safetensors files"))
    );
}

#[test]
fn quantised_checkpoints_have_the_size_their_index_gives() {
    let quantised = CONFIG.replace(
        "\"vocab_size\"",
        r#""quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}, "vocab_size""#,
    );
    let folder = Folder::new("gptq", &quantised);
    let computed = folder.plan(WhatIf::default()).unwrap().shape.weight_bytes();
    assert!(
        (computed.0 as f64 / 5.57e9 - 1.0).abs() < 0.005,
        "{computed}"
    );
    let index = r#"{"metadata": {"total_size": 5570000000}, "weight_map": {"a": "b.safetensors"}}"#;
    folder.write("model.safetensors.index.json", index.as_bytes());
    let shape = folder.plan(WhatIf::default()).unwrap().shape;
    // Each of four scaled numbers is rounded down.
    assert!((5_569_999_990..=5_570_000_000).contains(&shape.weight_bytes().0));
    let again = WhatIf {
        scheme: Some(WeightScheme::Q4KM),
        devices: None,
    };
    let error = folder.plan(again).unwrap_err().to_string();
    assert!(
        error.contains("Q4_K_M would be made from 16-bit"),
        "{error}"
    );

    let unknown = Folder::new("hqq", &quantised.replace("gptq", "hqq"));
    let error = unknown.plan(WhatIf::default()).unwrap_err().to_string();
    assert!(error.contains("weights of hqq"), "{error}");
}

#[test]
fn headers_give_every_part_and_layer_its_bytes() {
    let config = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 10, "max_position_embeddings": 64, "torch_dtype": "float16",
        "tie_word_embeddings": false}"#;
    let folder = Folder::new("headers", config);
    let header = r#"{"__metadata__": {"format": "pt"},
        "model.embed_tokens.weight": {"dtype": "F16", "shape": [10, 8], "data_offsets": [0, 160]},
        "lm_head.weight": {"dtype": "F16", "shape": [10, 8], "data_offsets": [160, 320]},
        "model.layers.0.self_attn.q_proj.weight": {"dtype": "F16", "shape": [8, 8], "data_offsets": [320, 448]},
        "model.layers.1.mlp.up_proj.weight": {"dtype": "F16", "shape": [16, 8], "data_offsets": [448, 704]},
        "model.layers.1.input_layernorm.weight": {"dtype": "F16", "shape": [8], "data_offsets": [704, 720]}}"#;
    folder.write_safetensors("model.safetensors", header, 720);
    let planned = folder.plan(WhatIf::default()).unwrap();
    assert!(planned.is_complete);
    let lines: Vec<(&str, u64)> = planned
        .shape
        .weights
        .iter()
        .map(|line| (&*line.label, line.bytes.0))
        .collect();
    let expected = [
        ("attention F16", 128),
        ("mlp F16", 256),
        ("embedding F16", 160),
        ("head F16", 160),
        ("norms, biases", 16),
    ];
    assert_eq!(lines, expected);
    assert_eq!(planned.shape.layer_bytes(), [Bytes(128), Bytes(256)]);
    assert_eq!(planned.shape.layer_weight_max, Bytes(256));
    // A header alone is enough to plan, and is said to be cut off.
    folder.write_safetensors("model.safetensors", header, 100);
    assert!(!folder.plan(WhatIf::default()).unwrap().is_complete);
}

#[test]
fn what_can_only_be_planned_is_not_served() {
    let folder = Folder::new("serve", CONFIG);
    for path in [folder.0.clone(), folder.0.join("config.json")] {
        let memory = MemInfo {
            total: Bytes::GIB * 64,
            available: Bytes::GIB * 60,
        };
        let machine = Machine::new(memory, &[], 1);
        let refused = Engine::load(&path, &machine, &EngineOptions::default()).unwrap_err();
        assert!(
            refused.to_string().contains("planned but not served yet"),
            "{refused}"
        );
    }
}
