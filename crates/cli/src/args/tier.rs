//! A folder on the disk, and how much may be put there.

use std::path::PathBuf;
use std::str::FromStr;

use kvist_base::Bytes;
use thiserror::Error;

/// A folder and the most bytes it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirSize {
    /// The folder.
    pub dir: PathBuf,
    /// The most bytes.
    pub bytes: Bytes,
}

/// Why a text is not a folder with a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} is not a folder and a size: write DIR:SIZE, such as /var/tmp/kvist:8GiB")]
pub struct ParseDirSizeError {
    given: String,
}

impl FromStr for DirSize {
    type Err = ParseDirSizeError;

    /// `DIR:SIZE`; the last colon counts, so that the folder may have others.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.rsplit_once(':').filter(|(dir, _)| !dir.is_empty());
        let size = parts.and_then(|(dir, size)| Some((dir, size.parse::<Bytes>().ok()?)));
        match size {
            Some((dir, bytes)) if bytes.0 > 0 => Ok(Self {
                dir: dir.into(),
                bytes,
            }),
            _ => Err(ParseDirSizeError {
                given: text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_comes_after_the_last_colon() {
        let parsed: DirSize = "/a:b/c:8GiB".parse().unwrap();
        assert_eq!(parsed.dir, PathBuf::from("/a:b/c"));
        assert_eq!(parsed.bytes, Bytes::GIB * 8);
        for bad in ["", "/a", "/a:", ":8GiB", "/a:0", "/a:much", "8GiB"] {
            assert!(bad.parse::<DirSize>().is_err(), "{bad:?} should be refused");
        }
    }
}
