//! Files from the model hub, by way of its own client and in its own cache layout.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use kvist_base::Bytes;
use thiserror::Error;

use super::error::{PullError, SourceError, on_disk};
use super::hub_ref::{HubRef, HubRefError, is_safe_path};
use super::progress::Progress;
use super::{Network, Sources, free_space, verify};
use crate::cache::CacheDir;
use crate::catalogue::CatalogueEntry;
use crate::exit::Exit;
use crate::split::SplitPart;

/// The branch a reference without a commit means.
const MAIN: &str = "main";
/// Broken transfers resumed before giving up.
const RETRIES_MAX: usize = 5;

/// How to reach the hub.
#[derive(Clone, Default)]
pub struct HubAccess {
    /// A mirror, or the hub itself.
    pub endpoint: Option<String>,
    /// The user's token, for models that need a login.
    pub token: Option<String>,
}

impl std::fmt::Debug for HubAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("HubAccess")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Why a file of the hub could not be had.
#[derive(Debug, Error)]
pub enum HubError {
    /// Which file is meant is not clear.
    #[error(transparent)]
    Reference(#[from] HubRefError),
    /// The hub wants a login, or an accepted licence.
    #[error("{repo} needs a login that may read it")]
    Unauthorised {
        /// The repository.
        repo: String,
    },
    /// There is no such repository or file.
    #[error("the hub has no {what}")]
    NotFound {
        /// Repository, and file where one was asked for.
        what: String,
    },
    /// The hub refused for another reason.
    #[error("the hub answered {status} for {what}")]
    Status {
        /// Repository, and file where one was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// The hub could not be reached, or the connection broke and could not be resumed.
    #[error("the hub could not be reached for {what}: {reason}")]
    Transport {
        /// Repository, and file where one was asked for.
        what: String,
        /// What the client said.
        reason: String,
    },
    /// The hub sent something that is not what it announced.
    #[error("the hub sent {what} with {field} {found}, but announced {expected}; it was deleted")]
    Damaged {
        /// Repository and file.
        what: String,
        /// `size` or `SHA-256`.
        field: &'static str,
        /// What was announced.
        expected: String,
        /// What came.
        found: String,
    },
    /// The hub's answer names a file outside the cache.
    #[error("the hub sent an unusable answer for {what}: {reason}")]
    BadAnswer {
        /// Repository, and file where one was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is not on the disk and downloads are off.
    #[error("{what} has not been downloaded, and downloads are off (--offline)")]
    Offline {
        /// The reference.
        what: String,
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

impl HubError {
    /// The exit code for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Reference(HubRefError::Malformed { .. }) => Exit::Usage,
            Self::Reference(_) | Self::NotFound { .. } | Self::Offline { .. } => Exit::Model,
            Self::Damaged { .. } => Exit::Model,
            Self::Disk { .. } => Exit::Disk,
            Self::Unauthorised { .. }
            | Self::Status { .. }
            | Self::Transport { .. }
            | Self::BadAnswer { .. } => Exit::Network,
        }
    }
}

/// Path of the model `reference` means, downloaded first when it is not in `cache`. Of a split
/// model all parts are there, and the path is the first one's.
///
/// # Errors
/// When it is not there and cannot be had.
pub fn pull_hub(
    reference: &HubRef,
    cache: &CacheDir,
    sources: &Sources,
    progress: &mut dyn Progress,
) -> Result<PathBuf, PullError> {
    let offline = sources.network == Network::Offline;
    let repo = HubRepo::new(cache.hub(), &sources.hub, (reference.repo(), MAIN))?;
    let file = match reference.exact_file() {
        Some(file) => file.to_owned(),
        None if offline => reference
            .choose(&repo.cached_files())
            .map_err(|_| repo.offline())?,
        None => repo.choose_online(reference, progress)?,
    };
    let first = SplitPart::parse(&file).map(|part| SplitPart { number: 1, ..part });
    let files: Vec<String> = match first {
        Some(part) => part.all().collect(),
        None => vec![file],
    };
    let mut paths = Vec::with_capacity(files.len());
    for file in &files {
        let path = match repo.cached(file) {
            Some(path) => path,
            None if offline => return Err(repo.offline().into()),
            None => repo.download(file, progress)?,
        };
        paths.push(path);
    }
    // A file name like `a-00001-of-00000.gguf` claims a model of no parts.
    paths
        .into_iter()
        .next()
        .ok_or_else(|| repo.not_found(&files.join(", ")).into())
}

/// The catalogue's model from the hub, checked, in `part`.
pub(super) fn fetch_entry(
    entry: &CatalogueEntry,
    part: &Path,
    sources: &Sources,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SourceError> {
    let from_hub = |error| match error {
        HubError::Disk { path, source } => SourceError::Disk { path, source },
        other => SourceError::Hub(other),
    };
    let folder = part.join("hub");
    let repo = HubRepo::new(&folder, &sources.hub, (entry.hub.repo, entry.hub.revision))
        .map_err(from_hub)?;
    let link = repo.download(entry.hub.file, progress).map_err(from_hub)?;
    let blob = link.canonicalize().map_err(on_disk(&link))?;
    verify::check_file(entry, &blob, progress)?;
    let path = part.join(entry.file_name);
    fs::rename(&blob, &path).map_err(on_disk(&path))?;
    Ok(path)
}

/// One repository at one revision.
struct HubRepo {
    name: String,
    cache: Cache,
    repo: Repo,
    api: Api,
    client: ApiRepo,
}

impl HubRepo {
    fn new(
        folder: &Path,
        access: &HubAccess,
        (name, revision): (&str, &str),
    ) -> Result<Self, HubError> {
        fs::create_dir_all(folder).map_err(|source| HubError::Disk {
            path: folder.to_owned(),
            source,
        })?;
        // The client computes relative links, for which both ends must be absolute.
        let folder = folder.canonicalize().map_err(|source| HubError::Disk {
            path: folder.to_owned(),
            source,
        })?;
        let cache = Cache::new(folder);
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_retries(RETRIES_MAX);
        if let Some(endpoint) = &access.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if let Some(token) = &access.token {
            builder = builder.with_token(Some(token.clone()));
        }
        let api = builder.build().map_err(|error| failed(name, error))?;
        let repo = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
        let client = api.repo(repo.clone());
        Ok(Self {
            name: name.to_owned(),
            cache,
            repo,
            api,
            client,
        })
    }

    fn offline(&self) -> HubError {
        HubError::Offline {
            what: self.name.clone(),
        }
    }

    fn not_found(&self, file: &str) -> HubError {
        HubError::NotFound {
            what: format!("{}:{file}", self.name),
        }
    }

    fn cached(&self, file: &str) -> Option<PathBuf> {
        self.cache.repo(self.repo.clone()).get(file)
    }

    /// Files of the newest revision that earlier runs downloaded, in its top folder.
    fn cached_files(&self) -> Vec<String> {
        let repo = self.cache.repo(self.repo.clone());
        let refs = self
            .cache
            .path()
            .join(self.repo.folder_name())
            .join("refs")
            .join(MAIN);
        let Ok(commit) = fs::read_to_string(refs) else {
            return Vec::new();
        };
        let entries = fs::read_dir(repo.pointer_path(commit.trim()))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// The file `reference` means among those the hub lists; among the downloaded ones when the
    /// hub cannot be reached.
    fn choose_online(
        &self,
        reference: &HubRef,
        progress: &mut dyn Progress,
    ) -> Result<String, HubError> {
        match self.client.info() {
            Ok(info) => {
                let names = info.siblings.into_iter().map(|file| file.rfilename);
                let files: Vec<String> = names.filter(|name| is_safe_path(name)).collect();
                Ok(reference.choose(&files)?)
            }
            Err(error) => {
                let error = failed(&self.name, error);
                let cached = reference.choose(&self.cached_files()).map_err(|_| error)?;
                progress.note("the hub cannot be reached; using the file downloaded earlier");
                Ok(cached)
            }
        }
    }

    /// Downloads `file`, resuming what an earlier run left, and checks it against what the hub
    /// announced: its size, and its SHA-256 where the hub names the file by it.
    fn download(&self, file: &str, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        let what = format!("{}:{file}", self.name);
        let fail = |error| failed(&what, error);
        let metadata = self.api.metadata(&self.client.url(file)).map_err(fail)?;
        for name in [metadata.etag(), metadata.commit_hash()] {
            if !is_safe_path(name) || name.contains('/') {
                let reason = format!("{name:?} cannot be a file name");
                return Err(HubError::BadAnswer { what, reason });
            }
        }
        let size = Bytes::of_len(metadata.size());
        self.check_space(size)?;
        let adapter = Adapter {
            progress: &mut *progress,
            done: Bytes::ZERO,
        };
        let path = self
            .client
            .download_with_progress(file, adapter)
            .map_err(fail)?;
        check(&path, size, metadata.etag()).map_err(|mismatch| match mismatch {
            Mismatch::Disk(source) => HubError::Disk {
                path: path.clone(),
                source,
            },
            Mismatch::Content {
                field,
                expected,
                found,
            } => {
                discard(&path);
                HubError::Damaged {
                    what: what.clone(),
                    field,
                    expected,
                    found,
                }
            }
        })?;
        Ok(path)
    }

    fn check_space(&self, needed: Bytes) -> Result<(), HubError> {
        let folder = self.cache.path();
        // Where the free space cannot be read, the write itself will tell.
        let Ok(free) = free_space(folder) else {
            return Ok(());
        };
        if free >= needed {
            return Ok(());
        }
        let reason = format!("{needed} needed, {free} free");
        let source = io::Error::new(io::ErrorKind::StorageFull, reason);
        Err(HubError::Disk {
            path: folder.clone(),
            source,
        })
    }
}

/// What a finished download turned out to be.
enum Mismatch {
    Disk(io::Error),
    Content {
        field: &'static str,
        expected: String,
        found: String,
    },
}

fn check(path: &Path, size: Bytes, etag: &str) -> Result<(), Mismatch> {
    let file = File::open(path).map_err(Mismatch::Disk)?;
    let found = file.metadata().map_err(Mismatch::Disk)?.len();
    if found != size.0 {
        let (expected, found) = (size.0.to_string(), found.to_string());
        return Err(Mismatch::Content {
            field: "size",
            expected,
            found,
        });
    }
    // Large files have their SHA-256 for an entity tag; small ones a git hash, which is shorter.
    if etag.len() != 64 {
        return Ok(());
    }
    let found = verify::sha256(file).map_err(Mismatch::Disk)?;
    if found != etag {
        return Err(Mismatch::Content {
            field: "SHA-256",
            expected: etag.to_owned(),
            found,
        });
    }
    Ok(())
}

/// Removes a file of the hub's cache: the link, and the content it points to.
fn discard(link: &Path) {
    if let Ok(blob) = link.canonicalize() {
        let _ = fs::remove_file(blob);
    }
    let _ = fs::remove_file(link);
}

/// The client's progress, told in ours.
struct Adapter<'a> {
    progress: &'a mut dyn Progress,
    done: Bytes,
}

impl hf_hub::api::Progress for Adapter<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.done = Bytes::ZERO;
        self.progress.start("downloading", Bytes::of_len(size));
    }

    fn update(&mut self, size: usize) {
        self.done += Bytes::of_len(size);
        self.progress.at(self.done);
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}

/// The client's error, sorted by what the user can do about it.
fn failed(what: &str, error: ApiError) -> HubError {
    let what = what.to_owned();
    match error {
        ApiError::TooManyRetries(last) => failed(&what, *last),
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(401 | 403) => HubError::Unauthorised { repo: what },
            ureq::Error::StatusCode(404) => HubError::NotFound { what },
            ureq::Error::StatusCode(status) => HubError::Status { what, status },
            other => HubError::Transport {
                what,
                reason: other.to_string(),
            },
        },
        // The client reports both a full disk and a broken connection this way.
        ApiError::IoError(source) if is_disk(&source) => HubError::Disk {
            path: PathBuf::from(what),
            source,
        },
        ApiError::LockAcquisition(path) => HubError::Transport {
            what,
            reason: format!("another program is downloading it ({})", path.display()),
        },
        ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) | ApiError::ParseIntError(_) => {
            HubError::BadAnswer {
                what,
                reason: error.to_string(),
            }
        }
        other => HubError::Transport {
            what,
            reason: other.to_string(),
        },
    }
}

fn is_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
}
