//! Every crate is under the workspace's lints.

use std::collections::BTreeMap;

use super::Finding;
use super::manifest::Manifest;
use super::tree::Tree;

/// Crates that hold unsafe code, or whose tests do. A table that says `workspace = true` cannot change one lint, so
/// they repeat the workspace's, but for that one.
const WITH_UNSAFE: [&str; 4] = ["kernels", "weights", "device", "engine"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(root) = tree.file("Cargo.toml") else {
        return Vec::new();
    };
    let root = Manifest::parse(&root.text);
    let mut findings = Vec::new();
    for (room, file) in tree.manifests() {
        let manifest = Manifest::parse(&file.text);
        if !WITH_UNSAFE.contains(&room) {
            if manifest.section("lints").get("workspace") != Some(&"true") {
                findings.push(file.finding(None, "[lints] is not `workspace = true`"));
            }
            continue;
        }
        for tool in ["rust", "clippy"] {
            let expected = with_unsafe(root.section(&format!("workspace.lints.{tool}")));
            if manifest.section(&format!("lints.{tool}")) != expected {
                let text =
                    format!("[lints.{tool}] is not the workspace's with `unsafe_code` denied");
                findings.push(file.finding(None, text));
            }
        }
    }
    findings
}

/// The workspace's lints as a crate with unsafe code has them.
fn with_unsafe<'a>(mut lints: BTreeMap<&'a str, &'a str>) -> BTreeMap<&'a str, &'a str> {
    if let Some(level) = lints.get_mut("unsafe_code") {
        *level = "\"deny\"";
    }
    lints
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    const ROOT: &str = "[workspace.lints.rust]\nunsafe_code = \"forbid\"\nmissing_docs = \"warn\"\n\
                        [workspace.lints.clippy]\ntodo = \"deny\"\n";

    #[test]
    fn missing_and_weakened_lints_are_caught() {
        let good = "[lints.rust]\nunsafe_code = \"deny\"\nmissing_docs = \"warn\"\n\
                    [lints.clippy]\ntodo = \"deny\"\n";
        let tree = tree_of(&[
            ("Cargo.toml", ROOT),
            ("crates/base/Cargo.toml", "[lints]\nworkspace = true\n"),
            ("crates/text/Cargo.toml", good),
            ("crates/kernels/Cargo.toml", good),
            (
                "crates/weights/Cargo.toml",
                &good.replace("\"warn\"", "\"allow\""),
            ),
            ("crates/device/Cargo.toml", &good.replace("todo", "todos")),
        ]);
        let paths: Vec<String> = check(&tree)
            .into_iter()
            .map(|finding| finding.path)
            .collect();
        let expected = ["crates/text", "crates/weights", "crates/device"];
        assert_eq!(paths, expected.map(|room| format!("{room}/Cargo.toml")));
    }
}
