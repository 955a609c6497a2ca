//! Model files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use kvist_weights::GgufFile;
use kvist_weights::hf::{Index, parse_header};
use kvist_weights::write::{GgufWriter, TensorShape};
use kvist_weights::{GgmlType, WeightsError};

/// A file of this thread alone: the reader wants one.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        let name = format!(
            "kvist-fuzz-{}-{:?}.gguf",
            process::id(),
            thread::current().id()
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).expect("the machine has room for a small file");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next one of this thread overwrites it.
        let _ = fs::remove_file(&self.0);
    }
}

/// A file that opens has all its tensors inside it, aligned and apart from each other.
pub(super) fn gguf(bytes: &[u8]) {
    let scratch = Scratch::new(bytes);
    if let Err(error) = look(&scratch.0, bytes.len()) {
        let text = error.to_string();
        assert!(
            text.contains("kvist-fuzz-"),
            "the file is not named: {text}"
        );
    }
}

fn look(path: &Path, len: usize) -> Result<(), WeightsError> {
    if let Ok(header) = GgufFile::open_header(path) {
        for tensor in header.tensors() {
            let _ = (header.data(tensor), tensor.format(), tensor.elements());
        }
    }
    let file = GgufFile::open(path)?;
    let mut ranges = Vec::new();
    for tensor in file.tensors() {
        let range = tensor.range();
        assert!(range.end <= len as u64, "{range:?} of {len}");
        assert_eq!(file.data(tensor)?.len() as u64, range.end - range.start);
        ranges.push(range);
    }
    ranges.sort_by_key(|range| (range.start, range.end));
    assert!(
        ranges.is_sorted_by(|a, b| a.end <= b.start),
        "tensors overlap: {ranges:?}"
    );
    for (key, value) in file.metadata().iter() {
        assert!(file.metadata().get(key).is_some());
        assert!(!value.type_name().is_empty());
    }
    Ok(())
}

/// A small whole file: written, so that it stays one when the format grows.
pub(super) fn gguf_seeds() -> Vec<Vec<u8>> {
    let mut file = GgufWriter::new();
    let tensor = TensorShape {
        name: "a.weight",
        ggml_type: GgmlType::F32,
        dims: &[8],
    };
    let written = file
        .key("general.architecture", "llama")
        .and_then(|_| file.key("x", 7_u32))
        .and_then(|_| file.key("list", vec![1_u32, 2]))
        .and_then(|_| file.tensor(tensor, vec![0; 32]).map(drop));
    written.expect("a small file is fine");
    vec![file.to_bytes()]
}

/// What a header promises is consistent: tensors follow each other, and sizes do not overflow.
pub(super) fn safetensors(bytes: &[u8]) {
    match parse_header(Path::new("x.safetensors"), bytes) {
        Ok(tensors) => {
            let sum = tensors
                .iter()
                .try_fold(0_u64, |sum, tensor| sum.checked_add(tensor.bytes));
            assert!(sum.is_some(), "sizes overflow");
        }
        Err(error) => assert!(error.to_string().starts_with("x.safetensors")),
    }
}

/// Names in an index stay in its folder.
pub(super) fn index(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(index) = Index::parse(Path::new("i.json"), text) {
        for file in &index.files {
            let path = Path::new(file);
            assert_eq!(path.file_name(), Some(path.as_os_str()), "{file:?}");
            assert!(!file.contains('\\') && !file.starts_with('.'), "{file:?}");
        }
    }
}
