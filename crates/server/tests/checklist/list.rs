//! docs/checklist.md says of every case which test has it, or why none has. Here it is held to that.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Cases of each section.
const SECTIONS: [(char, usize); 10] = [
    ('A', 16),
    ('B', 10),
    ('C', 24),
    ('D', 10),
    ('E', 10),
    ('F', 18),
    ('G', 12),
    ('H', 24),
    ('I', 10),
    ('J', 12),
];

/// All Rust below a directory, as one text.
pub fn read_all(dir: &Path) -> String {
    let mut text = String::new();
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if !path.ends_with("target") {
                text.push_str(&read_all(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    text
}

#[test]
fn every_case_of_the_checklist_has_its_tests_or_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let list = fs::read_to_string(root.join("docs/checklist.md")).unwrap();
    let sources = read_all(&root.join("crates"));
    let mut cases: BTreeMap<(char, usize), &str> = BTreeMap::new();
    for line in list.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", id, _case, answer, ""] = cells.as_slice() else {
            continue;
        };
        let Some((section, number)) = id.split_at_checked(1) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        let section = section.chars().next().unwrap();
        assert!(
            cases.insert((section, number), answer).is_none(),
            "{id} is there twice"
        );
    }
    for (section, count) in SECTIONS {
        for number in 1..=count {
            let answer = cases.remove(&(section, number));
            let answer = answer.unwrap_or_else(|| panic!("{section}{number} is missing"));
            let tests: Vec<&str> = answer
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|name| name.contains('_'))
                .collect();
            let has_reason = ["Otherwise:", "Not built:", "Open:"]
                .iter()
                .any(|word| answer.contains(word));
            assert!(
                !tests.is_empty() || has_reason,
                "{section}{number}: neither test nor reason"
            );
            for test in tests {
                assert!(
                    sources.contains(&format!("fn {test}(")),
                    "{section}{number}: no test {test}"
                );
            }
        }
    }
    assert!(cases.is_empty(), "no such cases: {cases:?}");
}
