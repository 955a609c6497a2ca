//! Rooms that take everything as arguments: no async runtime, clock, thread or environment.

use super::Finding;
use super::tree::Tree;

/// Crates that bring an async runtime or HTTP with them.
const ASYNC: [&str; 5] = ["tokio", "axum", "hyper", "tower", "futures_core"];
/// The only rooms that know them.
const ASYNC_ROOMS: [&str; 2] = ["server", "cli"];

/// Rooms whose decisions must be repeatable.
const PURE_ROOMS: [&str; 4] = ["sched", "sample", "text", "plan"];
const CLOCKS: [&str; 4] = ["std::time", "std::thread", "Instant", "SystemTime"];
/// Asks whether an assertion is already failing; decides nothing.
const HARMLESS: &str = "std::thread::panicking";

/// The only room that reads the process environment; the others get it as arguments.
const ENVIRONMENT_ROOM: &str = "cli";

pub fn check_async(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        if !file.is_product() || file.room().is_some_and(|room| ASYNC_ROOMS.contains(&room)) {
            continue;
        }
        for (at, word) in source.words().filter(|(_, word)| ASYNC.contains(word)) {
            let text = format!("`{word}` is for server and cli alone");
            findings.push(file.finding(source.line(at), text));
        }
    }
    findings
}

pub fn check_clocks(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        if !file.is_product() || !file.room().is_some_and(|room| PURE_ROOMS.contains(&room)) {
            continue;
        }
        for path in CLOCKS {
            for at in source.find_path(path) {
                if !source.is_test(at) && !source.code[at..].starts_with(HARMLESS) {
                    let text =
                        format!("`{path}` in a room that must be a function of its arguments");
                    findings.push(file.finding(source.line(at), text));
                }
            }
        }
    }
    findings
}

pub fn check_environment(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        if !file.is_product() || file.room() == Some(ENVIRONMENT_ROOM) {
            continue;
        }
        for at in source
            .find_path("std::env")
            .filter(|at| !source.is_test(*at))
        {
            let text = "`std::env` below cli: configuration arrives as arguments";
            findings.push(file.finding(source.line(at), text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    fn lines(findings: &[Finding]) -> Vec<(&str, Option<usize>)> {
        findings
            .iter()
            .map(|finding| (finding.path.as_str(), finding.line))
            .collect()
    }

    #[test]
    fn an_async_runtime_below_the_server_is_caught() {
        let text = "use tokio::sync::mpsc;\n// tokio\n";
        let tree = tree_of(&[
            ("crates/engine/src/run.rs", text),
            ("crates/engine/tests/run.rs", text),
            ("crates/server/src/lib.rs", text),
        ]);
        assert_eq!(
            lines(&check_async(&tree)),
            [("crates/engine/src/run.rs", Some(1))]
        );
    }

    #[test]
    fn a_clock_in_a_pure_room_is_caught() {
        let text = "use std::time::Duration;\nlet now = Instant::now();\nstd::thread::panicking();\n\
                    #[cfg(test)]\nmod tests {\n    use std::thread::spawn;\n}\n";
        let tree = tree_of(&[
            ("crates/sched/src/a.rs", text),
            ("crates/engine/src/a.rs", text),
        ]);
        let path = "crates/sched/src/a.rs";
        assert_eq!(
            lines(&check_clocks(&tree)),
            [(path, Some(1)), (path, Some(2))]
        );
    }

    #[test]
    fn the_environment_read_below_cli_is_caught() {
        let text = "let dir = env!(\"CARGO_MANIFEST_DIR\");\nlet home = std::env::var(\"HOME\");\n";
        let tree = tree_of(&[
            ("crates/plan/src/a.rs", text),
            ("crates/cli/src/a.rs", text),
        ]);
        assert_eq!(
            lines(&check_environment(&tree)),
            [("crates/plan/src/a.rs", Some(2))]
        );
    }
}
