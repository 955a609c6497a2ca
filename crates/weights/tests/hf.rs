//! Model folders of the Hugging Face hub: hostile headers and indices die at the door.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use kvist_base::{Bytes, mix64};
use kvist_weights::hf::{HfFolder, Index, is_hf, parse_header};

const HEADER: &str = r#"{"__metadata__":{"format":"pt"},
    "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
    "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;

fn header(json: &str) -> Result<usize, String> {
    let parsed = parse_header(Path::new("x.safetensors"), json.as_bytes());
    parsed
        .map(|tensors| tensors.len())
        .map_err(|error| error.to_string())
}

#[test]
fn tensors_come_in_the_order_of_their_data() {
    let tensors = parse_header(Path::new("x"), HEADER.as_bytes()).unwrap();
    let read: Vec<_> = tensors
        .iter()
        .map(|t| (&*t.name, &*t.dtype, t.values, t.bytes))
        .collect();
    assert_eq!(read, [("a", "F32", 1, 4), ("b", "BF16", 6, 12)]);
    assert_eq!(header("{}"), Ok(0));
}

#[test]
fn a_tensor_that_contradicts_itself_or_its_neighbours_is_named() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        header(&format!(
            r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#
        ))
    };
    assert_eq!(one("F16", "[4]", "[0,8]"), Ok(1));
    assert_eq!(one("F4", "[3]", "[0,2]"), Ok(1));
    let refused = [
        one("F16", "[4]", "[0,9]"),
        one("F16", "[4]", "[8,0]"),
        one("F16", "[4]", "[2,10]"),
        one("F16", "[18446744073709551615, 2]", "[0,8]"),
        one("F16", "[4611686018427387904]", "[0,8]"),
        one("F16", "[9223372036854775807]", "[0,18446744073709551614]"),
        one("Q9", "[4]", "[0,8]"),
        one("F16", "[1,1,1,1,1,1,1,1,4]", "[0,8]"),
        one("F16", "[0]", "[0,8]"),
    ];
    for error in refused {
        let error = error.unwrap_err();
        assert!(
            error.starts_with("x.safetensors: tensor \"t\": "),
            "{error}"
        );
    }
    let overlapping = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                          "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    assert!(header(overlapping).unwrap_err().contains("\"b\""));
    for damaged in [
        "",
        "[]",
        "{\"a\":3}",
        r#"{"a":{"dtype":"U8"}}"#,
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[1,2]}}"#,
    ] {
        assert!(
            header(damaged)
                .unwrap_err()
                .contains("header cannot be read"),
            "{damaged}"
        );
    }
    let long = format!(
        r#"{{"{}":{{"dtype":"U8","shape":[],"data_offsets":[0,1]}}}}"#,
        "n".repeat(2000)
    );
    assert!(header(&long).is_err());
}

#[test]
fn no_flipped_or_missing_byte_of_a_header_is_a_panic() {
    let bytes = HEADER.as_bytes();
    for end in 0..bytes.len() {
        assert!(parse_header(Path::new("x"), &bytes[..end]).is_err());
    }
    for seed in 0..20_000 {
        let mut flipped = bytes.to_vec();
        let at = usize::try_from(mix64(seed) % bytes.len() as u64).unwrap();
        flipped[at] = u8::try_from(mix64(seed ^ 0x5eed) % 256).unwrap();
        let sum = parse_header(Path::new("x"), &flipped)
            .map(|tensors| tensors.iter().map(|tensor| tensor.bytes).sum::<u64>());
        assert!(
            sum.is_err() || sum.is_ok_and(|sum| sum <= 1 << 50),
            "seed {seed}"
        );
    }
}

#[test]
fn an_index_stays_in_its_folder() {
    let parse = |text: &str| Index::parse(Path::new("i.json"), text);
    let good = r#"{"metadata":{"total_size":12.0},"weight_map":{"b":"2.safetensors","a":"1.safetensors","c":"1.safetensors"}}"#;
    let index = parse(good).unwrap();
    assert_eq!(index.files, ["1.safetensors", "2.safetensors"]);
    assert_eq!(index.total, Some(Bytes(12)));
    assert_eq!(parse(r#"{"weight_map":{}}"#).unwrap().total, None);
    for bad in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a\\\\b.safetensors",
        ".safetensors",
        "x.bin",
    ] {
        let error = parse(&format!(r#"{{"weight_map":{{"a":"{bad}"}}}}"#)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is not the name of a safetensors file"),
            "{error}"
        );
    }
    let many: Vec<String> = (0..1025)
        .map(|n| format!("\"{n}\":\"{n}.safetensors\""))
        .collect();
    let error = parse(&format!("{{\"weight_map\":{{{}}}}}", many.join(","))).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1025 is above the limit of 1024"),
        "{error}"
    );
    assert!(parse("{}").is_err() && parse(r#"{"weight_map":[]}"#).is_err());
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("kvist-weights-hf-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn file(header: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

#[test]
fn a_folder_is_read_by_itself_or_any_of_its_files() {
    let folder = Folder::new("whole");
    assert!(!is_hf(&folder.0), "no configuration yet");
    assert!(HfFolder::open(&folder.0).is_err());
    folder.write("config.json", b"{}");
    let bare = HfFolder::open(&folder.0).unwrap();
    assert!(bare.tensors.is_empty() && !bare.is_complete && bare.total.is_none());
    folder.write("model.safetensors", &file(HEADER, 16));
    for path in [
        folder.0.clone(),
        folder.0.join("config.json"),
        folder.0.join("model.safetensors"),
    ] {
        assert!(is_hf(&path));
        let read = HfFolder::open(&path).unwrap();
        assert_eq!(
            (read.tensors.len(), read.total, read.is_complete),
            (2, Some(Bytes(16)), true)
        );
    }
    folder.write("model.safetensors", &file(HEADER, 15));
    assert!(!HfFolder::open(&folder.0).unwrap().is_complete);
}

#[test]
fn files_shorter_or_longer_than_they_say_are_refused() {
    let folder = Folder::new("lengths");
    folder.write("config.json", b"{}");
    let whole = file(HEADER, 0);
    let mut cases: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
    cases.push([&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    cases.push([&100_000_001u64.to_le_bytes()[..], b"{}"].concat());
    for bytes in cases {
        folder.write("model.safetensors", &bytes);
        let error = HfFolder::open(&folder.0).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    folder.write("config.json", &vec![b' '; (4 << 20) + 1]);
    let error = HfFolder::open(&folder.0).unwrap_err();
    assert!(
        error.to_string().contains("above the limit of 4194304"),
        "{error}"
    );
}
