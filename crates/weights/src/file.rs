//! A model file, or the files of a split model, as one thing.

use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvist_base::Bytes;

use crate::error::WeightsError;
use crate::header::Header;
use crate::metadata::Metadata;
use crate::mmap::Mapping;
use crate::split;
use crate::tensor::TensorInfo;

/// A GGUF model: one file, or all files of a split model, memory-mapped.
///
/// ```no_run
/// # fn main() -> Result<(), kvist_weights::WeightsError> {
/// let model = kvist_weights::GgufFile::open("model.gguf".as_ref())?;
/// let architecture = model.metadata().require_str("general.architecture")?;
/// for tensor in model.tensors() {
///     println!("{architecture} {} {:?} {}", tensor.name, tensor.dims, tensor.ggml_type);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GgufFile {
    mappings: Vec<Arc<Mapping>>,
    paths: Vec<PathBuf>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, ordered by name.
    by_name: Vec<usize>,
}

/// One file of a model, its header read.
pub(crate) struct Part {
    pub(crate) path: Arc<Path>,
    pub(crate) mapping: Mapping,
    pub(crate) header: Header,
}

impl Part {
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let mapping = Mapping::open(path)?;
        let path: Arc<Path> = path.into();
        let header = Header::read(mapping.bytes(), &path)?;
        Ok(Self {
            path,
            mapping,
            header,
        })
    }
}

/// A tensor's bytes in a mapped file. Cheap to clone; keeps the mapping alive.
#[derive(Clone, Debug)]
pub struct TensorData {
    mapping: Arc<Mapping>,
    range: Range<usize>,
    path: Arc<Path>,
}

impl TensorData {
    /// Copies bytes from `at` on, counted from the tensor's first. Reads the file, not the mapping:
    /// no page of it becomes this process's memory.
    ///
    /// # Errors
    /// When the range is not inside the tensor, or the file cannot be read or has been truncated.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> io::Result<()> {
        let is_inside = at
            .checked_add(out.len())
            .is_some_and(|end| end <= self.range.len());
        if !is_inside {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} bytes at {at} of a tensor of {}",
                    out.len(),
                    self.range.len()
                ),
            ));
        }
        self.mapping.read_at(self.range.start + at, out)
    }

    /// Asks the system to begin reading the part of the tensor that lies in `part` into its cache
    /// of the file, and does not wait for it.
    ///
    /// # Errors
    /// When the system refuses; reading works all the same.
    pub fn will_need(&self, part: Range<usize>) -> io::Result<()> {
        let start = self.range.start + part.start.min(self.range.len());
        let end = self.range.start + part.end.min(self.range.len());
        if start >= end {
            return Ok(());
        }
        self.mapping.will_need(start..end)
    }

    /// Checks that the file was not written to since it was opened.
    ///
    /// # Errors
    /// [`WeightsError::Changed`] names the file.
    pub fn check_unchanged(&self) -> Result<(), WeightsError> {
        check_unchanged(&self.mapping, &self.path)
    }

    /// The file it is in.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn check_unchanged(mapping: &Mapping, path: &Path) -> Result<(), WeightsError> {
    let unchanged = mapping.is_unchanged().map_err(|source| WeightsError::Io {
        path: path.to_path_buf(),
        action: "ask for the size",
        source,
    })?;
    if unchanged {
        Ok(())
    } else {
        let path = path.to_path_buf();
        Err(WeightsError::Changed { path })
    }
}

impl AsRef<[u8]> for TensorData {
    fn as_ref(&self) -> &[u8] {
        &self.mapping.bytes()[self.range.clone()] // in range since `GgufFile::data`
    }
}

