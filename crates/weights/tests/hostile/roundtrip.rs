//! What is written is what is read.

use std::fs;

use kvist_base::{Bytes, QuantFormat};
use kvist_weights::write::{GgufWriter, TensorShape, WriteError};
use kvist_weights::{Array, GgmlType, GgufFile, U32OrArray, Value, WeightsError};

use crate::raw::Raw;
use crate::sample;
use crate::temporary::TempDir;

fn sample_file(dir: &TempDir) -> GgufFile {
    GgufFile::open(&dir.file("sample.gguf", sample::written().0)).unwrap()
}

#[test]
fn the_writer_writes_the_published_layout() {
    let (written, header_len) = sample::written();
    let by_hand = sample::by_hand().bytes;
    assert_eq!(written[..header_len], by_hand[..header_len]);
    assert_eq!(written, by_hand);
}

#[test]
fn every_value_type_is_read_back() {
    let dir = TempDir::new();
    let file = sample_file(&dir);
    let metadata = file.metadata();
    assert_eq!(file.version(), 3);
    assert_eq!(metadata.len(), 16);
    assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");
    assert_eq!(
        metadata.require_str("general.architecture").unwrap(),
        "llama"
    );
    assert_eq!(metadata.get("i8"), Some(&Value::I8(-3)));
    assert_eq!(metadata.get("u64"), Some(&Value::U64(1 << 40)));
    assert_eq!(metadata.get("i64"), Some(&Value::I64(-1 << 40)));
    assert_eq!(metadata.get("f64"), Some(&Value::F64(0.1)));
    assert_eq!(metadata.opt_bool("bool").unwrap(), Some(true));
    assert_eq!(
        metadata.require_f32("f32").unwrap().to_bits(),
        0.5f32.to_bits()
    );
    let nested = [Array::I16([-1, 2].into()), Array::Array([].into())];
    assert_eq!(
        metadata.get("nested"),
        Some(&Value::Array(Array::Array(nested.into())))
    );

    let words = metadata.require_strings("words").unwrap();
    assert_eq!(words.iter().collect::<Vec<_>>(), sample::WORDS);
    assert_eq!((words.get(2), words.get(4)), (Some("träd"), None));
}

