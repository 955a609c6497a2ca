//! The CPU as a device: owns memory and threads, checks every operation, calls the kernels.

#[allow(unsafe_code)] // anonymous mappings; see ARCHITECTURE.md
mod arena;
mod exec;
mod slabs;

use std::num::NonZeroUsize;

use kvist_base::{Bytes, KvDtype};
use kvist_kernels::{
    Activations, AttentionLimits, AttentionScratch, Isa, KvLayout, PANEL_ROWS, PanelMatrix, Pool,
    for_each_chunk, pack_panel, packed_bytes, panel_bytes,
};

use crate::cpu::arena::Arena;
use crate::cpu::slabs::{Slab, Slabs};
use crate::error::DeviceError;
use crate::ops::{Buf, BufSpec, Element, KvCache, KvSpec, Op, Weight};
use crate::{Caps, Device, Residence, SequenceSpan, SharedBytes, WeightSource};

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
    pool: Pool,
    caps: Caps,
    slabs: Slabs,
    weights: Vec<Prepared>,
    kv_pools: Vec<KvPool>,
    scratch: Scratch,
    /// Widest input of any product.
    cols_max: usize,
    allocated: Bytes,
}

/// A weight as this device keeps it.
enum Prepared {
    Packed(Arena<u8>),
    Mapped(SharedBytes),
}

struct KvPool {
    spec: KvSpec,
    layout: KvLayout,
    values: KvValues,
    attention: AttentionScratch,
}

enum KvValues {
    F16(Arena<u16>),
    F32(Arena<f32>),
}

/// Memory of one operation, kept between them.
struct Scratch {
    /// The input of the last product, in the form its kernel reads: q, k and v, or gate and up,
    /// share one preparation.
    activations: Activations,
    prepared: Option<exec::PreparedInput>,
    spans: Vec<kvist_kernels::SequenceSpan>,
}

impl CpuDevice {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(options: CpuOptions) -> Result<Self, DeviceError> {
        let pool = Pool::new(options.threads).map_err(DeviceError::Threads)?;
        let threads = pool.threads();
        Ok(Self {
            isa: options.isa,
            caps: Caps {
                name: format!("cpu ({}, {threads} threads)", options.isa),
                isa: options.isa.name(),
                threads,
            },
            slabs: Slabs::default(),
            weights: Vec::new(),
            kv_pools: Vec::new(),
            scratch: Scratch {
                activations: Activations::with_capacity(0, 0),
                prepared: None,
                spans: Vec::new(),
            },
            pool,
            cols_max: 0,
            allocated: Bytes::ZERO,
        })
    }

    fn pack(&self, source: &WeightSource, raw: &[u8]) -> Result<Arena<u8>, DeviceError> {
        let sizes = (
            packed_bytes(source.format, source.rows, source.cols),
            panel_bytes(source.format, source.cols),
            source.format.row_bytes(source.cols),
        );
        let (Some(packed_len), Some(panel_len), Some(row_len)) = sizes else {
            return Err(bad_weight(source, raw.len()));
        };
        let mut packed = Arena::new("packed weights", packed_len)?;
        for_each_chunk(&self.pool, &mut packed, panel_len, &|panel, out| {
            let first = panel * PANEL_ROWS;
            let rows = PANEL_ROWS.min(source.rows - first);
            let raw_rows = &raw[first * row_len..(first + rows) * row_len];
            pack_panel(source.format, raw_rows, source.cols, out);
        });
        Ok(packed)
    }

    /// The prepared weight as a matrix for the kernels.
    fn matrix(&self, op: &'static str, weight: Weight) -> Result<PanelMatrix<'_>, DeviceError> {
        match &self.weights[weight.idx as usize] {
            Prepared::Packed(data) => {
                PanelMatrix::new(weight.format, weight.rows, weight.cols, data)
            }
            Prepared::Mapped(_) => None,
        }
        .ok_or(DeviceError::NotAMatrix { op })
    }
}

fn bad_weight(source: &WeightSource, given: usize) -> DeviceError {
    DeviceError::BadWeight {
        format: source.format,
        rows: source.rows,
        cols: source.cols,
        expected: source
            .format
            .row_bytes(source.cols)
            .and_then(|row| row.checked_mul(source.rows)),
        given,
    }
}

impl Device for CpuDevice {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn allocated(&self) -> Bytes {
        self.allocated
    }

    fn alloc(&mut self, spec: BufSpec) -> Result<Buf, DeviceError> {
        let slab = match spec.element {
            Element::F32 => Slab::F32(Arena::new(spec.label, spec.len)?),
            Element::U32 => Slab::U32(Arena::new(spec.label, spec.len)?),
        };
        self.allocated += Bytes::of_len(spec.len) * 4;
        Ok(self.slabs.push(slab))
    }

    fn alloc_kv(&mut self, spec: KvSpec) -> Result<KvCache, DeviceError> {
        let layout = KvLayout {
            block_size: spec.block_size,
            layers: spec.layers,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
        };
        let len =
            spec.blocks
                .checked_mul(layout.block_values())
                .ok_or(DeviceError::OutOfMemory {
                    label: "kv pool",
                    wanted: Bytes(u64::MAX),
                })?;
        let values = match spec.dtype {
            KvDtype::F16 => KvValues::F16(Arena::new("kv pool", len)?),
            KvDtype::F32 => KvValues::F32(Arena::new("kv pool", len)?),
        };
        self.allocated += Bytes::of_len(len) * spec.dtype.value_bytes();
        let limits = AttentionLimits {
            threads: self.pool.threads(),
            tokens_max: spec.readers.tokens_max,
            context_max: spec.readers.context_max,
            heads: spec.readers.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
        };
        self.allocated += Bytes::of_len(AttentionScratch::bytes(&limits));
        let attention = AttentionScratch::new(&limits);
        self.kv_pools.push(KvPool {
            spec,
            layout,
            values,
            attention,
        });
        Ok(KvCache(handle(self.kv_pools.len() - 1)))
    }

    fn prepare(
        &mut self,
        source: WeightSource,
        residence: Residence,
    ) -> Result<Weight, DeviceError> {
        let raw: &[u8] = (*source.bytes).as_ref();
        let expected = source
            .format
            .row_bytes(source.cols)
            .and_then(|row| row.checked_mul(source.rows));
        if expected != Some(raw.len()) {
            return Err(bad_weight(&source, raw.len()));
        }
        let prepared = match residence {
            Residence::Packed => {
                let packed = self.pack(&source, raw)?;
                self.allocated += Bytes::of_len(packed.len());
                self.cols_max = self.cols_max.max(source.cols);
                Prepared::Packed(packed)
            }
            Residence::Mapped => Prepared::Mapped(source.bytes),
        };
        self.weights.push(prepared);
        Ok(Weight {
            idx: handle(self.weights.len() - 1),
            rows: source.rows,
            cols: source.cols,
            format: source.format,
        })
    }

    fn reserve(&mut self, tokens_max: usize) {
        self.scratch.activations = Activations::with_capacity(tokens_max, self.cols_max);
        self.scratch.prepared = None;
        self.allocated += Bytes::of_len(Activations::bytes_for(tokens_max, self.cols_max));
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
        ops.iter().try_for_each(|op| self.execute(op))
    }
}

/// Handles are list positions; a list that outgrows u32 would hold more buffers than memory has pages.
fn handle(idx: usize) -> u32 {
    u32::try_from(idx).expect("fewer than 2^32 handles")
}
