//! One object-safe device trait, operations as data, and the CPU that runs them.
//!
//! A model's forward pass is a list of [`Op`]s over handles. The same list runs on every device,
//! can be compared op by op with the CPU in tests, and could be recorded and replayed: everything
//! that changes between steps lives in buffers, only counts are in the list.

mod batch;
mod cpu;
mod error;
mod ops;

pub use batch::{ForwardBatch, SequenceSpan};
pub use cpu::{
    Ceilings, CpuDevice, CpuOptions, attention_scratch_bytes, input_scratch_bytes,
    stream_buffer_bytes,
};
pub use error::DeviceError;
pub use kvist_kernels::RopeStyle;
pub use kvist_kernels::quant::decode_row;
pub use ops::{
    AttentionOp, Buf, BufSpec, Element, Epilogue, GatedOp, KvCache, KvReaders, KvSpec, KvWriteOp,
    MatmulOp, Op, Projection, QkvOp, RopeOp, Weight,
};

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kvist_base::{BlockId, Bytes, QuantFormat};

/// What a device is.
#[derive(Clone, Debug)]
pub struct Caps {
    /// Name for reports: `cpu (avx2, 2 threads)`.
    pub name: String,
    /// The instruction tier or chip family.
    pub isa: &'static str,
    /// Threads or queues that compute.
    pub threads: usize,
}

/// What goes wrong with the bytes of a weight: names the file.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// The bytes of a weight, where its file has them.
pub trait WeightBytes: Send + Sync {
    /// How many there are.
    fn byte_len(&self) -> usize;

    /// Copies bytes from `at` on.
    ///
    /// # Errors
    /// When they cannot be read, or are not there any more.
    fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), SourceError>;

    /// Advice that a part will be read soon. Must not wait for it to be read.
    fn will_need(&self, part: Range<usize>);

    /// Checks that the bytes are still those that were given to the device.
    ///
    /// # Errors
    /// When the file has been written to.
    fn check(&self) -> Result<(), SourceError>;
}

/// Bytes in memory: nothing to wait for, nothing that changes.
impl WeightBytes for Vec<u8> {
    fn byte_len(&self) -> usize {
        self.len()
    }

    fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), SourceError> {
        let end = at.checked_add(out.len());
        match end.and_then(|end| self.get(at..end)) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => {
                let (given, limit) = (out.len(), self.len());
                return Err(format!("{given} bytes at {at} of {limit}").into());
            }
        }
        Ok(())
    }

    fn will_need(&self, _: Range<usize>) {}

    fn check(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Bytes of a weight; cheap to clone, keeps its file open.
pub type SharedBytes = Arc<dyn WeightBytes>;

/// A weight as a file stores it.
#[derive(Clone)]
pub struct WeightSource {
    /// Encoding.
    pub format: QuantFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `rows` rows of `format.row_bytes(cols)` bytes.
    pub bytes: SharedBytes,
}

/// A weight that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Encoding.
    pub format: QuantFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// How a weight is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// Repacked once into the device's own layout: for matrix products, and for lookups into a
    /// table that is also used as a matrix.
    Packed,
    /// Left in the file, of which lookups read their rows: for tables of which a step needs few.
    Mapped,
    /// Left in the file; products read and repack it panel by panel as they go. For matrices that
    /// memory has no room for. Results have the same bits as those of [`Residence::Packed`].
    Streamed,
}

/// What streaming weights has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Bytes of weights read from files for products.
    pub bytes_read: Bytes,
    /// Panels read and repacked.
    pub panels: u64,
    /// Time spent in reads, copying included, summed over threads.
    pub read_time: Duration,
}

/// Bytes a weight takes as [`Residence::Packed`] on the CPU, `None` when its columns are not whole
/// quant blocks. The other residences take none: their pages belong to the file.
pub fn packed_weight_bytes(format: QuantFormat, rows: usize, cols: usize) -> Option<Bytes> {
    kvist_kernels::packed_bytes(format, rows, cols).map(Bytes::of_len)
}

/// What a device holds, by purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Packed weights. Others are in their files.
    pub weights: Bytes,
    /// Memory that panels of streamed weights are made in; nothing when none are.
    pub stream_ring: Bytes,
    /// Buffers by label, in the order the labels were first used.
    pub buffers: Vec<(&'static str, Bytes)>,
    /// Memory of single operations: prepared inputs of products, partial results of attention.
    pub scratch: Bytes,
    /// Address range of the KV pools.
    pub kv_reserved: Bytes,
    /// The pools' [`Device::kv_committed`].
    pub kv_committed: Bytes,
}