#[test]
fn getters_convert_integers_and_refuse_other_types() {
    let dir = TempDir::new();
    let file = sample_file(&dir);
    let metadata = file.metadata();
    for (key, expected) in [("u8", 200), ("u16", 60_000), ("u32", 70_000)] {
        assert_eq!(metadata.require_u32(key).unwrap(), expected);
    }
    for key in ["i8", "u64", "i64"] {
        let err = metadata.opt_u32(key).unwrap_err();
        assert!(
            matches!(err, WeightsError::OutOfRange { .. }),
            "{key}: {err}"
        );
    }
    assert_eq!(metadata.opt_u32("absent").unwrap(), None);
    let err = metadata.require_u32("absent").unwrap_err();
    assert!(
        err.to_string()
            .contains(r#"key "absent" is missing (u32 expected)"#),
        "{err}"
    );
    let err = metadata.opt_f32("words").unwrap_err();
    assert!(
        err.to_string()
            .ends_with(r#"key "words": f32 expected, array of string found"#)
    );
    assert!(metadata.opt_str("u8").is_err() && metadata.opt_bool("u8").is_err());
    assert!(metadata.i32s("heads").is_err() && metadata.f32s("heads").is_err());

    let heads = metadata.u32_or_array("heads").unwrap().unwrap();
    assert_eq!(
        (heads.get(0), heads.get(1), heads.get(2)),
        (Some(4), Some(2), None)
    );
    assert_eq!(
        metadata.u32_or_array("u32").unwrap(),
        Some(U32OrArray::One(70_000))
    );
    assert!(metadata.u32_or_array("flags").is_err());
}

#[test]
fn tensors_are_views_into_the_file() {
    let dir = TempDir::new();
    let file = sample_file(&dir);
    assert!(file.is_complete());
    assert_eq!(file.tensor_bytes(), Bytes(128 + 72 + 1));
    assert_eq!(
        file.file_bytes().0,
        fs::metadata(&file.paths()[0]).unwrap().len()
    );
    assert_eq!(file.tensors().len(), 3);
    assert!(file.tensor("absent").is_none());

    let matrix = file.tensor("blk.0.w").unwrap();
    assert_eq!(
        (matrix.cols(), matrix.rows(), matrix.elements()),
        (32, 4, 128)
    );
    assert_eq!(matrix.format().unwrap(), QuantFormat::Q4_0);
    let views: Vec<_> = file
        .tensors()
        .iter()
        .map(|info| file.data(info).unwrap())
        .collect();
    drop(file); // views keep the mapping alive
    for ((name, ..), view) in sample::TENSORS.iter().zip(&views) {
        assert_eq!(view.as_ref(), sample::data(name, view.len()), "{name}");
    }
}

#[test]
fn a_known_type_without_kernels_is_named_with_those_that_have_them() {
    let dir = TempDir::new();
    let err = sample_file(&dir)
        .tensor("tail")
        .unwrap()
        .format()
        .unwrap_err()
        .to_string();
    assert!(
        err.contains(r#"tensor "tail": type I8 is not supported"#),
        "{err}"
    );
    assert!(err.contains("Q4_K") && err.contains("BF16"), "{err}");
}

#[test]
fn version_2_has_the_same_layout() {
    let dir = TempDir::new();
    let mut raw = sample::by_hand();
    raw.set(4..8, 2);
    let file = GgufFile::open(&dir.file("v2.gguf", raw.bytes)).unwrap();
    assert_eq!((file.version(), file.tensors().len()), (2, 3));
}

#[test]
fn a_stated_alignment_moves_the_data() {
    let dir = TempDir::new();
    let mut writer = GgufWriter::new();
    writer.key("general.alignment", 256u32).unwrap();
    for name in ["a", "b"] {
        let shape = TensorShape {
            name,
            ggml_type: GgmlType::I8,
            dims: &[3],
        };
        writer.tensor(shape, name.repeat(3).into_bytes()).unwrap();
    }
    let path = dir.path("aligned.gguf");
    writer.write_file(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len() % 256, 0);
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(
        file.data(file.tensor("b").unwrap()).unwrap().as_ref(),
        b"bbb"
    );
}

#[test]
fn a_header_is_enough_to_plan_from() {
    let dir = TempDir::new();
    let (bytes, header_len) = sample::written();
    let path = dir.file("partial.gguf", &bytes[..header_len + 130]);
    let file = GgufFile::open_header(&path).unwrap();
    assert!(!file.is_complete());
    assert_eq!(file.tensor_bytes(), Bytes(201));
    assert!(file.data(file.tensor("norm.weight").unwrap()).is_ok());
    let err = file
        .data(file.tensor("blk.0.w").unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        err.contains(r#""blk.0.w""#) && err.contains("70 bytes are missing"),
        "{err}"
    );
}

#[test]
fn a_file_without_tensors_is_a_vocabulary() {
    let dir = TempDir::new();
    let mut raw = Raw::new();
    raw.key("general.architecture", 8).string("llama");
    let file = GgufFile::open(&dir.file("vocab.gguf", raw.bytes)).unwrap();
    assert!(file.is_complete() && file.tensors().is_empty());
}

#[test]
fn a_tensor_of_another_model_is_refused_or_in_range() {
    let dir = TempDir::new();
    let file = sample_file(&dir);
    let mut writer = GgufWriter::new();
    let shape = TensorShape {
        name: "big",
        ggml_type: GgmlType::I8,
        dims: &[1 << 16],
    };
    writer.tensor(shape, vec![0; 1 << 16]).unwrap();
    let other = GgufFile::open(&dir.file("other.gguf", writer.to_bytes())).unwrap();
    assert!(file.data(&other.tensors()[0]).is_err());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut writer = GgufWriter::new();
    writer.key("a", 1u32).unwrap();
    assert!(matches!(
        writer.key("a", 2u32),
        Err(WriteError::Duplicate { .. })
    ));
    for given in [0u32, 3, 1 << 21] {
        let refused = writer.key("general.alignment", given);
        assert!(
            matches!(refused, Err(WriteError::BadAlignment { .. })),
            "{given}"
        );
    }
    let mut tensor = |dims: &[usize], bytes| {
        let shape = TensorShape {
            name: "t",
            ggml_type: GgmlType::Q8_0,
            dims,
        };
        writer.tensor(shape, vec![0; bytes])
    };
    for dims in [
        &[][..],
        &[0],
        &[33],
        &[32, 0],
        &[32, 1, 1, 1, 1],
        &[1 << 62, 1 << 62],
    ] {
        assert!(
            matches!(tensor(dims, 0), Err(WriteError::BadDims { .. })),
            "{dims:?}"
        );
    }
    assert!(matches!(
        tensor(&[64], 67),
        Err(WriteError::DataSize { expected: 68, .. })
    ));
    tensor(&[64], 68).unwrap();
    assert!(matches!(
        tensor(&[64], 68),
        Err(WriteError::Duplicate { .. })
    ));
}
