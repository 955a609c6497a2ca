//! `unsafe` stands in few named files, each use with the reason why it is sound.

use super::Finding;
use super::source::Source;
use super::tree::{File, Tree};

/// Files, or directories with a slash, that may hold unsafe code. See docs/adr/0002.
const ALLOWED: [&str; 7] = [
    "crates/kernels/src/arch/",
    "crates/kernels/src/pool.rs",
    "crates/kernels/src/shared.rs",
    "crates/weights/src/mmap.rs",
    "crates/device/src/cpu/arena.rs",
    // Count allocations in tests: a global allocator cannot be written without.
    "crates/weights/tests/hostile/meter.rs",
    "crates/engine/tests/allocation/meter.rs",
];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        let uses = source
            .words()
            .filter(|(_, word)| *word == "unsafe")
            .map(|(at, _)| at);
        for at in uses {
            let line = source.line(at);
            if !is_allowed(file) {
                findings.push(file.finding(line, "unsafe code outside the files of ADR 0002"));
            } else if !is_explained(source, line) && !is_declared_by_trait(source, at) {
                findings.push(file.finding(line, "unsafe code without a `SAFETY:` comment"));
            }
        }
    }
    findings
}

fn is_allowed(file: &File) -> bool {
    ALLOWED.iter().any(|place| match place.strip_suffix('/') {
        Some(_) => file.path.starts_with(place),
        None => file.path == *place,
    })
}

/// Whether the comment above says why: right above, or above the beginning of the statement that
/// the line is in. A declaration states its callers' duty under `# Safety` instead.
fn is_explained(source: &Source, line: usize) -> bool {
    let code: Vec<&str> = source.code.lines().collect();
    let comments: Vec<&str> = source.comments.lines().collect();
    let says = |idx: usize| {
        ["SAFETY:", "# Safety"]
            .iter()
            .any(|word| comments[idx].contains(word))
    };
    let mut idx = line - 1;
    loop {
        if says(idx) {
            return true;
        }
        let Some(above) = idx.checked_sub(1) else {
            return false;
        };
        let ends_statement = code[above].trim_end().ends_with([';', '{', '}', ',']);
        let is_blank = code[above].trim().is_empty() && comments[above].trim().is_empty();
        if ends_statement || is_blank {
            // The last line of what comes before may carry no comment for this.
            return false;
        }
        idx = above;
    }
}

/// Whether it is an `unsafe fn` of a trait's implementation: the trait states the duty, once.
fn is_declared_by_trait(source: &Source, at: usize) -> bool {
    let rest = source.code[at..].trim_start_matches("unsafe").trim_start();
    let header = source.block_header(at);
    rest.starts_with("fn ") && header.contains(&"impl") && header.contains(&"for")
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    #[test]
    fn unsafe_code_elsewhere_or_without_a_reason_is_caught() {
        let explained = "// SAFETY: it is ours.\nlet x =\n    unsafe { f() };\n\
                         /// # Safety\n/// The caller knows.\n#[inline]\nunsafe fn g() {}\n";
        let bare = "// SAFETY: for another.\nunsafe { f() };\nunsafe { g() };\n\
                    impl A for B {\n    unsafe fn h() {}\n}\n";
        let mentioned = "#![allow(unsafe_code)] // unsafe\nlet s = \"unsafe\";\n";
        let tree = tree_of(&[
            ("crates/kernels/src/arch/x86/mod.rs", explained),
            ("crates/kernels/src/pool.rs", bare),
            ("crates/kernels/src/panel.rs", mentioned),
            ("crates/kernels/src/norm.rs", explained),
        ]);
        let found: Vec<_> = check(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [("pool.rs", 3), ("norm.rs", 3), ("norm.rs", 7)];
        let expected =
            expected.map(|(name, line)| (format!("crates/kernels/src/{name}"), Some(line)));
        assert_eq!(found, expected);
    }
}
