//! The thread that writes blocks to the tier's file, so that a step never waits for a disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::Slot;

/// A block on its way to the file.
struct Job {
    slot: Slot,
    offset: u64,
    /// Also readable by whoever wants the block back before it is written.
    bytes: Arc<Vec<u8>>,
}

/// What became of a block; its buffer comes back with it.
pub(super) struct Written {
    pub(super) slot: Slot,
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) result: io::Result<()>,
}

#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while it is being dropped.
    jobs: Option<SyncSender<Job>>,
    written: Receiver<Written>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `depth` blocks can be on their way at once.
    pub(super) fn start(file: Arc<File>, depth: usize) -> io::Result<Self> {
        let (jobs, todo) = sync_channel::<Job>(depth);
        let (done, written) = sync_channel(depth);
        let thread = thread::Builder::new()
            .name("kvist-spill".to_owned())
            .spawn(move || {
                for Job {
                    slot,
                    offset,
                    bytes,
                } in todo
                {
                    let result = file.write_all_at(&bytes, offset);
                    let written = Written {
                        slot,
                        bytes,
                        result,
                    };
                    // Nobody listens any more when the store is being dropped.
                    if done.send(written).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            jobs: Some(jobs),
            written,
            thread: Some(thread),
        })
    }

    /// Hands a block over; the caller keeps no more than `depth` on their way. `None` if the
    /// thread is gone.
    pub(super) fn write(&self, slot: Slot, offset: u64, bytes: Arc<Vec<u8>>) -> Option<()> {
        let job = Job {
            slot,
            offset,
            bytes,
        };
        self.jobs.as_ref()?.send(job).ok()
    }

    /// A block that has been written since the last call.
    pub(super) fn poll(&self) -> Option<Written> {
        self.written.try_recv().ok()
    }

    /// As `poll`, but waits for one. `None` if the thread is gone.
    pub(super) fn wait(&self) -> Option<Written> {
        self.written.recv().ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        // The thread may be waiting for its results to be taken.
        while self.written.recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            // It holds no lock and has no result: there is nothing to do about a panic in it.
            let _ = thread.join();
        }
    }
}
