//! `hf:owner/name[:file]`: what may be written, and which file of a repository it means.

use std::str::FromStr;

use thiserror::Error;

use crate::split::SplitPart;

/// The quantisation chosen when a repository has several and none was asked for: the usual
/// compromise between size and quality.
const PREFERRED_TAG: &str = "Q4_K_M";

/// A model on the hub, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRef {
    repo: String,
    selector: Option<String>,
}

/// Why a text does not name a model of the hub, or names none of a repository's files.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HubRefError {
    /// Not of the form `hf:owner/name[:file]`.
    #[error(
        "{given:?} is not a hub model: write hf:owner/name, hf:owner/name:FILE.gguf or hf:owner/name:Q4_K_M"
    )]
    Malformed {
        /// What was written.
        given: String,
    },
    /// The repository has no GGUF file.
    #[error("{repo} has no GGUF file; look for a repository whose name ends in -GGUF")]
    NoGguf {
        /// The repository.
        repo: String,
    },
    /// No file fits.
    #[error("{repo} has no file for {selector:?}; it has: {}", files.join(", "))]
    NoMatch {
        /// The repository.
        repo: String,
        /// What was asked for.
        selector: String,
        /// The files it has.
        files: Vec<String>,
    },
    /// Several files fit.
    #[error("{repo} has several models; name one: {}", files.join(", "))]
    Ambiguous {
        /// The repository.
        repo: String,
        /// The files that fit.
        files: Vec<String>,
    },
}

impl FromStr for HubRef {
    type Err = HubRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || HubRefError::Malformed {
            given: text.to_owned(),
        };
        let rest = text.strip_prefix("hf:").ok_or_else(malformed)?;
        let (repo, selector) = match rest.split_once(':') {
            Some((repo, selector)) => (repo, Some(selector)),
            None => (rest, None),
        };
        let (owner, name) = repo.split_once('/').ok_or_else(malformed)?;
        if !is_name(owner) || !is_name(name) || selector.is_some_and(|file| !is_safe_path(file)) {
            return Err(malformed());
        }
        Ok(Self {
            repo: repo.to_owned(),
            selector: selector.map(str::to_owned),
        })
    }
}

/// Whether the hub allows `name` for an owner or a repository.
fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=96).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.')
}

