//! The second tier of the KV cache: blocks in a file, beside the pool in memory.
//!
//! Which content is in which slot is the scheduler's to know. Here are the bytes: written by a
//! thread of their own, summed, and compared with their sum when they come back.

mod checksum;
mod manifest;
mod open;
mod writer;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use checksum::checksum;
pub(crate) use manifest::{Identity, Manifest, StoredEntry};
pub(crate) use open::open;
use writer::Writer;

/// A place for one block, by number.
pub(crate) type Slot = u32;

/// Where the tier is and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierOptions {
    /// A directory; it is made if it is not there.
    pub dir: PathBuf,
    /// Most bytes of the file.
    pub bytes: kvist_base::Bytes,
    /// Whether its content outlives the process.
    pub keeps: bool,
}

/// The tier cannot be opened.
#[derive(Debug, Error)]
#[error("the KV tier at {path} cannot be {action}: {source}")]
pub struct TierError {
    /// The file or directory.
    pub path: PathBuf,
    /// What failed.
    pub action: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A slot's content cannot be had: never written, lost, or not what was written.
#[derive(Debug, Error)]
pub(crate) enum SlotFault {
    #[error("slot {slot} is empty")]
    Empty { slot: Slot },
    #[error("slot {slot} does not hold what was written to it")]
    Damaged { slot: Slot },
    #[error("slot {slot} cannot be read: {source}")]
    Unreadable {
        slot: Slot,
        #[source]
        source: io::Error,
    },
}

/// Every write buffer is on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Congested;

#[derive(Debug, Default)]
enum SlotState {
    #[default]
    Empty,
    /// The bytes are still here.
    Writing {
        bytes: Arc<Vec<u8>>,
        sum: u64,
    },
    Stored {
        sum: u64,
    },
}

/// The blocks of the second tier.
#[derive(Debug)]
pub(crate) struct TierStore {
    file: Arc<File>,
    block_bytes: usize,
    slots: Vec<SlotState>,
    /// Buffers that are not on their way, at most `buffers_max` with those that are.
    spare: Vec<Vec<u8>>,
    in_flight: usize,
    buffers_max: usize,
    /// Slots whose write failed and that nobody was told about yet.
    lost: Vec<Slot>,
    writer: Writer,
}

impl TierStore {
    /// A store of `slots` blocks in `file`. Buffers take `buffers_max` blocks of memory.
    pub(crate) fn new(
        file: File,
        block_bytes: usize,
        slots: u32,
        buffers_max: usize,
    ) -> io::Result<Self> {
        assert!(block_bytes > 0 && buffers_max > 0);
        let file = Arc::new(file);
        let mut states = Vec::new();
        states.resize_with(slots as usize, SlotState::default);
        Ok(Self {
            writer: Writer::start(Arc::clone(&file), buffers_max)?,
            file,
            block_bytes,
            slots: states,
            spare: Vec::new(),
            in_flight: 0,
            buffers_max,
            lost: Vec::new(),
        })
    }

    fn offset(&self, slot: Slot) -> u64 {
        u64::from(slot) * self.block_bytes as u64
    }

    /// Sends a block to `slot`; `fill` copies its bytes. What the slot held is gone.
    pub(crate) fn put<E>(
        &mut self,
        slot: Slot,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), Congested>, E> {
        self.settle();
        self.slots[slot as usize] = SlotState::Empty;
        let Some(mut buffer) = self.buffer() else {
            return Ok(Err(Congested));
        };
        fill(&mut buffer)?;
        let sum = checksum(&buffer);
        let bytes = Arc::new(buffer);
        let offset = self.offset(slot);
        if self
            .writer
            .write(slot, offset, Arc::clone(&bytes))
            .is_none()
        {
            self.lost.push(slot);
            return Ok(Ok(()));
        }
        self.in_flight += 1;
        self.slots[slot as usize] = SlotState::Writing { bytes, sum };
        Ok(Ok(()))
    }

    fn buffer(&mut self) -> Option<Vec<u8>> {
        if let Some(buffer) = self.spare.pop() {
            return Some(buffer);
        }
        (self.in_flight < self.buffers_max).then(|| vec![0; self.block_bytes])
    }

    /// Copies the content of `slot`.
    pub(crate) fn get(&self, slot: Slot, out: &mut [u8]) -> Result<(), SlotFault> {
        assert_eq!(out.len(), self.block_bytes);
        match &self.slots[slot as usize] {
            SlotState::Empty => Err(SlotFault::Empty { slot }),
            SlotState::Writing { bytes, .. } => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            SlotState::Stored { sum } => {
                self.file
                    .read_exact_at(out, self.offset(slot))
                    .map_err(|source| SlotFault::Unreadable { slot, source })?;
                if checksum(out) == *sum {
                    Ok(())
                } else {
                    Err(SlotFault::Damaged { slot })
                }
            }
        }
    }

    /// Forgets what `slot` held.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.slots[slot as usize] = SlotState::Empty;
    }

    /// Slots whose content never reached the disk, each once.
    pub(crate) fn take_lost(&mut self) -> Vec<Slot> {
        self.settle();
        std::mem::take(&mut self.lost)
    }

    /// Waits until a buffer is free.
    pub(crate) fn wait_for_room(&mut self) {
        self.settle();
        while self.spare.is_empty() && self.in_flight >= self.buffers_max {
            match self.writer.wait() {
                Some(written) => self.take_in(written),
                None => return,
            }
        }
    }

    /// Waits until nothing is on its way.
    pub(crate) fn flush(&mut self) {
        while self.in_flight > 0 {
            match self.writer.wait() {
                Some(written) => self.take_in(written),
                None => return,
            }
        }
    }

    /// Gives back the memory of idle buffers.
    pub(crate) fn trim(&mut self) {
        self.settle();
        self.spare = Vec::new();
    }

    /// Bytes held in buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        (self.spare.len() + self.in_flight) * self.block_bytes
    }

    /// The sum of a slot that is on the disk.
    pub(crate) fn stored_sum(&self, slot: Slot) -> Option<u64> {
        match self.slots.get(slot as usize)? {
            SlotState::Stored { sum } => Some(*sum),
            SlotState::Empty | SlotState::Writing { .. } => None,
        }
    }

    /// Declares a slot of a file from an earlier run to hold bytes with this sum.
    pub(crate) fn adopt(&mut self, slot: Slot, sum: u64) {
        self.slots[slot as usize] = SlotState::Stored { sum };
    }

    fn settle(&mut self) {
        while let Some(written) = self.writer.poll() {
            self.take_in(written);
        }
    }

    fn take_in(&mut self, written: writer::Written) {
        self.in_flight -= 1;
        let state = &mut self.slots[written.slot as usize];
        // The slot may have been given to another block meanwhile.
        let is_current =
            matches!(state, SlotState::Writing { bytes, .. } if Arc::ptr_eq(bytes, &written.bytes));
        if is_current {
            let SlotState::Writing { sum, .. } = std::mem::take(state) else {
                unreachable!("just matched");
            };
            match written.result {
                Ok(()) => *state = SlotState::Stored { sum },
                Err(error) => {
                    tracing::warn!(%error, slot = written.slot, "a KV block could not be spilled");
                    self.lost.push(written.slot);
                }
            }
        }
        if let Ok(buffer) = Arc::try_unwrap(written.bytes) {
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
