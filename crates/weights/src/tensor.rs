//! What a file says about a tensor, once it is believable.

use std::fmt;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use kvist_base::{Bytes, QuantFormat};

use crate::error::WeightsError;
use crate::ggml::GgmlType;
use crate::limits;

/// A tensor's dimensions, 1 to 4, none zero. `dims[0]` is the fastest: the length of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    lens: [usize; limits::DIMS_MAX],
    count: u8,
}

impl Deref for Dims {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.lens[..usize::from(self.count)]
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}

/// A tensor of a file: its shape and type are checked, and its size does not overflow.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name in the file, such as `blk.0.attn_q.weight`.
    pub name: Box<str>,
    /// How the file stores it.
    pub ggml_type: GgmlType,
    /// Lengths of the dimensions, fastest first.
    pub dims: Dims,
    /// Size in the file.
    pub bytes: Bytes,
    /// Where it begins in its file.
    pub(crate) start: u64,
    /// Which of the model's files holds it.
    pub(crate) file_idx: usize,
    pub(crate) path: Arc<Path>,
}

/// A tensor info as read, before its file's alignment and data start are known.
pub(crate) struct RawTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) dims: &'a [u64],
    pub(crate) type_id: u32,
    pub(crate) offset: u64,
}

impl TensorInfo {
    /// Length of a row: `dims[0]`.
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// Number of rows: the product of all dimensions but the first.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product() // cannot overflow: `elements` did not
    }

    /// Number of weights.
    pub fn elements(&self) -> usize {
        self.dims.iter().product() // checked when the tensor was read
    }

    /// The format to compute with.
    ///
    /// # Errors
    /// [`WeightsError::UnsupportedType`] for a type kvist only knows by name.
    pub fn format(&self) -> Result<QuantFormat, WeightsError> {
        self.ggml_type
            .format()
            .ok_or_else(|| WeightsError::UnsupportedType {
                path: self.path.to_path_buf(),
                tensor: self.name.to_string(),
                given: self.ggml_type.name(),
                supported: QuantFormat::ALL.map(QuantFormat::name).join(", "),
            })
    }

    /// The bytes of its file it occupies. `start + bytes` is at most `FILE_BYTES_MAX`.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes.0
    }

    /// Checks shape and type; `start` holds the offset relative to the data until
    /// [`Self::place`] makes it absolute.
    pub(crate) fn new(raw: &RawTensor, path: &Arc<Path>) -> Result<Self, WeightsError> {
        let dims = check_dims(raw, path)?;
        let ggml_type = check_type(raw, path)?;
        let cols = dims[0];
        if !cols.is_multiple_of(ggml_type.block_weights()) {
            return Err(WeightsError::PartialBlock {
                path: path.to_path_buf(),
                tensor: raw.name.to_owned(),
                ggml_type: ggml_type.name(),
                block_weights: ggml_type.block_weights(),
                given: cols as u64,
            });
        }
        let blocks = dims.iter().product::<usize>() / ggml_type.block_weights();
        let bytes = (blocks as u64)
            .checked_mul(ggml_type.block_bytes() as u64)
            .ok_or_else(|| bad_dims(raw, path, "the size overflows"))?;
        Ok(Self {
            name: raw.name.into(),
            ggml_type,
            dims,
            bytes: Bytes(bytes),
            start: raw.offset,
            file_idx: 0,
            path: Arc::clone(path),
        })
    }

    /// Turns the offset into a place in the file.
    pub(crate) fn place(&mut self, data_start: u64, alignment: u32) -> Result<(), WeightsError> {
        let offset = self.start;
        if !offset.is_multiple_of(u64::from(alignment)) {
            return Err(WeightsError::Misaligned {
                path: self.path.to_path_buf(),
                tensor: self.name.to_string(),
                offset,
                alignment,
            });
        }
        let end = data_start
            .saturating_add(offset)
            .saturating_add(self.bytes.0);
        if end > limits::FILE_BYTES_MAX {
            return Err(WeightsError::TooLong {
                path: self.path.to_path_buf(),
                what: format!("end of tensor {:?}", self.name),
                limit: limits::FILE_BYTES_MAX,
                given: end,
            });
        }
        self.start = data_start + offset;
        Ok(())
    }
}

fn check_dims(raw: &RawTensor, path: &Path) -> Result<Dims, WeightsError> {
    if raw.dims.is_empty() {
        return Err(bad_dims(raw, path, "at least one dimension is needed"));
    }
    if raw.dims.contains(&0) {
        return Err(bad_dims(raw, path, "a dimension is zero"));
    }
    let mut dims = Dims {
        lens: [1; limits::DIMS_MAX],
        count: 0,
    };
    let mut elements = 1usize;
    for (len, &given) in dims.lens.iter_mut().zip(raw.dims) {
        *len = usize::try_from(given).map_err(|_| bad_dims(raw, path, "the size overflows"))?;
        elements = elements
            .checked_mul(*len)
            .ok_or_else(|| bad_dims(raw, path, "the size overflows"))?;
        dims.count += 1;
    }
    Ok(dims)
}

fn check_type(raw: &RawTensor, path: &Path) -> Result<GgmlType, WeightsError> {
    GgmlType::from_id(raw.type_id).ok_or_else(|| WeightsError::UnknownType {
        path: path.to_path_buf(),
        tensor: raw.name.to_owned(),
        given: raw.type_id,
        problem: if GgmlType::removed(raw.type_id).is_some() {
            "no longer part of the format; convert the model again"
        } else {
            "unknown"
        },
    })
}

fn bad_dims(raw: &RawTensor, path: &Path, problem: &'static str) -> WeightsError {
    WeightsError::BadDims {
        path: path.to_path_buf(),
        tensor: raw.name.to_owned(),
        dims: raw.dims.to_vec(),
        problem,
    }
}
