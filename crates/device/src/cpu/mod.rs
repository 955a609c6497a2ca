//! The CPU as a device: owns memory and threads, checks every operation, calls the kernels.

#[allow(unsafe_code)] // anonymous mappings; see ARCHITECTURE.md
mod arena;
mod ceilings;
mod exec;
mod extents;
mod kv;
mod product;
mod scratch;
mod slabs;
mod stream;
mod weights;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use kvist_base::{BlockId, Bytes};
use kvist_kernels::{ActWidths, Activations, Isa, Pool};

use crate::cpu::arena::Arena;
pub use crate::cpu::ceilings::Ceilings;
use crate::cpu::kv::KvPool;
pub use crate::cpu::scratch::{attention_scratch_bytes, input_scratch_bytes};
use crate::cpu::slabs::{Slab, Slabs};
use crate::cpu::stream::Stream;
pub use crate::cpu::stream::stream_buffer_bytes;
use crate::cpu::weights::{Prepared, Shelf};
use crate::error::DeviceError;
use crate::ops::{Buf, BufSpec, Element, KvCache, KvSpec, Op, Weight};
use crate::{
    Caps, Device, DeviceMemory, Residence, SequenceSpan, StreamStats, WeightShape, WeightSource,
};

/// How to set up the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads that compute, the calling one included.
    pub threads: NonZeroUsize,
    /// The instruction tier.
    pub isa: Isa,
}

/// The CPU as a device.
pub struct CpuDevice {
    isa: Isa,
    pool: Arc<Pool>,
    caps: Caps,
    slabs: Slabs,
    weights: Vec<Prepared>,
    shelf: Shelf,
    stream: Stream,
    kv_pools: Vec<KvPool>,
    scratch: Scratch,
    /// Widest inputs of products.
    widths: ActWidths,
    weight_bytes: Bytes,
    buffers: Vec<(&'static str, Bytes)>,
}

/// Memory of one operation, kept between them.
struct Scratch {
    /// The input of the last product, in the form its kernel reads: q, k and v, or gate and up,
    /// share one preparation.
    activations: Activations,
    activation_bytes: Bytes,
    prepared: Option<product::PreparedInput>,
    /// One row of the widest table that lookups read from its file.
    table_row: Vec<u8>,
    spans: Vec<kvist_kernels::SequenceSpan>,
}

impl CpuDevice {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(options: CpuOptions) -> Result<Self, DeviceError> {
        let pool = Pool::new(options.threads).map_err(DeviceError::Threads)?;
        Ok(Self::on(options.isa, Arc::new(pool)))
    }

    /// A device with memory of its own that computes on the same threads: for a second model, whose
    /// bytes are counted apart. The two run operations in turn, not at once.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self::on(self.isa, Arc::clone(&self.pool))
    }

    fn on(isa: Isa, pool: Arc<Pool>) -> Self {
        let threads = pool.threads();
        Self {
            isa,
            caps: Caps {
                name: format!("cpu ({isa}, {threads} threads)"),
                isa: isa.name(),
                threads,
            },
            slabs: Slabs::default(),
            weights: Vec::new(),
            shelf: Shelf::default(),
            stream: Stream::default(),
            kv_pools: Vec::new(),
            scratch: Scratch {
                activations: Activations::with_capacity(0, ActWidths::default()),
                activation_bytes: Bytes::ZERO,
                prepared: None,
                table_row: Vec::new(),
                spans: Vec::new(),
            },
            pool,
            widths: ActWidths::default(),
            weight_bytes: Bytes::ZERO,
            buffers: Vec::new(),
        }
    }
}

