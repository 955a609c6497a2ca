//! Weights that stay in their file: read, repacked and used panel by panel, with the file read ahead.
//!
//! ```text
//! file ──read-ahead thread──► system's cache of the file ──read──► raw rows ──pack──► panel ──► product
//!        (advice, 32 MiB ahead)                                    '------ of each worker -----'
//! ```
//!
//! A panel is a few ten to a few hundred KiB. It is made by the worker that multiplies it, in memory
//! of that worker which stays in the core's own cache: no panel travels to main memory and back, all
//! threads work all the time, and streaming a model of any size needs one panel a thread. What makes
//! reading overlap computing is the system's cache of the file: it can take its pages back at
//! any time and does not count them as this process's.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvist_base::{Bytes, QuantFormat};
use kvist_kernels::{Isa, PANEL_ROWS, PanelFeed, WorkerLocal, pack_panel, panel_bytes};

use super::arena::Arena;
use super::weights::Prepared;
use crate::error::DeviceError;
use crate::ops::Op;
use crate::{SharedBytes, SourceError, StreamStats, WeightSource};

/// How far ahead of its use the file is read: what a fast disk gives in the time that a large step
/// spends between two streamed weights.
const AHEAD_BYTES: usize = 32 << 20;
/// Bytes asked for at a time.
const ASK_BYTES: usize = 4 << 20;
/// Questions the read-ahead thread may be behind; those beyond are dropped, they are only advice.
const ASKS_MAX: usize = 64;

/// Bytes each thread needs to stream matrices of `cols` input features, or `None` when a row is not
/// whole quant blocks.
pub fn stream_buffer_bytes(format: QuantFormat, cols: usize) -> Option<Bytes> {
    Some(Bytes::of_len(PanelSizes::new(format, cols)?.buffer()?))
}

/// Sizes of one panel in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PanelSizes {
    /// A row as the file has it.
    row: usize,
    /// All its rows, and what makes the packed panel after them begin a cache line.
    raw: usize,
    /// The panel.
    pub(super) packed: usize,
}

impl PanelSizes {
    fn new(format: QuantFormat, cols: usize) -> Option<Self> {
        let row = format.row_bytes(cols)?;
        Some(Self {
            row,
            raw: row
                .checked_mul(PANEL_ROWS)?
                .checked_next_multiple_of(CACHE_LINE)?,
            packed: panel_bytes(format, cols)?,
        })
    }

    pub(super) fn of(source: &WeightSource) -> Option<Self> {
        Self::new(source.format, source.cols)
    }

    fn buffer(self) -> Option<usize> {
        self.raw.checked_add(self.packed)
    }
}

const CACHE_LINE: usize = 64;

/// Reads and packs panels of one weight.
pub(super) struct PanelReader<'a> {
    isa: Isa,
    source: &'a WeightSource,
    sizes: PanelSizes,
}

impl<'a> PanelReader<'a> {
    pub(super) fn new(isa: Isa, source: &'a WeightSource, sizes: PanelSizes) -> Self {
        Self { isa, source, sizes }
    }

    /// The file's rows of panel `index`, in the front of `buffer`.
    pub(super) fn fetch<'b>(
        &self,
        index: usize,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], SourceError> {
        let first = index * PANEL_ROWS;
        let rows = PANEL_ROWS.min(self.source.rows - first);
        let raw = &mut buffer[..rows * self.sizes.row];
        self.source.bytes.read_at(first * self.sizes.row, raw)?;
        Ok(raw)
    }

    /// Rows that were fetched, as a panel.
    pub(super) fn pack(&self, raw: &[u8], out: &mut [u8]) {
        let shape = (self.source.format, self.source.cols);
        pack_panel(self.isa, shape, raw, out);
    }
}

/// The first error of tasks that run side by side; once there is one the others do nothing.
#[derive(Default)]
pub(super) struct FirstError(Mutex<Option<SourceError>>);

impl FirstError {
    pub(super) fn watch(&self, task: impl FnOnce() -> Result<(), SourceError>) {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().is_some() {
            return;
        }
        if let Err(error) = task() {
            lock().get_or_insert(error);
        }
    }

    pub(super) fn into_result(self) -> Result<(), DeviceError> {
        match self.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(DeviceError::Unreadable(error)),
            None => Ok(()),
        }
    }
}

/// A device's streaming: one buffer a worker, and the thread that reads ahead.
#[derive(Default)]
pub(super) struct Stream {
    buffers: Option<WorkerLocal<Arena<u8>>>,
    /// Bytes of each buffer.
    buffer_len: usize,
    /// Bytes that the largest panel of a streamed weight needs.
    needed: usize,
    ahead: Option<ReadAhead>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    panels: AtomicU64,
    nanos: AtomicU64,
}

