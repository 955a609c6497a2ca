//! Text files of bounded size.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::error::HfError;

/// The text of a regular file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, HfError> {
    let io = |action| {
        move |source| HfError::Io {
            path: path.to_owned(),
            action,
            source,
        }
    };
    // Opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(io("open"))?;
    if !metadata.is_file() {
        let source = std::io::Error::other("not a regular file");
        return Err(io("open")(source));
    }
    let file = File::open(path).map_err(io("open"))?;
    let mut text = String::new();
    // One byte more than allowed tells a file that is too large, even if it grows.
    let read = file
        .take(limit + 1)
        .read_to_string(&mut text)
        .map_err(io("read"))?;
    if read as u64 > limit {
        return Err(HfError::TooLarge {
            path: path.to_owned(),
            what: "bytes of the file".to_owned(),
            limit,
            given: metadata.len().max(limit + 1),
        });
    }
    Ok(text)
}
