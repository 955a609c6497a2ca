//! Models in several files.

use std::fs;
use std::path::PathBuf;

use kvist_weights::write::{GgufWriter, TensorShape};
use kvist_weights::{GgmlType, GgufFile, WeightsError as E};

use crate::temporary::TempDir;

/// What a part says about itself, and the names of its tensors.
struct Part<'p> {
    no: u16,
    count: u16,
    total: i32,
    tensors: &'p [&'p str],
}

impl Part<'_> {
    /// Writes the part under the name of part `place` (from 1) of `of`.
    fn write(&self, dir: &TempDir, (place, of): (u16, u16)) -> PathBuf {
        let mut writer = GgufWriter::new();
        writer.key("split.no", self.no).unwrap();
        writer.key("split.count", self.count).unwrap();
        writer.key("split.tensors.count", self.total).unwrap();
        if self.no == 0 {
            writer.key("general.architecture", "llama").unwrap();
        }
        for name in self.tensors {
            let shape = TensorShape {
                name,
                ggml_type: GgmlType::I8,
                dims: &[name.len()],
            };
            writer.tensor(shape, name.as_bytes()).unwrap();
        }
        let path = dir.path(&format!("model-{place:05}-of-{of:05}.gguf"));
        writer.write_file(&path).unwrap();
        path
    }
}

const FIRST: Part = Part {
    no: 0,
    count: 3,
    total: 4,
    tensors: &["a", "bb"],
};
const SECOND: Part = Part {
    no: 1,
    count: 3,
    total: 4,
    tensors: &["ccc"],
};
const THIRD: Part = Part {
    no: 2,
    count: 3,
    total: 4,
    tensors: &["dddd"],
};

fn model(dir: &TempDir) -> Vec<PathBuf> {
    let parts = [FIRST, SECOND, THIRD];
    (1..)
        .zip(&parts)
        .map(|(place, part)| part.write(dir, (place, 3)))
        .collect()
}

#[test]
fn any_part_opens_the_whole_model() {
    let dir = TempDir::new();
    let paths = model(&dir);
    for path in &paths {
        let file = GgufFile::open(path).unwrap();
        assert_eq!(file.paths(), paths);
        assert_eq!(
            file.metadata().require_str("general.architecture").unwrap(),
            "llama"
        );
        assert_eq!(file.tensors().len(), 4);
        for info in file.tensors() {
            assert_eq!(file.data(info).unwrap().as_ref(), info.name.as_bytes());
        }
        let lens = paths.iter().map(|path| fs::metadata(path).unwrap().len());
        assert_eq!(file.file_bytes().0, lens.sum::<u64>());
    }
}

#[test]
fn a_missing_part_is_named() {
    let dir = TempDir::new();
    let paths = model(&dir);
    fs::remove_file(&paths[1]).unwrap();
    let err = GgufFile::open(&paths[0]).unwrap_err();
    assert!(
        matches!(
            err,
            E::MissingSplit {
                part: 2,
                count: 3,
                ..
            }
        ),
        "{err:?}"
    );
    assert!(
        err.to_string().contains("model-00002-of-00003.gguf"),
        "{err}"
    );
}

#[test]
fn parts_in_another_order_are_refused() {
    let dir = TempDir::new();
    model(&dir);
    SECOND.write(&dir, (3, 3));
    let path = THIRD.write(&dir, (2, 3));
    let err = GgufFile::open(&path).unwrap_err();
    assert!(
        matches!(
            err,
            E::SplitMismatch {
                what: "split.no",
                ..
            }
        ),
        "{err:?}"
    );
}

#[test]
fn parts_that_disagree_are_refused() {
    let cases: [(Part, &str); 3] = [
        (Part { count: 2, ..SECOND }, "split.count"),
        (Part { total: 5, ..SECOND }, "split.tensors.count"),
        (
            Part {
                tensors: &["ccc", "more"],
                ..SECOND
            },
            "split.tensors.count",
        ),
    ];
    for (second, expected) in cases {
        let dir = TempDir::new();
        let paths = model(&dir);
        second.write(&dir, (2, 3));
        let err = GgufFile::open(&paths[0]).unwrap_err();
        assert!(
            matches!(err, E::SplitMismatch { what, .. } if what == expected),
            "{err:?}"
        );
    }
}

#[test]
fn a_tensor_in_two_parts_is_refused() {
    let dir = TempDir::new();
    let paths = model(&dir);
    Part {
        tensors: &["a"],
        ..SECOND
    }
    .write(&dir, (2, 3));
    let err = GgufFile::open(&paths[0]).unwrap_err();
    assert!(
        matches!(&err, E::Duplicate { name, .. } if name == "a"),
        "{err:?}"
    );
}

#[test]
fn a_part_under_another_name_cannot_find_the_rest() {
    let dir = TempDir::new();
    let paths = model(&dir);
    for name in [
        "renamed.gguf",
        "model-00004-of-00003.gguf",
        "model-00001-of-00004.gguf",
    ] {
        fs::copy(&paths[0], dir.path(name)).unwrap();
        let err = GgufFile::open(&dir.path(name)).unwrap_err();
        assert!(matches!(err, E::SplitMismatch { .. }), "{err:?}");
        assert!(
            err.to_string()
                .contains("NAME-00001-of-00003.gguf expected"),
            "{err}"
        );
    }
}

#[test]
fn more_parts_than_any_model_has_are_refused() {
    let dir = TempDir::new();
    let path = Part {
        count: u16::MAX,
        ..FIRST
    }
    .write(&dir, (1, u16::MAX));
    let err = GgufFile::open(&path).unwrap_err();
    assert!(
        matches!(
            err,
            E::TooMany {
                limit: 1024,
                given: 65_535,
                ..
            }
        ),
        "{err:?}"
    );
}

#[test]
fn a_merged_model_with_a_count_of_one_or_none_is_one_file() {
    let dir = TempDir::new();
    for count in [0, 1] {
        let part = Part {
            count,
            total: 2,
            ..FIRST
        };
        let path = part.write(&dir, (1, 1));
        fs::rename(&path, dir.path("merged.gguf")).unwrap();
        assert_eq!(
            GgufFile::open(&dir.path("merged.gguf"))
                .unwrap()
                .tensors()
                .len(),
            2
        );
    }
}
