//! Every target on its seeds and on some hundred inputs made of them: the properties hold, and the
//! seeds are there.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use kvist_fuzzing::{TARGETS, Until, drive};

#[test]
fn every_property_holds_for_the_seeds_and_what_is_near() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for target in &TARGETS {
        let seeds = root.join("seeds").join(target.name);
        let report = drive(target, &seeds, (20, Until::Runs(300))).unwrap();
        let report = report.unwrap_or_else(|finding| panic!("{finding:?}"));
        assert!(report.seeds > 0, "{} has no seeds", target.name);
        assert_eq!(report.runs, 300);
        let source = root
            .join("fuzz_targets")
            .join(format!("{}.rs", target.name));
        assert!(source.is_file(), "cargo fuzz has no target {}", target.name);
    }
}
