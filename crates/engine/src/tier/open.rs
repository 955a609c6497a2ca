//! Setting a tier up: its file, and what an earlier process left in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use kvist_plan::STAGED_BLOCKS;
use kvist_sched::{Scheduler, TierEntry, TierSlot};

use super::{Identity, Manifest, TierError, TierOptions, TierStore};
use crate::shared::UNSALTED_ROOT;

/// A tier that is ready, and where to write down what it holds when the process ends.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: TierStore,
    pub(crate) manifest: Option<(PathBuf, Identity)>,
}

/// Opens the tier, and tells the scheduler what is in it from an earlier run.
pub(crate) fn open(
    options: &TierOptions,
    identity: Identity,
    block_bytes: usize,
    scheduler: &mut Scheduler,
) -> Result<Opened, TierError> {
    let (file, path) = open_file(options, &identity.fingerprint())?;
    let failed = |action| {
        let path = path.clone();
        move |source| TierError {
            path,
            action,
            source,
        }
    };
    let buffers = usize::try_from(STAGED_BLOCKS - 1).unwrap_or(usize::MAX);
    let slots = scheduler.config().tier_slots;
    let mut store = TierStore::new(file, block_bytes, slots, buffers).map_err(failed("started"))?;
    if !options.keeps {
        let manifest = None;
        return Ok(Opened { store, manifest });
    }
    let manifest_path = path.with_extension("index");
    let kept = Manifest::take(&manifest_path, identity).map_err(failed("read"))?;
    if let Some(manifest) = kept {
        adopt(&manifest, &mut store, scheduler);
    }
    let manifest = Some((manifest_path, identity));
    Ok(Opened { store, manifest })
}

/// Entries that do not fit, after the tier was made smaller for instance, are left behind all
/// together: a prefix cache that starts empty is as good as none.
fn adopt(manifest: &Manifest, store: &mut TierStore, scheduler: &mut Scheduler) {
    let entries: Vec<TierEntry> = manifest
        .entries
        .iter()
        .map(|entry| TierEntry {
            slot: TierSlot(entry.slot),
            content: entry.content,
            parent: entry.parent,
            root: UNSALTED_ROOT,
            hash: entry.hash,
            tokens: entry.tokens.clone(),
        })
        .collect();
    match scheduler.restore_tier(&entries) {
        Ok(()) => {
            for entry in &manifest.entries {
                store.adopt(entry.slot, entry.sum);
            }
            tracing::info!(
                blocks = entries.len(),
                "prefix cache of an earlier run found"
            );
        }
        Err(error) => tracing::warn!(%error, "the kept prefix cache is not used"),
    }
}

/// The file of a tier. One that is not kept has no name any more: the system takes it back
/// whatever ends the process.
pub(super) fn open_file(options: &TierOptions, name: &str) -> Result<(File, PathBuf), TierError> {
    let failed = |path: &Path, action| {
        let path = path.to_path_buf();
        move |source| TierError {
            path,
            action,
            source,
        }
    };
    fs::create_dir_all(&options.dir).map_err(failed(&options.dir, "created"))?;
    let path = if options.keeps {
        options.dir.join(format!("{name}.kv"))
    } else {
        options
            .dir
            .join(format!("{name}.{}.spill", std::process::id()))
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(!options.keeps)
        .open(&path)
        .map_err(failed(&path, "opened"))?;
    // Two processes writing one file would damage each other's blocks.
    file.try_lock()
        .map_err(|error| failed(&path, "locked")(io::Error::other(error)))?;
    if !options.keeps {
        fs::remove_file(&path).map_err(failed(&path, "unlinked"))?;
    }
    Ok((file, path))
}
