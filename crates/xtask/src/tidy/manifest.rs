//! As much of a `Cargo.toml` as the checks read: sections of `key = value` lines.

use std::collections::BTreeMap;

/// A manifest's sections by name, each with its keys and values as written.
#[derive(Debug, Default)]
pub struct Manifest {
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads a manifest. Lines that continue a value are left out.
    pub fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut section = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                name.clone_into(&mut section);
                manifest.sections.entry(section.clone()).or_default();
            } else if let Some((key, value)) = line.split_once('=')
                && !line.starts_with('#')
            {
                let keys = manifest.sections.entry(section.clone()).or_default();
                keys.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
        manifest
    }

    /// A section's keys and values; empty when there is no such section.
    pub fn section(&self, name: &str) -> BTreeMap<&str, &str> {
        let keys = self.sections.get(name).into_iter().flatten();
        keys.map(|(key, value)| (key.as_str(), value.as_str()))
            .collect()
    }

    /// Packages the product is built from: dependencies of every target and of build scripts, but
    /// not of tests.
    pub fn dependencies(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for (section, keys) in &self.sections {
            let section = section
                .rsplit_once("'.")
                .map_or(section.as_str(), |(_, rest)| rest);
            if matches!(section, "dependencies" | "build-dependencies") {
                names.extend(keys.keys().map(|key| key.split('.').next().unwrap_or(key)));
            }
            // `[dependencies.name]`
            names.extend(section.strip_prefix("dependencies."));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_found_however_they_are_written() {
        let manifest = Manifest::parse(
            "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\n# b = \"1\"\n\
             c = { version = \"1\" }\n[dependencies.d]\nversion = \"1\"\n[dev-dependencies]\ne = \"1\"\n\
             [target.'cfg(unix)'.dependencies]\nf = \"1\"\n",
        );
        let mut names = manifest.dependencies();
        names.sort_unstable();
        assert_eq!(names, ["a", "c", "d", "f"]);
        assert_eq!(manifest.section("package")["name"], "\"x\"");
        assert!(manifest.section("none").is_empty());
    }
}
