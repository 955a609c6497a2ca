//! Documents stay short, complete, and true about which files there are.

use super::Finding;
use super::tree::{File, Tree};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
/// Documents and the lines they may have.
const LINES_MAX: [(&str, usize); 2] = [(ARCHITECTURE, 300), ("README.md", 250)];
const ADR_DIR: &str = "docs/adr/";
/// What an architecture decision record says, in order.
const ADR_SECTIONS: [&str; 4] = ["## Status", "## Context", "## Decision", "## Consequences"];
/// Directories that a path in backticks is checked against.
const CHECKED_PATHS: [&str; 3] = ["crates/", "docs/", ".ci/"];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = sizes(tree);
    findings.extend(unmentioned_rooms(tree));
    findings.extend(decisions(tree));
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        findings.extend(dead_references(tree, file));
    }
    findings
}

fn sizes(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, limit) in LINES_MAX {
        let Some(file) = tree.file(path) else {
            continue;
        };
        let given = file.text.lines().count();
        if given > limit {
            findings.push(file.finding(None, format!("{given} lines, at most {limit} allowed")));
        }
    }
    findings
}

fn unmentioned_rooms(tree: &Tree) -> Vec<Finding> {
    let Some(architecture) = tree.file(ARCHITECTURE) else {
        return Vec::new();
    };
    let is_mentioned = |room: &str| architecture.text.contains(&format!("`crates/{room}`"));
    let missing = tree.manifests().filter(|(room, _)| !is_mentioned(room));
    missing
        .map(|(room, _)| architecture.finding(None, format!("does not mention `crates/{room}`")))
        .collect()
}

/// Decision records are numbered from 1 without gaps and have every section.
fn decisions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let records = tree
        .files
        .iter()
        .filter(|file| file.path.starts_with(ADR_DIR));
    for (idx, file) in records.enumerate() {
        let number = format!("{:04}", idx + 1);
        if !file.path.starts_with(&format!("{ADR_DIR}{number}-")) {
            findings.push(file.finding(None, format!("{number} is missing or taken twice")));
        }
        let mut rest = file.text.as_str();
        for section in ADR_SECTIONS {
            match rest.find(section) {
                Some(at) => rest = &rest[at..],
                None => {
                    findings.push(file.finding(None, format!("has no `{section}` in its place")));
                }
            }
        }
    }
    findings
}

fn dead_references(tree: &Tree, file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (idx, line) in file.text.lines().enumerate() {
        let links = links(line).map(|link| resolve(&file.path, link));
        let paths = backticked(line)
            .filter(|text| is_checked(text))
            .map(str::to_owned);
        for path in links.chain(paths).filter(|path| !exists(tree, path)) {
            findings.push(file.finding(idx + 1, format!("there is no `{path}`")));
        }
    }
    findings
}

/// Targets of links into the tree, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#']).next()?;
        let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
        (!target.is_empty() && !is_elsewhere).then_some(target)
    })
}

/// A link's target from the root.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Stretches between pairs of backticks.
fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether a text in backticks is a path of ours, rather than a command or a pattern.
fn is_checked(text: &str) -> bool {
    let is_plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
    is_plain && CHECKED_PATHS.iter().any(|start| text.starts_with(start))
}

fn exists(tree: &Tree, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let inside = format!("{path}/");
    tree.files
        .iter()
        .any(|file| file.path == path || file.path.starts_with(&inside))
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    const RECORD: &str = "# t\n## Status\n## Context\n## Decision\n## Consequences\n";

    #[test]
    fn a_gap_between_records_and_a_missing_section_are_caught() {
        let tree = tree_of(&[
            ("docs/adr/0001-a.md", RECORD),
            ("docs/adr/0003-b.md", RECORD),
            (
                "docs/adr/0003-c.md",
                "# t\n## Context\n## Status\n## Decision\n## Consequences\n",
            ),
        ]);
        let found: Vec<String> = check(&tree).into_iter().map(|f| f.path).collect();
        assert_eq!(found, ["docs/adr/0003-b.md", "docs/adr/0003-c.md"]);
    }

    #[test]
    fn long_documents_and_unmentioned_rooms_are_caught() {
        let text = format!("`crates/base`\n{}", "line\n".repeat(300));
        let tree = tree_of(&[
            (ARCHITECTURE, &text),
            ("crates/base/Cargo.toml", ""),
            ("crates/plan/Cargo.toml", ""),
        ]);
        let found: Vec<String> = check(&tree).into_iter().map(|f| f.text).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("301 lines") && found[1].contains("crates/plan"));
    }

    #[test]
    fn references_to_nothing_are_caught() {
        let text = "[a](../README.md) [b](kv.md#x) [c](https://example.org/x) `crates/base/src`\n\
                    [d](gone.md) `crates/base/src/gone.rs` `crates/<room>/src`\n";
        let tree = tree_of(&[
            ("README.md", ""),
            ("docs/a.md", text),
            ("docs/kv.md", ""),
            ("crates/base/src/lib.rs", ""),
        ]);
        let found: Vec<String> = check(&tree).into_iter().map(|f| f.text).collect();
        let expected = ["docs/gone.md", "crates/base/src/gone.rs"];
        assert_eq!(found, expected.map(|path| format!("there is no `{path}`")));
    }
}
