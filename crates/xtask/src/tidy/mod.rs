//! House rules that a program can check.

mod docs;
mod edges;
mod leaks;
mod lints;
mod manifest;
mod purity;
mod size;
mod source;
mod tree;
mod unsafe_code;
mod words;

use std::fmt;
use std::io;
use std::path::Path;

use tree::{File, Tree};

/// Where a rule is broken, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path from the root.
    pub path: String,
    /// Line from 1; `None` for the whole file.
    pub line: Option<usize>,
    /// The rule and what breaks it.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, text } = self;
        match line {
            Some(line) => write!(f, "{path}:{line}: {text}"),
            None => write!(f, "{path}: {text}"),
        }
    }
}

impl File {
    fn finding(&self, line: impl Into<Option<usize>>, text: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line: line.into(),
            text: text.into(),
        }
    }
}

const CHECKS: [fn(&Tree) -> Vec<Finding>; 12] = [
    edges::check,
    lints::check,
    unsafe_code::check,
    purity::check_async,
    purity::check_clocks,
    purity::check_environment,
    size::check_files,
    size::check_functions,
    words::check_glossary,
    words::check_ignored_tests,
    leaks::check,
    docs::check,
];

/// Every broken rule of the project below `root`.
pub fn check(root: &Path) -> io::Result<Vec<Finding>> {
    let tree = Tree::read(root)?;
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(|check| check(&tree)).collect();
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_keeps_its_rules() {
        let findings = check(&crate::root()).expect("the project can be read");
        let list: String = findings
            .iter()
            .map(|finding| format!("\n  {finding}"))
            .collect();
        assert!(findings.is_empty(), "{} findings:{list}", findings.len());
    }
}
