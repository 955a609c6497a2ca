//! The header of a safetensors file.
//!
//! ```text
//! 0          8                 8 + n                       8 + n + data
//! | n: u64le | JSON, n bytes   | tensors, back to back     |
//! ```
//!
//! The JSON maps a tensor's name to `{dtype, shape, data_offsets: [from, to]}`, offsets counted from
//! the end of the header; `__metadata__` maps strings to strings. The published format wants the data
//! covered without holes; so does this reader.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::error::HfError;
use super::json::{io_error, open_regular};
use crate::limits::{
    DIMS_MAX, FILE_BYTES_MAX, NAME_BYTES_MAX, SAFETENSORS_HEADER_MAX, TENSORS_MAX,
};

/// The bytes before the header.
const LENGTH_BYTES: u64 = 8;
/// Axes of a tensor: some checkpoints have more than GGUF allows.
const AXES_MAX: usize = 2 * DIMS_MAX;

/// A tensor's entry in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfTensor {
    /// Its name.
    pub name: String,
    /// Its number type, such as `BF16`.
    pub dtype: String,
    /// Its axes, the slowest first.
    pub shape: Vec<u64>,
    /// Its values.
    pub values: u64,
    /// Its size.
    pub bytes: u64,
}

/// What a file's header says.
pub(super) struct Header {
    pub tensors: Vec<HfTensor>,
    /// Whether the file holds all its tensors' bytes.
    pub is_complete: bool,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// All entries but the metadata.
struct RawHeader(BTreeMap<String, RawTensor>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if name.len() as u64 > NAME_BYTES_MAX {
                        return Err(A::Error::custom("a tensor's name is too long"));
                    }
                    if entries.len() as u64 >= TENSORS_MAX {
                        return Err(A::Error::custom("too many tensors"));
                    }
                    let tensor = map.next_value()?;
                    if entries.insert(name, tensor).is_some() {
                        return Err(A::Error::custom("a tensor is there twice"));
                    }
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads the header of the file at `path`.
pub(super) fn read_header(path: &Path) -> Result<Header, HfError> {
    let (mut file, given) = open_regular(path)?;
    let truncated = |what, needed| HfError::Truncated {
        path: path.to_owned(),
        what,
        needed,
        given,
    };
    if given < LENGTH_BYTES {
        return Err(truncated("the length of the header", LENGTH_BYTES));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(io_error(path, "read"))?;
    let length = u64::from_le_bytes(length);
    if length > SAFETENSORS_HEADER_MAX {
        return Err(HfError::TooLarge {
            path: path.to_owned(),
            what: "bytes of the header".to_owned(),
            limit: SAFETENSORS_HEADER_MAX,
            given: length,
        });
    }
    if length > given - LENGTH_BYTES {
        return Err(truncated("the header", LENGTH_BYTES + length));
    }
    let mut header = Vec::new();
    file.take(length)
        .read_to_end(&mut header)
        .map_err(io_error(path, "read"))?;
    let tensors = parse_header(path, &header)?;
    let data: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let is_complete = data <= given - LENGTH_BYTES - length;
    Ok(Header {
        tensors,
        is_complete,
    })
}

/// Reads the JSON of a header; `path` is for errors. The tensors come in the order of their data,
/// and their sizes sum to at most [`FILE_BYTES_MAX`].
///
/// # Errors
/// When it is damaged, or a tensor contradicts itself or its neighbours.
pub fn parse_header(path: &Path, json: &[u8]) -> Result<Vec<HfTensor>, HfError> {
    let RawHeader(entries) = serde_json::from_slice(json).map_err(|source| HfError::Json {
        path: path.to_owned(),
        what: "the safetensors header",
        source,
    })?;
    let mut entries: Vec<(String, RawTensor)> = entries.into_iter().collect();
    entries.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut end = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, raw) in entries {
        let bad = |why: String| HfError::BadTensor {
            path: path.to_owned(),
            tensor: name.clone(),
            why,
        };
        let (from, to) = raw.data_offsets;
        if from != end || to < from || to > FILE_BYTES_MAX {
            return Err(bad(format!(
                "its data are {from}..{to}, the tensor before ends at {end}"
            )));
        }
        end = to;
        let values =
            count(&raw.shape).ok_or_else(|| bad(format!("shape {:?} is too large", raw.shape)))?;
        let bits = dtype_bits(&raw.dtype)
            .ok_or_else(|| bad(format!("dtype {:?} is not known", raw.dtype)))?;
        let bytes = to - from;
        let needed = values.checked_mul(bits).map(|bits| bits.div_ceil(8));
        if needed != Some(bytes) {
            let dtype = &raw.dtype;
            return Err(bad(format!(
                "{values} values of {dtype} do not take {bytes} bytes"
            )));
        }
        let (dtype, shape) = (raw.dtype, raw.shape);
        tensors.push(HfTensor {
            name,
            dtype,
            shape,
            values,
            bytes,
        });
    }
    Ok(tensors)
}

fn count(shape: &[u64]) -> Option<u64> {
    let is_plausible = shape.len() <= AXES_MAX;
    let product = || {
        shape
            .iter()
            .try_fold(1u64, |values, axis| values.checked_mul(*axis))
    };
    if is_plausible { product() } else { None }
}

/// Bits of a value.
fn dtype_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" | "I8" | "U8"
        | "BOOL" => 8,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => return None,
    })
}
