//! As much of a safetensors reader as the golden files need: the length of a JSON header (u64,
//! little-endian), the header, and the tensors at the offsets it names.

use std::fs;
use std::path::Path;

use serde_json::Value;

pub(super) struct Safetensors {
    header: Value,
    data: Vec<u8>,
}

impl Safetensors {
    pub(super) fn read(path: &Path) -> Self {
        let mut file = fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let length = file
            .first_chunk::<8>()
            .expect("a safetensors file begins with a length");
        let length = usize::try_from(u64::from_le_bytes(*length)).expect("a header fits memory");
        let data = file.split_off(8 + length);
        let header = serde_json::from_slice(&file[8..]).expect("the header is JSON");
        Self { header, data }
    }

    pub(super) fn metadata(&self, key: &str) -> &str {
        self.header["__metadata__"][key]
            .as_str()
            .expect("the golden file has this metadata")
    }

    pub(super) fn f32s(&self, name: &str) -> Vec<f32> {
        self.words(name, "F32").map(f32::from_le_bytes).collect()
    }

    /// Token ids and positions are stored as `I32`.
    pub(super) fn u32s(&self, name: &str) -> Vec<u32> {
        self.words(name, "I32").map(u32::from_le_bytes).collect()
    }

    fn words(&self, name: &str, dtype: &str) -> impl Iterator<Item = [u8; 4]> {
        let info = &self.header[name];
        assert_eq!(info["dtype"], dtype, "{name}");
        let offset = |end: usize| {
            let offset = info["data_offsets"][end].as_u64();
            offset
                .and_then(|offset| usize::try_from(offset).ok())
                .expect("offsets are numbers")
        };
        self.data[offset(0)..offset(1)]
            .as_chunks::<4>()
            .0
            .iter()
            .copied()
    }
}