/// A processor that owns buffers and runs operations on them.
///
/// Methods take `&mut self`: one engine thread owns a device, and parallelism is inside `run`.
pub trait Device: Send {
    /// What this device is.
    fn caps(&self) -> &Caps;

    /// What this device holds, by purpose.
    fn memory(&self) -> DeviceMemory;

    /// A zeroed buffer.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with the label and the size.
    fn alloc(&mut self, spec: BufSpec) -> Result<Buf, DeviceError>;

    /// Address range for a KV pool. Memory is committed as blocks are first written and given back
    /// by [`Device::kv_release`].
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when not even the address range can be had.
    fn alloc_kv(&mut self, spec: KvSpec) -> Result<KvCache, DeviceError>;

    /// Bytes of one block of the pool.
    fn kv_block_bytes(&self, kv: KvCache) -> usize;

    /// An upper bound of the memory the pool holds: what was written and not given back, in the
    /// units the system commits. On the CPU these are 2 MiB, or a page in pools below that, so the
    /// bound exceeds the written blocks by less than one unit for each run of them, and never
    /// exceeds the reserved range in whole pages.
    fn kv_committed(&self, kv: KvCache) -> Bytes;

    /// Whether the bound counts all of a block's memory.
    ///
    /// # Panics
    /// When the block is not of this pool.
    fn kv_is_committed(&self, kv: KvCache, block: BlockId) -> bool;

    /// Gives the memory of blocks nobody wants any more back to the system, and says how much that
    /// was. Memory shared with a neighbouring block in use goes back when that block is released
    /// too: pass whole runs where possible. Content is undefined until written again.
    ///
    /// # Panics
    /// When the run is not of this pool.
    fn kv_release(&mut self, kv: KvCache, blocks: Range<u32>) -> Bytes;

    /// Copies a block's content, all layers.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] for a block that is not of this pool.
    fn kv_copy(&mut self, kv: KvCache, from: BlockId, to: BlockId) -> Result<(), DeviceError>;

    /// A block's content as bytes, for [`Device::kv_load`] of a pool of the same shape.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] for a block that is not of this pool, or when `out` has not
    /// [`Device::kv_block_bytes`].
    fn kv_read(&self, kv: KvCache, block: BlockId, out: &mut [u8]) -> Result<(), DeviceError>;

    /// Replaces a block's content.
    ///
    /// # Errors
    /// As [`Device::kv_read`].
    fn kv_load(&mut self, kv: KvCache, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Address range for the weights that will be prepared as [`Residence::Packed`], so that they lie side by
    /// side; those it has no room for get memory of their own. Called before the first of them.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] when not even the address range can be had.
    fn expect_packed(&mut self, shapes: &[WeightShape]) -> Result<(), DeviceError>;

    /// Takes over a weight.
    ///
    /// # Errors
    /// When the source's size does not match its shape, or memory runs out.
    fn prepare(
        &mut self,
        source: WeightSource,
        residence: Residence,
    ) -> Result<Weight, DeviceError>;

    /// Sizes the device's own scratch for steps of up to `tokens_max` rows through the weights
    /// prepared so far, so that no step allocates.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn reserve(&mut self, tokens_max: usize) -> Result<(), DeviceError>;

    /// What streaming weights has cost since the device was made.
    fn stream_stats(&self) -> StreamStats;

    /// Copies values into the front of an f32 buffer.
    ///
    /// # Errors
    /// When the buffer is shorter or of another element type.
    fn write_f32(&mut self, buf: Buf, values: &[f32]) -> Result<(), DeviceError>;

    /// Copies values into the front of a u32 buffer.
    ///
    /// # Errors
    /// When the buffer is shorter or of another element type.
    fn write_u32(&mut self, buf: Buf, values: &[u32]) -> Result<(), DeviceError>;

    /// Copies spans into the front of a u32 buffer, four elements each.
    ///
    /// # Errors
    /// As [`Device::write_u32`].
    fn write_spans(&mut self, buf: Buf, spans: &[SequenceSpan]) -> Result<(), DeviceError>;

    /// The contents of an f32 buffer after all operations run so far.
    ///
    /// # Errors
    /// When the buffer is of another element type.
    fn read_f32(&self, buf: Buf) -> Result<&[f32], DeviceError>;

    /// Runs operations in order.
    ///
    /// # Errors
    /// [`DeviceError`] names the operation at fault; buffers it would have written are undefined
    /// then, all others are untouched.
    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError>;
}