impl Stream {
    /// Gets ready for a streamed weight.
    pub(super) fn admit(&mut self, sizes: PanelSizes) -> Result<(), DeviceError> {
        let too_large = DeviceError::OutOfMemory {
            label: LABEL,
            wanted: Bytes(u64::MAX),
        };
        self.needed = self.needed.max(sizes.buffer().ok_or(too_large)?);
        if self.ahead.is_none() {
            self.ahead = Some(ReadAhead::start()?);
        }
        Ok(())
    }

    /// Buffers for reading weights that will be packed once, while loading.
    pub(super) fn loading_buffers(
        &mut self,
        threads: usize,
        sizes: PanelSizes,
    ) -> Result<&WorkerLocal<Arena<u8>>, DeviceError> {
        if self.buffer_len < sizes.raw || self.buffers.is_none() {
            self.resize(threads, self.buffer_len.max(sizes.raw))?;
        }
        Ok(self.buffers.as_ref().expect("resize makes buffers"))
    }

    /// Keeps the memory that streaming needs and no more.
    pub(super) fn settle(&mut self, threads: usize) -> Result<(), DeviceError> {
        if self.needed == 0 {
            (self.buffers, self.buffer_len) = (None, 0);
            return Ok(());
        }
        if self.buffer_len != self.needed {
            self.resize(threads, self.needed)?;
        }
        Ok(())
    }

    /// Bytes of all buffers.
    pub(super) fn held(&self) -> Bytes {
        let workers = self.buffers.as_ref().map_or(0, WorkerLocal::workers);
        Bytes::of_len(self.buffer_len * workers)
    }

    fn resize(&mut self, threads: usize, len: usize) -> Result<(), DeviceError> {
        self.buffers = None;
        let buffers = (0..threads).map(|_| Arena::new(LABEL, len));
        self.buffers = Some(WorkerLocal::new(buffers.collect::<Result<_, _>>()?));
        self.buffer_len = len;
        Ok(())
    }

    pub(super) fn stats(&self) -> StreamStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamStats {
            bytes_read: Bytes(read(&self.counters.bytes)),
            panels: read(&self.counters.panels),
            read_time: Duration::from_nanos(read(&self.counters.nanos)),
        }
    }

    /// A run begins: learns the order in which it will need streamed weights.
    pub(super) fn begin(
        &mut self,
        (ops, weights): (&[Op], &[Prepared]),
        threads: usize,
    ) -> Result<(), DeviceError> {
        let Some(ahead) = &mut self.ahead else {
            return Ok(());
        };
        ahead.begin(ops, weights)?;
        if self.buffer_len < self.needed {
            self.resize(threads, self.needed)?;
        }
        Ok(())
    }

    /// A streamed weight of `len` bytes comes next.
    pub(super) fn advance(&mut self, len: usize, weights: &[Prepared]) -> Result<(), DeviceError> {
        match &mut self.ahead {
            Some(ahead) => ahead.advance(len, weights),
            None => Ok(()),
        }
    }

    /// A run broke off: what was asked for is no longer what comes next.
    pub(super) fn lose_place(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.order.clear();
        }
    }

    /// The panels of a weight, for one product.
    pub(super) fn feed<'a>(
        &'a self,
        isa: Isa,
        source: &'a WeightSource,
    ) -> Result<FileFeed<'a>, DeviceError> {
        source.bytes.check().map_err(DeviceError::Unreadable)?;
        let sizes = PanelSizes::of(source).expect("checked when the weight was taken over");
        Ok(FileFeed {
            reader: PanelReader::new(isa, source, sizes),
            buffers: self.buffers.as_ref().expect("a run begins with buffers"),
            counters: &self.counters,
            failure: FirstError::default(),
        })
    }
}

const LABEL: &str = "buffers for streaming weights";

/// Panels out of a file, for one product.
pub(super) struct FileFeed<'a> {
    reader: PanelReader<'a>,
    buffers: &'a WorkerLocal<Arena<u8>>,
    counters: &'a Counters,
    failure: FirstError,
}

impl FileFeed<'_> {
    /// Whether every panel could be had.
    pub(super) fn finish(self) -> Result<(), DeviceError> {
        self.failure.into_result()
    }
}

