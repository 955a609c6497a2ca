//! The one unsafe thing in this crate: looking at a file as memory.
//!
//! The operating system shares the mapping with everyone who has the file open. If another process
//! **rewrites** the file in place, the bytes seen here change; if it **truncates** the file, a read
//! past the new end kills this process with SIGBUS. Replacing a model by renaming a new file over
//! it is safe: the mapping keeps the old one. Nothing here depends on mapped bytes for memory
//! safety: names, keys and offsets are copied out and checked once, and every view is re-checked
//! against the length the file had when it was mapped.
//!
//! Pages that were looked at count as this process's memory until the system or [`Mapping::release`]
//! takes them back. Weights in bulk are therefore read with [`Mapping::read_at`], which copies from
//! the system's cache of the file, leaves nothing behind, and answers a truncated file with an error.
#![allow(unsafe_code)]

use std::fs::{self, File, FileType};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use crate::error::WeightsError;

/// A regular file, mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapping {
    map: Mmap,
    file: File,
    /// When the file was last written, as far as the file system knows.
    modified: Option<SystemTime>,
}

impl Mapping {
    /// Maps a whole regular file. Pipes, directories and devices are refused before they are
    /// opened: opening a pipe would wait for a writer.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |action| {
            move |source| WeightsError::Io {
                path: path.to_path_buf(),
                action,
                source,
            }
        };
        require_regular(path, fs::metadata(path).map_err(io("open"))?.file_type())?;
        let file = File::open(path).map_err(io("open"))?;
        let metadata = file.metadata().map_err(io("read the size"))?;
        // The path may have come to mean another file in between.
        require_regular(path, metadata.file_type())?;
        if metadata.len() == 0 {
            return Err(WeightsError::NotGguf {
                path: path.to_path_buf(),
                found: "the file is empty".to_owned(),
            });
        }
        // SAFETY: the mapping is private to `Mapping`, read-only and handed out only as `&[u8]`
        // bounded by its length. That no one rewrites the file while it is mapped is the caller's
        // duty, stated in the module's documentation and in `GgufFile::open`.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
        Ok(Self {
            map,
            file,
            modified: metadata.modified().ok(),
        })
    }

    /// Whether the file has the length and the time of its last write that it had when it was
    /// mapped. Asks the open file, so one renamed over its path does not matter.
    pub(crate) fn is_unchanged(&self) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        let same_len = metadata.len() == self.map.len() as u64;
        Ok(same_len && metadata.modified().ok() == self.modified)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Copies bytes of the file from `at` on without touching the mapping.
    pub(crate) fn read_at(&self, at: usize, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, at as u64)
    }

    /// Asks the system to begin reading a range into its cache of the file. Does not wait for it.
    pub(crate) fn will_need(&self, range: Range<usize>) -> io::Result<()> {
        self.map
            .advise_range(Advice::WillNeed, range.start, range.len())
    }

    /// Takes the mapping's pages out of this process's memory. They stay in the system's cache of
    /// the file while there is room; a later look at them faults them in again.
    pub(crate) fn release(&self) -> io::Result<()> {
        // SAFETY: the mapping is shared and read-only, so no page holds anything but the file's own
        // bytes, which the next access brings back: views see what they saw before.
        unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) }
    }
}

fn require_regular(path: &Path, file_type: FileType) -> Result<(), WeightsError> {
    if file_type.is_file() {
        return Ok(());
    }
    Err(WeightsError::NotRegularFile {
        path: path.to_path_buf(),
        found: kind_of(file_type),
    })
}

fn kind_of(file_type: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "named pipe";
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return "device";
        }
        if file_type.is_socket() {
            return "socket";
        }
    }
    if file_type.is_dir() {
        "directory"
    } else {
        "special file"
    }
}
