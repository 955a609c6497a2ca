//! Writing GGUF version 3.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::ggml::GgmlType;
use crate::header::{KEY_ALIGNMENT, MAGIC};
use crate::limits;
use crate::value::{Array, StrArray, Value, type_id};

/// Builds a GGUF file: keys and tensors are written in the order they are added.
///
/// ```no_run
/// use kvist_weights::GgmlType;
/// use kvist_weights::write::{GgufWriter, TensorShape};
/// # fn main() -> Result<(), kvist_weights::write::WriteError> {
/// let mut writer = GgufWriter::new();
/// writer.key("general.architecture", "llama")?;
/// let shape = TensorShape { name: "norm.weight", ggml_type: GgmlType::F32, dims: &[1] };
/// writer.tensor(shape, 1.0f32.to_le_bytes().to_vec())?;
/// writer.write_file("tiny.gguf".as_ref())
/// # }
/// ```
#[derive(Debug)]
pub struct GgufWriter<'a> {
    alignment: u32,
    keys: Vec<(String, Value)>,
    tensors: Vec<Tensor<'a>>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    ggml_type: GgmlType,
    dims: Vec<usize>,
    data: Cow<'a, [u8]>,
}

/// What a tensor to write is: `dims[0]` is the length of a row.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // as in `TensorInfo`
pub struct TensorShape<'s> {
    pub name: &'s str,
    pub ggml_type: GgmlType,
    pub dims: &'s [usize],
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named in each message
pub enum WriteError {
    /// The operating system refused.
    #[error("{path}: cannot write: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// A key or a tensor was added before.
    #[error("{what} {name:?} was added twice")]
    Duplicate { what: &'static str, name: String },
    /// No dimensions, too many, a zero, an overflow, or a row of partial blocks.
    #[error("tensor {tensor:?}: shape {dims:?} cannot be stored as {ggml_type}")]
    BadDims {
        tensor: String,
        dims: Vec<usize>,
        ggml_type: GgmlType,
    },
    /// The data is not what shape and type take.
    #[error("tensor {tensor:?}: {expected} bytes expected, {given} given")]
    DataSize {
        tensor: String,
        expected: usize,
        given: usize,
    },
    /// `general.alignment` is not a power of two in range.
    #[error("general.alignment is {given}; it must be a power of two up to {limit}")]
    BadAlignment { limit: u32, given: u32 },
}

impl Default for GgufWriter<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> GgufWriter<'a> {
    /// A file without keys and tensors, aligned to 32 bytes.
    pub fn new() -> Self {
        Self {
            alignment: limits::ALIGNMENT_DEFAULT,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Adds a key. `general.alignment` takes effect on the whole file.
    ///
    /// # Errors
    /// [`WriteError::Duplicate`], [`WriteError::BadAlignment`].
    pub fn key(&mut self, key: &str, value: impl Into<Value>) -> Result<(), WriteError> {
        if self.keys.iter().any(|(known, _)| known == key) {
            return Err(WriteError::Duplicate {
                what: "key",
                name: key.to_owned(),
            });
        }
        let value = value.into();
        if key == KEY_ALIGNMENT {
            let given = match value {
                Value::U32(given) => given,
                _ => 0,
            };
            if !given.is_power_of_two() || given > limits::ALIGNMENT_MAX {
                return Err(WriteError::BadAlignment {
                    limit: limits::ALIGNMENT_MAX,
                    given,
                });
            }
            self.alignment = given;
        }
        self.keys.push((key.to_owned(), value));
        Ok(())
    }

    /// Adds a tensor; `data` is in the layout of its type.
    ///
    /// # Errors
    /// [`WriteError::Duplicate`], [`WriteError::BadDims`], [`WriteError::DataSize`].
    pub fn tensor(
        &mut self,
        shape: TensorShape,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Result<(), WriteError> {
        let TensorShape {
            name,
            ggml_type,
            dims,
        } = shape;
        if self.tensors.iter().any(|known| known.name == name) {
            return Err(WriteError::Duplicate {
                what: "tensor",
                name: name.to_owned(),
            });
        }
        let expected = data_bytes(&shape).ok_or_else(|| WriteError::BadDims {
            tensor: name.to_owned(),
            dims: dims.to_vec(),
            ggml_type,
        })?;
        let data = data.into();
        if data.len() != expected {
            let given = data.len();
            return Err(WriteError::DataSize {
                tensor: name.to_owned(),
                expected,
                given,
            });
        }
        self.tensors.push(Tensor {
            name: name.to_owned(),
            ggml_type,
            dims: dims.to_vec(),
            data,
        });
        Ok(())
    }

    /// The whole file in memory.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes)
            .expect("writing to a Vec does not fail");
        bytes
    }

    /// Writes the file at `path`, replacing what is there.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn write_file(&self, path: &Path) -> Result<(), WriteError> {
        let write = || {
            let mut out = BufWriter::new(File::create(path)?);
            self.write(&mut out)?;
            out.flush()
        };
        write().map_err(|source| WriteError::Io {
            path: path.to_path_buf(),
            source,
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let header = self.header();
        out.write_all(&header)?;
        self.pad(out, header.len())?;
        for tensor in &self.tensors {
            out.write_all(&tensor.data)?;
            self.pad(out, tensor.data.len())?;
        }
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(3u32.to_le_bytes());
        put_len(&mut out, self.tensors.len());
        put_len(&mut out, self.keys.len());
        for (key, value) in &self.keys {
            put_str(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_str(&mut out, &tensor.name);
            let [dim_count, ..] = tensor.dims.len().to_le_bytes(); // at most 4
            out.extend([dim_count, 0, 0, 0]);
            for &dim in &tensor.dims {
                put_len(&mut out, dim);
            }
            out.extend(tensor.ggml_type.id().to_le_bytes());
            put_len(&mut out, offset);
            offset += tensor.data.len().next_multiple_of(self.alignment as usize);
        }
        out
    }

    fn pad(&self, out: &mut impl Write, written: usize) -> io::Result<()> {
        let padding = written.next_multiple_of(self.alignment as usize) - written;
        io::copy(&mut io::Read::take(io::repeat(0), padding as u64), out).map(|_| ())
    }
}

fn data_bytes(shape: &TensorShape) -> Option<usize> {
    let TensorShape {
        ggml_type, dims, ..
    } = shape;
    let (&cols, rows) = dims.split_first()?;
    if dims.len() > limits::DIMS_MAX
        || dims.contains(&0)
        || !cols.is_multiple_of(ggml_type.block_weights())
    {
        return None;
    }
    let row_bytes = (cols / ggml_type.block_weights()).checked_mul(ggml_type.block_bytes())?;
    rows.iter()
        .try_fold(row_bytes, |bytes, &len| bytes.checked_mul(len))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

/// A type id and what follows it.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |id: u32, bytes: &[u8]| {
        out.extend(id.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(n) => put(type_id::U8, &n.to_le_bytes()),
        Value::I8(n) => put(type_id::I8, &n.to_le_bytes()),
        Value::U16(n) => put(type_id::U16, &n.to_le_bytes()),
        Value::I16(n) => put(type_id::I16, &n.to_le_bytes()),
        Value::U32(n) => put(type_id::U32, &n.to_le_bytes()),
        Value::I32(n) => put(type_id::I32, &n.to_le_bytes()),
        Value::F32(n) => put(type_id::F32, &n.to_le_bytes()),
        Value::Bool(b) => put(type_id::BOOL, &[u8::from(*b)]),
        Value::U64(n) => put(type_id::U64, &n.to_le_bytes()),
        Value::I64(n) => put(type_id::I64, &n.to_le_bytes()),
        Value::F64(n) => put(type_id::F64, &n.to_le_bytes()),
        Value::String(text) => {
            put(type_id::STRING, &[]);
            put_str(out, text);
        }
        Value::Array(array) => {
            put(type_id::ARRAY, &[]);
            put_array(out, array);
        }
    }
}

/// An item type, a count, and the items.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn put<T: Copy, const N: usize>(
        out: &mut Vec<u8>,
        id: u32,
        items: &[T],
        to_bytes: fn(T) -> [u8; N],
    ) {
        out.extend(id.to_le_bytes());
        put_len(out, items.len());
        out.extend(items.iter().flat_map(|&item| to_bytes(item)));
    }
    match array {
        Array::U8(items) => put(out, type_id::U8, items, u8::to_le_bytes),
        Array::I8(items) => put(out, type_id::I8, items, i8::to_le_bytes),
        Array::U16(items) => put(out, type_id::U16, items, u16::to_le_bytes),
        Array::I16(items) => put(out, type_id::I16, items, i16::to_le_bytes),
        Array::U32(items) => put(out, type_id::U32, items, u32::to_le_bytes),
        Array::I32(items) => put(out, type_id::I32, items, i32::to_le_bytes),
        Array::F32(items) => put(out, type_id::F32, items, f32::to_le_bytes),
        Array::Bool(items) => put(out, type_id::BOOL, items, |b| [u8::from(b)]),
        Array::U64(items) => put(out, type_id::U64, items, u64::to_le_bytes),
        Array::I64(items) => put(out, type_id::I64, items, i64::to_le_bytes),
        Array::F64(items) => put(out, type_id::F64, items, f64::to_le_bytes),
        Array::String(strings) => put_strings(out, strings),
        Array::Array(arrays) => {
            out.extend(type_id::ARRAY.to_le_bytes());
            put_len(out, arrays.len());
            for array in arrays {
                put_array(out, array);
            }
        }
    }
}

fn put_strings(out: &mut Vec<u8>, strings: &StrArray) {
    out.extend(type_id::STRING.to_le_bytes());
    put_len(out, strings.len());
    for text in strings.iter() {
        put_str(out, text);
    }
}
