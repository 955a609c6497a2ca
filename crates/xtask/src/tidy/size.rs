//! One screen a function, one idea a file, and no file that nothing compiles.

use super::Finding;
use super::tree::{File, Tree};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;

/// Longer functions there are, one a line: path, name, length. It may only shrink.
const RATCHET: &str = "crates/xtask/data/long-functions.txt";
/// No exceptions here.
const STRICT_ROOM: &str = "sched";

pub fn check_files(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        let lines = file
            .text
            .lines()
            .count()
            .saturating_sub(source.test_line_count());
        if lines > FILE_LINES_MAX && !file.is_test_file() {
            let text = format!("{lines} lines without tests, at most {FILE_LINES_MAX} allowed");
            findings.push(file.finding(None, text));
        }
        if is_dead(tree, file) {
            findings.push(file.finding(None, "no `mod` declares this file"));
        }
    }
    findings
}

/// Whether a module's file is named by no `mod` of its crate.
fn is_dead(tree: &Tree, file: &File) -> bool {
    let Some((krate, inside)) = file.path.split_once("/src/") else {
        return false;
    };
    let module = match inside.trim_end_matches(".rs") {
        "lib" | "main" => return false,
        path => path
            .trim_end_matches("/mod")
            .rsplit('/')
            .next()
            .unwrap_or(path),
    };
    let declares = |code: &str| code.contains(&format!("mod {module};"));
    let own = |other: &File| other.path.starts_with(krate) && other.path != file.path;
    !tree
        .sources()
        .any(|(other, source)| own(other) && declares(&source.code))
}

pub fn check_functions(tree: &Tree) -> Vec<Finding> {
    let ratchet = tree.file(RATCHET);
    let mut exceptions = ratchet.map(exceptions).unwrap_or_default();
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        // A test may be a table of cases as long as it needs.
        let is_test = |at: usize| file.is_test_file() || source.is_test(at);
        for function in source.functions() {
            if function.line_count <= FUNCTION_LINES_MAX || is_test(function.offset) {
                continue;
            }
            let known = exceptions.iter().position(|(_, exception)| {
                let Exception {
                    path,
                    name,
                    line_count,
                } = exception;
                let is_strict = file.room() == Some(STRICT_ROOM);
                let is_same = *path == file.path && *name == function.name;
                is_same && function.line_count <= *line_count && !is_strict
            });
            if let Some(idx) = known {
                exceptions.remove(idx);
                continue;
            }
            let text = format!(
                "`{}` has {} lines, at most {FUNCTION_LINES_MAX} allowed",
                function.name, function.line_count
            );
            findings.push(file.finding(function.line, text));
        }
    }
    let stale = exceptions.iter().filter_map(|(line, exception)| {
        let text = format!("`{}` is short enough now: remove the line", exception.name);
        Some(ratchet?.finding(*line, text))
    });
    findings.extend(stale);
    findings
}

struct Exception<'a> {
    path: &'a str,
    name: &'a str,
    line_count: usize,
}

/// The ratchet's lines, from 1. A line that cannot be read allows nothing, and so is stale.
fn exceptions(file: &File) -> Vec<(usize, Exception<'_>)> {
    let lines = file
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(idx, line)| {
            let mut fields = line.split_whitespace();
            let mut field = || fields.next().unwrap_or_default();
            let (path, name, line_count) = (field(), field(), field().parse().unwrap_or(0));
            (
                idx + 1,
                Exception {
                    path,
                    name,
                    line_count,
                },
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_long_function_is_caught_unless_it_is_an_old_one() {
        let (long, longer) = (function(71), function(72));
        let ratchet = "# path name lines\ncrates/engine/src/old.rs long 71\ncrates/engine/src/gone.rs long 80\n\
                       crates/sched/src/plan.rs long 71\n";
        let tree = tree_of(&[
            ("crates/engine/src/new.rs", &long),
            ("crates/engine/src/old.rs", &long),
            ("crates/engine/src/short.rs", &function(70)),
            ("crates/engine/tests/cases.rs", &long),
            ("crates/sched/src/plan.rs", &long),
            (RATCHET, ratchet),
        ]);
        let found: Vec<_> = check_functions(&tree)
            .into_iter()
            .map(|f| (f.path, f.line))
            .collect();
        let expected = [
            ("crates/engine/src/new.rs", 1),
            ("crates/sched/src/plan.rs", 1),
            (RATCHET, 3),
            (RATCHET, 4),
        ];
        assert_eq!(
            found,
            expected.map(|(path, line)| (path.to_owned(), Some(line)))
        );
        let tree = tree_of(&[("crates/engine/src/old.rs", &longer), (RATCHET, ratchet)]);
        assert_eq!(
            check_functions(&tree).len(),
            4,
            "an exception does not grow"
        );
    }

    #[test]
    fn a_long_file_is_caught_and_its_tests_do_not_count() {
        let product = "const A: u8 = 1;\n".repeat(FILE_LINES_MAX);
        let tests = "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        let files = |text: &str| tree_of(&[("crates/plan/src/lib.rs", text)]);
        assert_eq!(check_files(&files(&format!("{product}{tests}"))), []);
        assert_eq!(
            check_files(&files(&format!("{product}//\n{tests}"))).len(),
            1
        );
    }

    #[test]
    fn a_file_that_nothing_compiles_is_caught() {
        let tree = tree_of(&[
            ("crates/plan/src/lib.rs", "mod kv;\n// mod old;\n"),
            ("crates/plan/src/kv/mod.rs", "pub mod pool;\n"),
            ("crates/plan/src/kv/pool.rs", ""),
            ("crates/plan/src/old.rs", ""),
        ]);
        let found: Vec<String> = check_files(&tree).into_iter().map(|f| f.path).collect();
        assert_eq!(found, ["crates/plan/src/old.rs"]);
    }
}