impl PanelFeed for FileFeed<'_> {
    fn panel(&self, index: usize, worker: usize, multiply: &mut dyn FnMut(&[u8])) {
        let sizes = self.reader.sizes;
        self.buffers.with(worker, |buffer| {
            let (raw, packed) = buffer.split_at_mut(sizes.raw);
            let packed = &mut packed[..sizes.packed];
            self.failure.watch(|| {
                let begun = Instant::now();
                let raw = self.reader.fetch(index, raw)?;
                self.counters.count(raw.len(), begun.elapsed());
                self.reader.pack(raw, packed);
                multiply(packed);
                Ok(())
            });
        });
    }
}

impl Counters {
    fn count(&self, bytes: usize, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.panels.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// A part of a weight that will be read soon.
struct Ask {
    bytes: SharedBytes,
    part: Range<usize>,
}

/// Knows which weights come next and has them read ahead. Runs repeat: what follows the last
/// streamed weight of one is the first of the next.
struct ReadAhead {
    /// Streamed weights in the order of the run.
    order: Vec<u32>,
    /// The order of a run that begins, to be compared.
    fresh: Vec<u32>,
    /// What to ask for next: a position in `order`, and bytes of that weight.
    next: (usize, usize),
    /// Bytes asked for that no product has come to yet.
    asked: usize,
    /// Bytes of all weights in `order`.
    total: usize,
    asks: Option<SyncSender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

impl ReadAhead {
    fn start() -> Result<Self, DeviceError> {
        let (asks, received) = sync_channel(ASKS_MAX);
        let thread = thread::Builder::new()
            .name("kvist-stream".to_owned())
            .spawn(move || serve(&received))
            .map_err(DeviceError::Threads)?;
        Ok(Self {
            order: Vec::new(),
            fresh: Vec::new(),
            next: (0, 0),
            asked: 0,
            total: 0,
            asks: Some(asks),
            thread: Some(thread),
        })
    }

    fn begin(&mut self, ops: &[Op], weights: &[Prepared]) -> Result<(), DeviceError> {
        self.fresh.clear();
        let matrices = ops.iter().flat_map(Op::matrices).map(|weight| weight.idx);
        self.fresh
            .extend(matrices.filter(|idx| streamed(weights, *idx).is_some()));
        if self.fresh.is_empty() {
            return Ok(());
        }
        if self.fresh != self.order {
            std::mem::swap(&mut self.fresh, &mut self.order);
            (self.next, self.asked) = ((0, 0), 0);
            let lens = self.order.iter().filter_map(|idx| streamed(weights, *idx));
            self.total = lens.map(|bytes| bytes.byte_len()).sum();
        }
        self.ask_up_to(AHEAD_BYTES.min(self.total), weights)
    }

    fn advance(&mut self, len: usize, weights: &[Prepared]) -> Result<(), DeviceError> {
        self.ask_up_to(len.saturating_add(AHEAD_BYTES.min(self.total)), weights)?;
        self.asked = self.asked.saturating_sub(len);
        Ok(())
    }

    fn ask_up_to(&mut self, wanted: usize, weights: &[Prepared]) -> Result<(), DeviceError> {
        while self.asked < wanted {
            let (place, start) = self.next;
            let idx = self.order.get(place).copied();
            let Some(bytes) = idx.and_then(|idx| streamed(weights, idx)) else {
                return Ok(());
            };
            let end = bytes.byte_len().min(start.saturating_add(ASK_BYTES));
            self.send(bytes, start..end)?;
            self.asked += end - start;
            self.next = if end < bytes.byte_len() {
                (place, end)
            } else {
                ((place + 1) % self.order.len(), 0)
            };
            if self.total == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn send(&self, bytes: &SharedBytes, part: Range<usize>) -> Result<(), DeviceError> {
        let ask = Ask {
            bytes: SharedBytes::clone(bytes),
            part,
        };
        match self.asks.as_ref().map(|asks| asks.try_send(ask)) {
            // A full queue means that the disk is behind: the product will wait for its bytes itself.
            Some(Ok(()) | Err(TrySendError::Full(_))) => Ok(()),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(DeviceError::ReadAheadEnded),
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(thread) = self.thread.take() {
            // Its panics have been errors of the runs that met them.
            let _ = thread.join();
        }
    }
}

fn serve(asks: &Receiver<Ask>) {
    while let Ok(Ask { bytes, part }) = asks.recv() {
        bytes.will_need(part);
    }
}

/// The bytes of a weight, if it is streamed.
fn streamed(weights: &[Prepared], idx: u32) -> Option<&SharedBytes> {
    match weights.get(idx as usize) {
        Some(Prepared::Streamed(source)) => Some(&source.bytes),
        _ => None,
    }
}
