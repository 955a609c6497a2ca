//! Model folders as the Hugging Face hub keeps them: `config.json`, safetensors files and their
//! index.
//!
//! ```text
//! folder/config.json                    hyper-parameters; the only file that must be there
//!       /model.safetensors.index.json   which tensor is in which file, and the size of all
//!       /*.safetensors                  u64 length, JSON header, tensors
//! ```
//!
//! Only headers are read: names, shapes and sizes. As with GGUF, every length is bounded before
//! anything of that length is read, and every offset is checked against the file.

mod error;
mod index;
mod json;
mod safetensors;

use std::fs;
use std::path::{Path, PathBuf};

use kvist_base::Bytes;

pub use error::HfError;
pub use index::Index;
pub use safetensors::{HfTensor, parse_header};

use crate::limits::{CONFIG_BYTES_MAX, INDEX_BYTES_MAX};

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const EXTENSION: &str = ".safetensors";

/// What a folder says about its model.
#[derive(Clone, Debug)]
pub struct HfFolder {
    /// The folder.
    pub path: PathBuf,
    /// The text of `config.json`.
    pub config: String,
    /// Every tensor, when all files are there.
    pub tensors: Vec<HfTensor>,
    /// Bytes of all tensors, when the files or their index say so.
    pub total: Option<Bytes>,
    /// Whether every tensor's bytes are there.
    pub is_complete: bool,
    /// What was missing, for the operator.
    pub notes: Vec<String>,
}

/// Whether a path means a model of this kind: a folder with a `config.json`, or a file of one.
pub fn is_hf(path: &Path) -> bool {
    if path.is_dir() {
        return path.join(CONFIG).is_file();
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == CONFIG || name.ends_with(EXTENSION) || name.ends_with(".safetensors.index.json")
}

impl HfFolder {
    /// Reads a folder, given itself or any of its files.
    ///
    /// # Errors
    /// [`HfError`] names the file, what is wrong with it, the limit and what was given.
    pub fn open(path: &Path) -> Result<Self, HfError> {
        let folder = if path.is_dir() {
            path.to_owned()
        } else {
            let parent = path.parent().filter(|parent| *parent != Path::new(""));
            parent.unwrap_or(Path::new(".")).to_owned()
        };
        let config = json::read_text(&folder.join(CONFIG), CONFIG_BYTES_MAX)?;
        let mut read = Self {
            path: folder,
            config,
            tensors: Vec::new(),
            total: None,
            is_complete: false,
            notes: Vec::new(),
        };
        read.read_weights()?;
        Ok(read)
    }

    fn read_weights(&mut self) -> Result<(), HfError> {
        let index = self.path.join(INDEX);
        let files = if index.is_file() {
            let index = Index::parse(&index, &json::read_text(&index, INDEX_BYTES_MAX)?)?;
            self.total = index.total;
            index.files
        } else {
            self.safetensors_files()?
        };
        let missing = files
            .iter()
            .filter(|file| !self.path.join(file).is_file())
            .count();
        if missing > 0 || files.is_empty() {
            let of = files.len();
            self.notes.push(match of {
                0 => "no safetensors files are there: weights are computed from config.json"
                    .to_owned(),
                _ => format!("{missing} of {of} safetensors files are not there"),
            });
            return Ok(());
        }
        self.is_complete = true;
        for file in files {
            let header = safetensors::read_header(&self.path.join(file))?;
            self.is_complete &= header.is_complete;
            self.tensors.extend(header.tensors);
        }
        let total = self
            .tensors
            .iter()
            .try_fold(0u64, |sum, tensor| sum.checked_add(tensor.bytes));
        self.total = total.map(Bytes);
        Ok(())
    }

    fn safetensors_files(&self) -> Result<Vec<String>, HfError> {
        let unreadable = |source| HfError::Io {
            path: self.path.clone(),
            action: "list",
            source,
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let name = name.to_string_lossy().into_owned();
            if name.ends_with(EXTENSION) && !name.starts_with("adapter_") {
                files.push(name);
            }
        }
        files.sort();
        Ok(files)
    }
}
