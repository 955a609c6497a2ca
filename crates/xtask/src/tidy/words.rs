//! One word for one thing: names the glossary rules out.

use super::Finding;
use super::tree::Tree;

/// Words that name a thing for which GLOSSARY.md has another: (not this, but this).
const RULED_OUT: [(&str, &str); 17] = [
    ("page table", "BlockTable"),
    ("block list", "BlockTable"),
    ("block manager", "BlockPool"),
    ("block allocator", "BlockPool"),
    ("page size", "block_size"),
    ("radix cache", "prefix cache"),
    ("prompt cache", "prefix cache"),
    ("cached len", "computed_len"),
    ("context len", "known_len"),
    ("num tokens", "known_len or token_count"),
    ("prefill phase", "Chunk"),
    ("generation phase", "Chunk"),
    ("swap out", "preempt"),
    ("batcher", "Scheduler"),
    ("workspace buffer", "Scratch"),
    ("tmp", "scratch, or what it holds"),
    ("backend", "Device"),
];

/// They speak in the words of the interfaces they implement.
const WIRE_ROOMS: [&str; 2] = ["server", "cli"];
/// Names the ruled-out words in order to rule them out.
const OWN_FILE: &str = "crates/xtask/src/tidy/words.rs";

pub fn check_glossary(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        if file.room().is_some_and(|room| WIRE_ROOMS.contains(&room)) || file.path == OWN_FILE {
            continue;
        }
        for (at, word) in source.words() {
            let spelled = spell(word);
            let ruled_out = RULED_OUT
                .iter()
                .find(|(no, _)| contains_words(&spelled, no));
            if let Some((_, yes)) = ruled_out {
                let text = format!("`{word}`: the glossary's word is `{yes}`");
                findings.push(file.finding(source.line(at), text));
            }
        }
    }
    findings
}

/// `BlockTable` and `block_table` as `block table`.
fn spell(identifier: &str) -> String {
    let mut words = String::new();
    let mut was_lower = false;
    for letter in identifier.chars() {
        if letter == '_' || (letter.is_ascii_uppercase() && was_lower) {
            words.push(' ');
        }
        if letter != '_' {
            words.push(letter.to_ascii_lowercase());
        }
        was_lower = letter.is_ascii_lowercase() || letter.is_ascii_digit();
    }
    words
}

fn contains_words(spelled: &str, wanted: &str) -> bool {
    format!(" {spelled} ").contains(&format!(" {wanted} "))
}

/// A test that does not run proves nothing and looks as if it did.
pub fn check_ignored_tests(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.sources() {
        for (at, _) in source.code.match_indices("#[ignore") {
            findings.push(file.finding(source.line(at), "an ignored test"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    #[test]
    fn ruled_out_words_are_caught_in_any_case() {
        let text = "struct BlockManager;\nlet page_table = 1;\nconst PAGE_SIZE: u8 = 1;\n\
                    struct BlockTable; // page table\nlet stmp = \"page_table\";\n";
        let tree = tree_of(&[
            ("crates/sched/src/a.rs", text),
            ("crates/server/src/a.rs", text),
        ]);
        let found: Vec<_> = check_glossary(&tree).into_iter().map(|f| f.line).collect();
        assert_eq!(found, [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn an_ignored_test_is_caught() {
        let text = "#[test]\n#[ignore = \"slow\"]\nfn t() {}\n// #[ignore]\n";
        let found = check_ignored_tests(&tree_of(&[("crates/sched/tests/a.rs", text)]));
        assert_eq!(found.len(), 1);
    }
}
