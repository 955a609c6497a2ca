//! A valid file with every value type and several tensor types, made twice: by the writer, and
//! byte by byte.

use kvist_weights::write::{GgufWriter, TensorShape};
use kvist_weights::{Array, GgmlType, StrArray, Value};

use crate::raw::Raw;

pub const WORDS: [&str; 4] = ["", "kvist", "träd", "🌳"];

/// The file's bytes, and how many of them are header.
pub fn written() -> (Vec<u8>, usize) {
    let mut file = GgufWriter::new();
    let nested = vec![Array::I16([-1, 2].into()), Array::Array([].into())];
    let values: [(&str, Value); 16] = [
        ("general.architecture", "llama".into()),
        ("u8", 200u8.into()),
        ("i8", (-3i8).into()),
        ("u16", 60_000u16.into()),
        ("i16", (-300i16).into()),
        ("u32", 70_000u32.into()),
        ("i32", (-70_000i32).into()),
        ("f32", 0.5f32.into()),
        ("bool", true.into()),
        ("u64", (1u64 << 40).into()),
        ("i64", (-1i64 << 40).into()),
        ("f64", 0.1f64.into()),
        ("words", WORDS.iter().collect::<StrArray>().into()),
        ("nested", nested.into()),
        ("heads", vec![4u32, 2].into()),
        ("flags", vec![true, false].into()),
    ];
    for (key, value) in values {
        file.key(key, value).unwrap();
    }
    for (name, ggml_type, dims) in TENSORS {
        let bytes: usize =
            dims.iter().product::<usize>() / ggml_type.block_weights() * ggml_type.block_bytes();
        file.tensor(
            TensorShape {
                name,
                ggml_type,
                dims,
            },
            data(name, bytes),
        )
        .unwrap();
    }
    let bytes = file.to_bytes();
    let data_bytes: usize = [128usize, 72, 1]
        .iter()
        .map(|len| len.next_multiple_of(32))
        .sum();
    let header = bytes.len() - data_bytes;
    (bytes, header)
}

/// The last one is a single byte: the file ends in padding.
pub const TENSORS: [(&str, GgmlType, &[usize]); 3] = [
    ("norm.weight", GgmlType::F32, &[32]),
    ("blk.0.w", GgmlType::Q4_0, &[32, 2, 2]),
    ("tail", GgmlType::I8, &[1]),
];

/// A tensor's bytes: no two tensors have the same.
pub fn data(name: &str, len: usize) -> Vec<u8> {
    (0..len).map(|idx| (idx * 7 + name.len()) as u8).collect()
}

pub fn by_hand() -> Raw {
    let mut raw = Raw::new();
    raw.key("general.architecture", 8).string("llama");
    raw.key("u8", 0).put([200]);
    raw.key("i8", 1).put([0xFD]);
    raw.key("u16", 2).put(60_000u16.to_le_bytes());
    raw.key("i16", 3).put((-300i16).to_le_bytes());
    raw.key("u32", 4).put(70_000u32.to_le_bytes());
    raw.key("i32", 5).put((-70_000i32).to_le_bytes());
    raw.key("f32", 6).put([0, 0, 0, 0x3F]);
    raw.key("bool", 7).put([1]);
    raw.key("u64", 10).put([0, 0, 0, 0, 0, 1, 0, 0]);
    raw.key("i64", 11).put([0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF]);
    raw.key("f64", 12).put(0.1f64.to_le_bytes());
    raw.key("words", 9).array(8, 4);
    for word in WORDS {
        raw.string(word);
    }
    raw.key("nested", 9).array(9, 2);
    raw.array(3, 2).put([0xFF, 0xFF, 2, 0]);
    raw.array(9, 0);
    raw.key("heads", 9)
        .array(4, 2)
        .put([4, 0, 0, 0, 2, 0, 0, 0]);
    raw.key("flags", 9).array(7, 2).put([1, 0]);
    raw.tensor("norm.weight", &[32], (0, 0));
    raw.tensor("blk.0.w", &[32, 2, 2], (2, 128));
    raw.tensor("tail", &[1], (24, 224));
    raw.pad(32);
    raw.put(data("norm.weight", 128));
    raw.put(data("blk.0.w", 72)).pad(32);
    raw.put(data("tail", 1)).pad(32);
    raw
}
