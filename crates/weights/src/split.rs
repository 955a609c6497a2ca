//! Models split into several files, `NAME-00001-of-00003.gguf`: each is a GGUF file of its own,
//! the first holds the model's keys, and all hold `split.no`, `split.count` and
//! `split.tensors.count`.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::WeightsError;
use crate::file::Part;
use crate::limits;

const KEY_NO: &str = "split.no";
const KEY_COUNT: &str = "split.count";
const KEY_TENSORS: &str = "split.tensors.count";

/// The files of the model that `given` belongs to, in order: `given` alone, if it is not split.
pub(crate) fn gather(given: Part) -> Result<Vec<Part>, WeightsError> {
    let count = u64::from(given.header.metadata.opt_u32(KEY_COUNT)?.unwrap_or(0));
    if count <= 1 {
        return Ok(vec![given]);
    }
    if count > limits::SPLITS_MAX {
        return Err(WeightsError::TooMany {
            path: given.path.to_path_buf(),
            what: KEY_COUNT.to_owned(),
            limit: limits::SPLITS_MAX,
            given: count,
        });
    }
    let name = SplitName::of(&given.path, count)?;
    let given_idx = name.idx;
    let mut given = Some(given);
    let mut parts = Vec::new();
    for idx in 0..count {
        let part = match given.take_if(|_| idx == given_idx) {
            Some(part) => part,
            None => open_part(&name, idx)?,
        };
        check_part(&part, idx, count)?;
        parts.push(part);
    }
    check_tensor_count(&parts)?;
    Ok(parts)
}

fn open_part(name: &SplitName, idx: u64) -> Result<Part, WeightsError> {
    let path = name.path(idx);
    match Part::open(&path) {
        Err(WeightsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(WeightsError::MissingSplit {
                path,
                part: idx + 1,
                count: name.count,
            })
        }
        opened => opened,
    }
}

fn check_part(part: &Part, idx: u64, count: u64) -> Result<(), WeightsError> {
    let metadata = &part.header.metadata;
    for (what, expected) in [(KEY_NO, idx), (KEY_COUNT, count)] {
        let given = u64::from(metadata.require_u32(what)?);
        if given != expected {
            return Err(mismatch(&part.path, what, (expected, given)));
        }
    }
    Ok(())
}

fn check_tensor_count(parts: &[Part]) -> Result<(), WeightsError> {
    let total: usize = parts.iter().map(|part| part.header.tensors.len()).sum();
    for part in parts {
        if let Some(expected) = part.header.metadata.opt_u32(KEY_TENSORS)?
            && expected as usize != total
        {
            return Err(mismatch(
                &part.path,
                KEY_TENSORS,
                (expected.into(), total as u64),
            ));
        }
    }
    Ok(())
}

fn mismatch(path: &Path, what: &'static str, (expected, given): (u64, u64)) -> WeightsError {
    WeightsError::SplitMismatch {
        path: path.to_path_buf(),
        what,
        expected: expected.to_string(),
        given: given.to_string(),
    }
}

/// `DIR/PREFIX-00002-of-00003.gguf`, taken apart.
struct SplitName {
    dir: PathBuf,
    prefix: String,
    idx: u64,
    count: u64,
}

impl SplitName {
    fn of(path: &Path, count: u64) -> Result<Self, WeightsError> {
        let file_name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let parsed = Self::parse(file_name)
            .filter(|&(_, part, of)| of == count && (1..=count).contains(&part));
        let Some((prefix, part, _)) = parsed else {
            return Err(WeightsError::SplitMismatch {
                path: path.to_path_buf(),
                what: "file name of a split model",
                expected: format!("NAME-00001-of-{count:05}.gguf"),
                given: file_name.to_owned(),
            });
        };
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Self {
            dir,
            prefix: prefix.to_owned(),
            idx: part - 1,
            count,
        })
    }

    /// Prefix, part from 1, and count.
    fn parse(file_name: &str) -> Option<(&str, u64, u64)> {
        let stem = file_name.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, part) = rest.rsplit_once('-')?;
        let five_digits = |text: &str| {
            let digits = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        Some((prefix, five_digits(part)?, five_digits(count)?))
    }

    fn path(&self, idx: u64) -> PathBuf {
        self.dir.join(format!(
            "{}-{:05}-of-{:05}.gguf",
            self.prefix,
            idx + 1,
            self.count
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::SplitName;

    #[test]
    fn names_of_parts_are_taken_apart() {
        assert_eq!(
            SplitName::parse("a-of-b-00002-of-00010.gguf"),
            Some(("a-of-b", 2, 10))
        );
        for other in [
            "a.gguf",
            "a-2-of-3.gguf",
            "a-0000x-of-00003.gguf",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(SplitName::parse(other), None, "{other}");
        }
    }
}
