//! Which room may know which: the table of ARCHITECTURE.md, as data.

use super::Finding;
use super::manifest::Manifest;
use super::tree::Tree;

/// Rooms with the rooms they may depend on. An edge more is an architecture decision.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("base", &[]),
    ("kernels", &["base"]),
    ("weights", &["base"]),
    ("text", &["base"]),
    ("grammar", &["base"]),
    ("sample", &["base"]),
    ("sched", &["base"]),
    ("plan", &["base"]),
    ("device", &["base", "kernels"]),
    ("model", &["base", "weights", "device"]),
    (
        "engine",
        &[
            "base", "kernels", "weights", "text", "grammar", "sample", "sched", "plan", "device",
            "model",
        ],
    ),
    ("server", &["base", "engine"]),
    ("cli", &["base", "weights", "plan", "engine", "server"]),
    // Test support: no product depends on it.
    ("testkit", &["base", "weights"]),
    ("fuzzing", &["base", "weights", "text", "server"]),
];

/// The developers' tool: free to use any room, used by none.
const TOOL: &str = "xtask";

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (room, file) in tree.manifests() {
        if room == TOOL {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == room) else {
            findings.push(file.finding(None, format!("room `{room}` is not in xtask's table")));
            continue;
        };
        let manifest = Manifest::parse(&file.text);
        let uses = manifest.dependencies().into_iter();
        for used in uses.filter_map(|name| name.strip_prefix("kvist-")) {
            if !allowed.contains(&used) {
                let text = format!("`{room}` may not depend on `{used}`: a new edge needs an ADR");
                findings.push(file.finding(None, text));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    #[test]
    fn a_new_edge_and_an_unknown_room_are_caught() {
        let tree = tree_of(&[
            (
                "crates/sched/Cargo.toml",
                "[dependencies]\nkvist-base.workspace = true\n",
            ),
            (
                "crates/text/Cargo.toml",
                "[dependencies]\nkvist-sched = { path = \"../sched\" }\n",
            ),
            (
                "crates/plan/Cargo.toml",
                "[dev-dependencies]\nkvist-sched.workspace = true\n",
            ),
            ("crates/attic/Cargo.toml", "[package]\n"),
        ]);
        let paths: Vec<String> = check(&tree)
            .into_iter()
            .map(|finding| finding.path)
            .collect();
        assert_eq!(paths, ["crates/text/Cargo.toml", "crates/attic/Cargo.toml"]);
    }
}