/// Whether `path` stays inside the folder it is joined to, and inside a URL's path.
pub(super) fn is_safe_path(path: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.+ /()".contains(&b);
    path.len() <= 512
        && path.bytes().all(allowed)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl HubRef {
    /// Owner and name of the repository.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The file, when it was named in full.
    pub fn exact_file(&self) -> Option<&str> {
        self.selector
            .as_deref()
            .filter(|selector| is_gguf(selector))
    }

    /// The file of the repository this reference means. Of a split model it is the first part.
    ///
    /// # Errors
    /// When none fits, or several do.
    pub fn choose(&self, files: &[String]) -> Result<String, HubRefError> {
        let mut models: Vec<&str> = files
            .iter()
            .map(String::as_str)
            .filter(|file| is_model(file))
            .collect();
        models.sort_unstable();
        let tagged = |tag: &str| -> Vec<&str> {
            models
                .iter()
                .copied()
                .filter(|file| has_tag(file, tag))
                .collect()
        };
        let fitting = match &self.selector {
            Some(file) if is_gguf(file) => files
                .iter()
                .map(String::as_str)
                .filter(|name| name == file)
                .collect(),
            Some(tag) => tagged(tag),
            None if models.len() > 1 && !tagged(PREFERRED_TAG).is_empty() => tagged(PREFERRED_TAG),
            None => models.clone(),
        };
        let owned = |files: &[&str]| files.iter().map(|&file| file.to_owned()).collect();
        match (fitting.as_slice(), &self.selector) {
            ([file], _) => Ok((*file).to_owned()),
            (_, _) if models.is_empty() => Err(HubRefError::NoGguf {
                repo: self.repo.clone(),
            }),
            ([], Some(selector)) => Err(HubRefError::NoMatch {
                repo: self.repo.clone(),
                selector: selector.clone(),
                files: owned(&models),
            }),
            (several, _) => Err(HubRefError::Ambiguous {
                repo: self.repo.clone(),
                files: owned(several),
            }),
        }
    }
}

fn is_gguf(file: &str) -> bool {
    file.len() > ".gguf".len() && file.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether `file` is a language model by itself: not a later part of a split one, not the vision
/// projector or importance matrix that lies beside one.
fn is_model(file: &str) -> bool {
    let base = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let beside = base.starts_with("mmproj") || base.contains("imatrix");
    is_gguf(file) && !beside && SplitPart::parse(file).is_none_or(|part| part.number == 1)
}

/// Whether the file's name ends with the quantisation tag, as in `Name-Q4_K_M.gguf`.
fn has_tag(file: &str, tag: &str) -> bool {
    let stem = SplitPart::parse(file).map_or(&file[..file.len() - ".gguf".len()], |p| p.stem);
    let (stem, tag) = (stem.to_ascii_lowercase(), tag.to_ascii_lowercase());
    stem.strip_suffix(&tag)
        .is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_', '/']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> HubRef {
        text.parse().unwrap()
    }

    #[test]
    fn names_that_could_leave_the_cache_or_the_url_are_refused() {
        for bad in [
            "hf:",
            "hf:owner",
            "hf:owner/",
            "hf:/name",
            "hf:a/b/c",
            "hf:../name",
            "hf:owner/..",
            "hf:owner/na me",
            "hf:owner/name:",
            "hf:owner/name:../x.gguf",
            "hf:owner/name:/x.gguf",
            "hf:owner/name:a//b.gguf",
            "hf:owner/name:a\\b.gguf",
            "hf:owner/name:a\0.gguf",
            "hf:owner/name:a?b.gguf",
            "owner/name",
        ] {
            assert!(bad.parse::<HubRef>().is_err(), "{bad:?} should be refused");
        }
        let file = reference("hf:o.w/n-1_x:dir/File (1).gguf");
        assert_eq!(file.repo(), "o.w/n-1_x");
        assert_eq!(file.exact_file(), Some("dir/File (1).gguf"));
        assert_eq!(reference("hf:o/n:Q4_0").exact_file(), None);
    }

    #[test]
    fn a_reference_means_exactly_one_file() {
        let files: Vec<String> = [
            "README.md",
            "M-Q4_K_M.gguf",
            "M-Q8_0.gguf",
            "M.IQ4_XS.gguf",
            "mmproj-M-f16.gguf",
            "big/M-F16-00001-of-00002.gguf",
            "big/M-F16-00002-of-00002.gguf",
        ]
        .map(str::to_owned)
        .to_vec();
        let choose = |text: &str| reference(text).choose(&files);
        assert_eq!(choose("hf:o/n").unwrap(), "M-Q4_K_M.gguf");
        assert_eq!(choose("hf:o/n:q8_0").unwrap(), "M-Q8_0.gguf");
        assert_eq!(choose("hf:o/n:IQ4_XS").unwrap(), "M.IQ4_XS.gguf");
        assert_eq!(
            choose("hf:o/n:F16").unwrap(),
            "big/M-F16-00001-of-00002.gguf"
        );
        assert_eq!(
            choose("hf:o/n:mmproj-M-f16.gguf").unwrap(),
            "mmproj-M-f16.gguf"
        );
        // The end of a tag is not a tag.
        assert!(matches!(
            choose("hf:o/n:8_0"),
            Err(HubRefError::NoMatch { .. })
        ));
        assert!(matches!(
            choose("hf:o/n:no.gguf"),
            Err(HubRefError::NoMatch { .. })
        ));
    }

    #[test]
    fn no_file_and_several_are_different_errors() {
        let repo = reference("hf:o/n");
        let none = repo.choose(&["model.safetensors".to_owned()]);
        assert_eq!(
            none,
            Err(HubRefError::NoGguf {
                repo: "o/n".to_owned()
            })
        );
        let two = ["a-Q4_0.gguf".to_owned(), "a-Q8_0.gguf".to_owned()];
        assert!(
            matches!(repo.choose(&two), Err(HubRefError::Ambiguous { files, .. }) if files == two)
        );
        assert_eq!(repo.choose(&two[..1]).unwrap(), "a-Q4_0.gguf");
    }
}
