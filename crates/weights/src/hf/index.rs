//! `model.safetensors.index.json`: which files there are, and the size of all tensors.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use kvist_base::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::error::HfError;
use crate::limits::SPLITS_MAX;

/// What an index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The files, ascending by name; each is in the index's own folder.
    pub files: Vec<String>,
    /// Bytes of all tensors, when it says.
    pub total: Option<Bytes>,
}

#[derive(Deserialize)]
struct RawIndex {
    #[serde(default)]
    metadata: RawMetadata,
    weight_map: FileNames,
}

#[derive(Default, Deserialize)]
struct RawMetadata {
    // Some writers keep it as a float.
    total_size: Option<serde_json::Number>,
}

/// The distinct values of a map from tensors to files.
struct FileNames(BTreeSet<String>);

impl<'de> Deserialize<'de> for FileNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = FileNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensors to files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FileNames, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((_, file)) = map.next_entry::<serde::de::IgnoredAny, String>()? {
                    names.insert(file);
                }
                Ok(FileNames(names))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

impl Index {
    /// Reads the text of an index; `path` is for errors.
    ///
    /// # Errors
    /// When it is damaged, names too many files, or a file outside its folder.
    pub fn parse(path: &Path, text: &str) -> Result<Self, HfError> {
        let raw: RawIndex = serde_json::from_str(text).map_err(|source| HfError::Json {
            path: path.to_owned(),
            what: "the index",
            source,
        })?;
        let FileNames(names) = raw.weight_map;
        if names.len() as u64 > SPLITS_MAX {
            return Err(HfError::TooLarge {
                path: path.to_owned(),
                what: "files in the index".to_owned(),
                limit: SPLITS_MAX,
                given: names.len() as u64,
            });
        }
        if let Some(bad) = names.iter().find(|name| !is_plain(name)) {
            return Err(HfError::BadFileName {
                path: path.to_owned(),
                given: bad.chars().take(100).collect(),
            });
        }
        Ok(Self {
            files: names.into_iter().collect(),
            total: raw
                .metadata
                .total_size
                .and_then(|size| whole(&size))
                .map(Bytes),
        })
    }
}

fn is_plain(name: &str) -> bool {
    let is_inside = !name.contains(['/', '\\', '\0']) && !name.starts_with('.');
    is_inside && name.ends_with(super::EXTENSION)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // in range as checked
fn whole(number: &serde_json::Number) -> Option<u64> {
    let float = || number.as_f64().filter(|size| (0.0..1e15).contains(size));
    number.as_u64().or_else(|| float().map(|size| size as u64))
}
