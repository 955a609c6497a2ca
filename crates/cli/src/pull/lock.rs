//! One download of a model at a time, across processes.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::error::PullError;
use super::progress::Progress;

/// Waits until this process alone downloads what `path` stands for. The lock ends with the value,
/// and with the process however that ends; the file stays, because removing it would let a third
/// process lock a new file while a second still waits on the old one.
pub(super) fn acquire(path: &Path, progress: &mut dyn Progress) -> Result<File, PullError> {
    let disk = |source| PullError::disk(path, source);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(disk)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            progress.note("waiting for another kvist that is downloading the same model");
            file.lock().map_err(disk)?;
            Ok(file)
        }
        Err(TryLockError::Error(source)) => Err(disk(source)),
    }
}