impl Deref for TensorData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl GgufFile {
    /// Opens a model and checks all of it but the weights' values: every tensor is inside its
    /// file, aligned, and overlaps no other. Any part of a split model stands for the whole.
    ///
    /// The files must not be rewritten or truncated in place while they are open; replacing them
    /// by renaming is fine.
    ///
    /// # Errors
    /// A [`WeightsError`] naming the file, the tensor or key, and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = Self::open_header(path)?;
        for tensor in &file.tensors {
            file.locate(tensor)?;
        }
        Ok(file)
    }

    /// Opens a model for its header only: the file may end anywhere in its data, as an unfinished
    /// download does. [`Self::data`] gives the tensors that are there.
    ///
    /// # Errors
    /// As [`Self::open`], but for missing data.
    pub fn open_header(path: &Path) -> Result<Self, WeightsError> {
        let mut parts = split::gather(Part::open(path)?)?.into_iter();
        let first = parts
            .next()
            .expect("gather returns at least the file it was given");
        let Header {
            version,
            metadata,
            tensors,
        } = first.header;
        let mut file = Self {
            mappings: vec![Arc::new(first.mapping)],
            paths: vec![first.path.to_path_buf()],
            version,
            metadata,
            tensors,
            by_name: Vec::new(),
        };
        for part in parts {
            let file_idx = file.mappings.len();
            file.mappings.push(Arc::new(part.mapping));
            file.paths.push(part.path.to_path_buf());
            let tensors = part.header.tensors.into_iter();
            file.tensors
                .extend(tensors.map(|tensor| TensorInfo { file_idx, ..tensor }));
        }
        file.by_name = index_by_name(&file.tensors)?;
        Ok(file)
    }

    /// The model's keys. Those of a split model are in its first file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self
            .by_name
            .binary_search_by_key(&name, |&idx| &*self.tensors[idx].name);
        Some(&self.tensors[self.by_name[found.ok()?]])
    }

    /// A tensor's bytes, in the layout of its type.
    ///
    /// # Errors
    /// [`WeightsError::OffsetOutOfFile`] when the file was opened by [`Self::open_header`] and
    /// ends before the tensor does.
    pub fn data(&self, tensor: &TensorInfo) -> Result<TensorData, WeightsError> {
        let (mapping, range) = self.locate(tensor)?;
        Ok(TensorData {
            mapping: Arc::clone(mapping),
            range,
            path: Arc::clone(&tensor.path),
        })
    }

    /// Whether the files hold all bytes of all tensors.
    pub fn is_complete(&self) -> bool {
        self.tensors
            .iter()
            .all(|tensor| self.locate(tensor).is_ok())
    }

    /// Checks that no file was written to since it was opened: to be asked after weights were
    /// copied out of the mapping.
    ///
    /// # Errors
    /// [`WeightsError::Changed`] names the file.
    pub fn check_unchanged(&self) -> Result<(), WeightsError> {
        self.mappings
            .iter()
            .zip(&self.paths)
            .try_for_each(|(mapping, path)| check_unchanged(mapping, path))
    }

    /// Takes the files' mapped pages out of this process's memory, such as those the header was read
    /// from. Views stay valid; pages come back when they are looked at.
    ///
    /// # Errors
    /// [`WeightsError::Io`] when the system refuses.
    pub fn release(&self) -> Result<(), WeightsError> {
        self.mappings
            .iter()
            .zip(&self.paths)
            .try_for_each(|(mapping, path)| {
                mapping.release().map_err(|source| WeightsError::Io {
                    path: path.clone(),
                    action: "release pages",
                    source,
                })
            })
    }

    /// Size of all files.
    pub fn file_bytes(&self) -> Bytes {
        self.mappings
            .iter()
            .map(|mapping| Bytes::of_len(mapping.bytes().len()))
            .sum()
    }

    /// Size of all tensors, whether the files hold them in full or not.
    pub fn tensor_bytes(&self) -> Bytes {
        // Cannot overflow: tensors of a file are disjoint and end below `FILE_BYTES_MAX`.
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The GGUF version of the (first) file.
    pub fn version(&self) -> u32 {
        self.version
    }

    fn locate(&self, tensor: &TensorInfo) -> Result<(&Arc<Mapping>, Range<usize>), WeightsError> {
        let Range { start, end } = tensor.range();
        // A tensor of another model must not panic here either: hence `get`.
        let mapping = self.mappings.get(tensor.file_idx);
        let file_len = mapping.map_or(0, |mapping| mapping.bytes().len() as u64);
        let range = (usize::try_from(start), usize::try_from(end));
        match (mapping, range) {
            (Some(mapping), (Ok(start), Ok(end_idx))) if end <= file_len => {
                Ok((mapping, start..end_idx))
            }
            _ => Err(WeightsError::OffsetOutOfFile {
                path: tensor.path.to_path_buf(),
                tensor: tensor.name.to_string(),
                end,
                file_len,
            }),
        }
    }
}

fn index_by_name(tensors: &[TensorInfo]) -> Result<Vec<usize>, WeightsError> {
    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_unstable_by_key(|&idx| &*tensors[idx].name);
    for pair in by_name.windows(2) {
        let (first, second) = (&tensors[pair[0]], &tensors[pair[1]]);
        if first.name == second.name {
            return Err(WeightsError::Duplicate {
                path: second.path.to_path_buf(),
                what: "tensor",
                name: second.name.to_string(),
            });
        }
    }
    Ok(by_name)
}