impl Device for CpuDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn memory(&self) -> DeviceMemory {
        let pools = || self.kv_pools.iter();
        DeviceMemory {
            weights: self.weight_bytes,
            stream_ring: self.stream.held(),
            buffers: self.buffers.clone(),
            scratch: self.scratch.activation_bytes + pools().map(KvPool::scratch).sum(),
            kv_reserved: pools().map(KvPool::reserved).sum(),
            kv_committed: pools().map(KvPool::committed).sum(),
        }
    }

    fn alloc(&mut self, spec: BufSpec) -> Result<Buf, DeviceError> {
        let slab = match spec.element {
            Element::F32 => Slab::F32(Arena::new(spec.label, spec.len)?),
            Element::U32 => Slab::U32(Arena::new(spec.label, spec.len)?),
        };
        let bytes = Bytes::of_len(spec.len) * 4;
        match self.buffers.iter_mut().find(|of| of.0 == spec.label) {
            Some((_, sum)) => *sum += bytes,
            None => self.buffers.push((spec.label, bytes)),
        }
        Ok(self.slabs.push(slab))
    }

    fn alloc_kv(&mut self, spec: KvSpec) -> Result<KvCache, DeviceError> {
        let pool = KvPool::new(spec, self.pool.threads())?;
        self.kv_pools.push(pool);
        Ok(KvCache(handle(self.kv_pools.len() - 1)))
    }

    fn kv_block_bytes(&self, kv: KvCache) -> usize {
        self.pool(kv).block_bytes()
    }

    fn kv_committed(&self, kv: KvCache) -> Bytes {
        self.pool(kv).committed()
    }

    fn kv_is_committed(&self, kv: KvCache, block: BlockId) -> bool {
        self.pool(kv).is_committed(block.idx())
    }

    fn kv_release(&mut self, kv: KvCache, blocks: Range<u32>) -> Bytes {
        self.pool_mut(kv).release(blocks)
    }

    fn kv_copy(&mut self, kv: KvCache, from: BlockId, to: BlockId) -> Result<(), DeviceError> {
        self.pool_mut(kv).copy(from.idx(), to.idx())
    }

    fn kv_read(&self, kv: KvCache, block: BlockId, out: &mut [u8]) -> Result<(), DeviceError> {
        self.pool(kv).read(block.idx(), out)
    }

    fn kv_load(&mut self, kv: KvCache, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.pool_mut(kv).load(block.idx(), bytes)
    }

    fn expect_packed(&mut self, shapes: &[WeightShape]) -> Result<(), DeviceError> {
        self.make_shelf(shapes)
    }

    fn prepare(
        &mut self,
        source: WeightSource,
        residence: Residence,
    ) -> Result<Weight, DeviceError> {
        self.take_weight(source, residence)
    }

    fn reserve(&mut self, tokens_max: usize) -> Result<(), DeviceError> {
        self.scratch.activations = Activations::with_capacity(tokens_max, self.widths);
        self.scratch.prepared = None;
        let bytes = Activations::bytes_for(tokens_max, self.widths);
        self.scratch.activation_bytes = Bytes::of_len(bytes);
        self.stream.settle(self.pool.threads())
    }

    fn stream_stats(&self) -> StreamStats {
        self.stream.stats()
    }

    fn write_f32(&mut self, buf: Buf, values: &[f32]) -> Result<(), DeviceError> {
        self.scratch.forget(buf);
        slabs::front_mut(
            "write_f32",
            buf,
            self.slabs.f32_mut("write_f32", buf)?,
            values.len(),
        )?
        .copy_from_slice(values);
        Ok(())
    }

    fn write_u32(&mut self, buf: Buf, values: &[u32]) -> Result<(), DeviceError> {
        slabs::front_mut(
            "write_u32",
            buf,
            self.slabs.u32_mut("write_u32", buf)?,
            values.len(),
        )?
        .copy_from_slice(values);
        Ok(())
    }

    fn write_spans(&mut self, buf: Buf, spans: &[SequenceSpan]) -> Result<(), DeviceError> {
        let values = self.slabs.u32_mut("write_spans", buf)?;
        let values = slabs::front_mut("write_spans", buf, values, spans.len() * 4)?;
        for (fields, span) in values.chunks_exact_mut(4).zip(spans) {
            fields.copy_from_slice(&[
                span.first_row,
                span.rows,
                span.first_position,
                span.table_start,
            ]);
        }
        Ok(())
    }

    fn read_f32(&self, buf: Buf) -> Result<&[f32], DeviceError> {
        self.slabs.f32("read_f32", buf)
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        self.stream
            .begin((ops, &self.weights), self.pool.threads())?;
        let result = ops.iter().try_for_each(|op| self.execute(op));
        if result.is_err() {
            self.stream.lose_place();
        }
        result
    }
}

/// Handles are list positions; a list that outgrows u32 would hold more buffers than memory has pages.
fn handle(idx: usize) -> u32 {
    u32::try_from(idx).expect("fewer than 2^32 handles")
}
