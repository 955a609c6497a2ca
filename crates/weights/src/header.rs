//! The header of one GGUF file.
//!
//! ```text
//! | "GGUF" | version u32 | tensors u64 | kvs u64 | kv … | tensor info … | padding | data … |
//! kv:          key: string | type: u32 | value
//! tensor info: name: string | dims: u32 | len: u64 × dims | type: u32 | offset: u64
//! string:      length: u64 | bytes
//! ```
//! All little-endian. Offsets count from the start of the data, which is the end of the tensor
//! infos rounded up to `general.alignment`.

use std::path::Path;
use std::sync::Arc;

use crate::cursor::{CountLimit, Cursor};
use crate::error::WeightsError;
use crate::foreign;
use crate::limits;
use crate::metadata::Metadata;
use crate::tensor::{RawTensor, TensorInfo};
use crate::value::Value;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const KEY_ALIGNMENT: &str = "general.alignment";

/// The smallest pair: a key of one byte after its length, a type, a value of one byte.
const KV_BYTES_MIN: u64 = (8 + 1) + 4 + 1;
/// The smallest tensor info: a name of one byte after its length, one dimension, type, offset.
const TENSOR_BYTES_MIN: u64 = (8 + 1) + 4 + 8 + 4 + 8;

/// One file's header, checked as far as that is possible without the data.
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
}

impl Header {
    pub(crate) fn read(bytes: &[u8], path: &Arc<Path>) -> Result<Self, WeightsError> {
        let mut cursor = Cursor::new(bytes, path);
        let version = read_version(&mut cursor, bytes)?;
        let tensor_limit = CountLimit {
            max: limits::TENSORS_MAX,
            item_bytes_min: TENSOR_BYTES_MIN,
        };
        let tensor_count = cursor.count(&tensor_limit, format_args!("number of tensors"))?;
        let kv_limit = CountLimit {
            max: limits::KVS_MAX,
            item_bytes_min: KV_BYTES_MIN,
        };
        let kv_count = cursor.count(&kv_limit, format_args!("number of metadata keys"))?;

        let metadata = Metadata::new(Arc::clone(path), read_kvs(&mut cursor, kv_count)?)?;
        let alignment = alignment(&metadata, path)?;
        let mut tensors = read_tensors(&mut cursor, path, tensor_count)?;
        let data_start = cursor.position().next_multiple_of(u64::from(alignment));
        for tensor in &mut tensors {
            tensor.place(data_start, alignment)?;
        }
        refuse_overlap(&tensors, path)?;
        Ok(Self {
            version,
            metadata,
            tensors,
        })
    }
}

fn read_version(cursor: &mut Cursor, bytes: &[u8]) -> Result<u32, WeightsError> {
    let path = cursor.path.to_path_buf();
    if bytes.starts_with(b"FUGG") {
        return Err(WeightsError::BigEndian { path });
    }
    if !bytes.starts_with(MAGIC) {
        return Err(WeightsError::NotGguf {
            path,
            found: foreign::describe(bytes),
        });
    }
    cursor.take(MAGIC.len() as u64, format_args!("magic"))?;
    match cursor.u32(format_args!("format version"))? {
        version @ 2..=3 => Ok(version),
        // A small number seen with its bytes reversed.
        given if given != 0 && given.swap_bytes() < 1 << 16 => {
            Err(WeightsError::BigEndian { path })
        }
        given => Err(WeightsError::UnsupportedVersion { path, given }),
    }
}

fn read_kvs(cursor: &mut Cursor, count: u64) -> Result<Vec<(Box<str>, Value)>, WeightsError> {
    let mut entries = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for idx in 0..count {
        let key = cursor.string(limits::KEY_BYTES_MAX, format_args!("name of key {idx}"))?;
        let type_id = cursor.u32(format_args!("type of key {key:?}"))?;
        entries.push((key.into(), Value::read(cursor, key, type_id)?));
    }
    Ok(entries)
}

fn alignment(metadata: &Metadata, path: &Path) -> Result<u32, WeightsError> {
    let given = metadata
        .opt_u32(KEY_ALIGNMENT)?
        .unwrap_or(limits::ALIGNMENT_DEFAULT);
    if !given.is_power_of_two() || given > limits::ALIGNMENT_MAX {
        return Err(WeightsError::BadAlignment {
            path: path.to_path_buf(),
            limit: limits::ALIGNMENT_MAX,
            given,
        });
    }
    Ok(given)
}

fn read_tensors(
    cursor: &mut Cursor,
    path: &Arc<Path>,
    count: u64,
) -> Result<Vec<TensorInfo>, WeightsError> {
    // The keys took some of the bytes that the count was first checked against.
    let needed = count.saturating_mul(TENSOR_BYTES_MIN);
    cursor.require(needed, format_args!("infos of {count} tensors"))?;
    let mut tensors = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for idx in 0..count {
        let name = cursor.string(limits::NAME_BYTES_MAX, format_args!("name of tensor {idx}"))?;
        let dim_count = cursor.u32(format_args!("dimensions of tensor {name:?}"))?;
        if dim_count as usize > limits::DIMS_MAX {
            return Err(WeightsError::TooMany {
                path: path.to_path_buf(),
                what: format!("dimensions of tensor {name:?}"),
                limit: limits::DIMS_MAX as u64,
                given: dim_count.into(),
            });
        }
        let mut lens = [0; limits::DIMS_MAX];
        let dims = &mut lens[..dim_count as usize];
        for len in &mut *dims {
            *len = cursor.u64(format_args!("shape of tensor {name:?}"))?;
        }
        let type_id = cursor.u32(format_args!("type of tensor {name:?}"))?;
        let offset = cursor.u64(format_args!("offset of tensor {name:?}"))?;
        tensors.push(TensorInfo::new(
            &RawTensor {
                name,
                dims,
                type_id,
                offset,
            },
            path,
        )?);
    }
    Ok(tensors)
}

fn refuse_overlap(tensors: &[TensorInfo], path: &Path) -> Result<(), WeightsError> {
    let mut by_start: Vec<&TensorInfo> = tensors.iter().collect();
    by_start.sort_unstable_by_key(|tensor| tensor.start);
    for pair in by_start.windows(2) {
        if pair[0].range().end > pair[1].start {
            return Err(WeightsError::Overlap {
                path: path.to_path_buf(),
                tensor: pair[1].name.to_string(),
                other: pair[0].name.to_string(),
            });
        }
    }
    Ok(())
}
