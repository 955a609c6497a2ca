//! Nothing in the tree depends on one machine or on one registry.

use super::Finding;
use super::tree::Tree;

/// Registries and hubs, each in two parts so that this file does not name one.
const HOSTS: [(&str, &str); 9] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("huggingface", ".co"),
    ("hf", ".co/"),
    ("npmjs", ".com"),
    ("ghcr", ".io"),
    ("docker", ".io"),
    ("modelscope", ".cn"),
];

/// Directories of a developer's machine, in two parts for the same reason.
const DIRECTORIES: [(&str, &str); 5] = [
    ("/wo", "rk/"),
    ("/tm", "p/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/Us", "ers/"),
];
/// The home of examples.
const EXAMPLE_HOME: (&str, &str) = ("/ho", "me/u");

/// Written by cargo, which names the registry each package came from.
const LOCK_FILE: &str = "Cargo.lock";

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path != LOCK_FILE) {
        for (idx, line) in file.text.lines().enumerate() {
            if let Some(host) = host_in(line) {
                findings.push(file.finding(idx + 1, format!("names a registry's host, {host}")));
            }
            if let Some(directory) = directory_in(line) {
                let text = format!("an absolute path of one machine, below {directory}");
                findings.push(file.finding(idx + 1, text));
            }
        }
    }
    findings
}

fn host_in(line: &str) -> Option<String> {
    let hosts = HOSTS.map(|(name, ending)| format!("{name}{ending}"));
    hosts
        .into_iter()
        .find(|host| starts_somewhere(line, host, |before| !before.is_alphanumeric()))
}

fn directory_in(line: &str) -> Option<String> {
    let directories = DIRECTORIES.map(|(start, end)| format!("{start}{end}"));
    let example = format!("{}{}", EXAMPLE_HOME.0, EXAMPLE_HOME.1);
    let line = ["/", "\""].iter().fold(line.to_owned(), |line, end| {
        line.replace(&format!("{example}{end}"), "")
    });
    let is_root = |before: char| !before.is_alphanumeric() && !"._-/}~*".contains(before);
    directories
        .into_iter()
        .find(|directory| starts_somewhere(&line, directory, is_root))
}

/// Whether `line` has `needle` at its start or behind a character that may stand before it.
fn starts_somewhere(line: &str, needle: &str, may_precede: impl Fn(char) -> bool) -> bool {
    line.match_indices(needle)
        .any(|(at, _)| line[..at].chars().next_back().is_none_or(&may_precede))
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    #[test]
    fn hosts_and_machine_paths_are_caught() {
        let host = format!("curl https://{}{}/simple", HOSTS[1].0, HOSTS[1].1);
        let path = format!("cd {}{}main", DIRECTORIES[0].0, DIRECTORIES[0].1);
        let harmless = "the network/ho and target/work/x, frameworkcrates .io, dir/wo rk\n";
        let tree = tree_of(&[
            ("README.md", &format!("fine\n{host}\n")),
            (".ci/run", &path),
            ("docs/a.md", harmless),
            (LOCK_FILE, &host),
        ]);
        let found: Vec<_> = check(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [
            ("README.md".to_owned(), Some(2)),
            (".ci/run".to_owned(), Some(1)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_home_of_examples_is_no_machine() {
        let home = format!("{}{}", EXAMPLE_HOME.0, EXAMPLE_HOME.1);
        assert_eq!(
            directory_in(&format!("\"{home}\", \"{home}/.cache\"")),
            None
        );
        assert!(directory_in(&format!("\"{home}rsula\"")).is_some());
    }
}
