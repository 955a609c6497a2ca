//! Opening regular files, and reading text of bounded size.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::error::HfError;

/// A failure to do `action` to the file at `path`.
pub(super) fn io_error(path: &Path, action: &'static str) -> impl Fn(io::Error) -> HfError {
    move |source| HfError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}

/// Opens a regular file, and says how long it is.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64), HfError> {
    let failed = io_error(path, "open");
    // Opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(&failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(&failed)?;
    Ok((file, metadata.len()))
}

/// The text of a regular file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, HfError> {
    let (file, len) = open_regular(path)?;
    let mut text = String::new();
    // One byte more than allowed tells a file that is too large, even if it grows.
    let read = file
        .take(limit + 1)
        .read_to_string(&mut text)
        .map_err(io_error(path, "read"))?;
    if read as u64 > limit {
        return Err(HfError::TooLarge {
            path: path.to_owned(),
            what: "bytes of the file".to_owned(),
            limit,
            given: len.max(limit + 1),
        });
    }
    Ok(text)
}
