//! KV pools: an arena of blocks that grows as they are written and shrinks as they are released,
//! and the operations on it.

use std::ops::Range;

use kvist_base::Bytes;
use kvist_kernels::{
    self as kernels, AttentionBatch, AttentionScratch, KvLayout, KvView, SequenceSpan,
};

use super::CpuDevice;
use super::arena::Arena;
use super::extents::Extents;
use super::scratch::attention_limits;
use super::slabs::{Lent, front};
use crate::error::DeviceError;
use crate::ops::{AttentionOp, KvCache, KvSpec, KvWriteOp};

/// One KV pool.
pub(super) struct KvPool {
    spec: KvSpec,
    layout: KvLayout,
    arena: Arena<u8>,
    extents: Extents,
    attention: AttentionScratch,
    scratch_bytes: usize,
}

impl KvPool {
    /// Reserves the address range of all blocks; commits none of it.
    pub(super) fn new(spec: KvSpec, threads: usize) -> Result<Self, DeviceError> {
        const LABEL: &str = "kv pool";
        let layout = KvLayout {
            block_size: spec.block_size,
            layers: spec.layers,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            dtype: spec.dtype,
        };
        let bytes = spec.blocks.checked_mul(layout.block_bytes());
        let bytes = bytes.ok_or(DeviceError::OutOfMemory {
            label: LABEL,
            wanted: Bytes(u64::MAX),
        })?;
        let arena = Arena::new(LABEL, bytes)?;
        let extents = Extents::new(
            (spec.blocks, layout.block_bytes()),
            (arena.paged_bytes(), arena.extent_bytes()),
        );
        let limits = attention_limits(&spec, threads);
        Ok(Self {
            spec,
            layout,
            arena,
            extents,
            attention: AttentionScratch::new(&limits),
            scratch_bytes: AttentionScratch::bytes(&limits),
        })
    }

    pub(super) fn block_bytes(&self) -> usize {
        self.layout.block_bytes()
    }

    pub(super) fn reserved(&self) -> Bytes {
        Bytes::of_len(self.arena.len())
    }

    pub(super) fn committed(&self) -> Bytes {
        Bytes::of_len(self.extents.committed_bytes())
    }

    pub(super) fn is_committed(&self, block: usize) -> bool {
        self.extents.is_committed(block)
    }

    pub(super) fn scratch(&self) -> Bytes {
        Bytes::of_len(self.scratch_bytes)
    }

    pub(super) fn release(&mut self, blocks: Range<u32>) -> Bytes {
        let blocks = blocks.start as usize..blocks.end as usize;
        assert!(
            blocks.start <= blocks.end && blocks.end <= self.spec.blocks,
            "blocks {blocks:?} of {}",
            self.spec.blocks
        );
        let Self { arena, extents, .. } = self;
        // What the system keeps stays counted as committed; there is nothing else to do about it.
        let bytes = extents.release(blocks, |bytes| arena.give_back(bytes).is_ok());
        Bytes::of_len(bytes)
    }

    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<(), DeviceError> {
        let (from_span, to_span) = (self.span("kv_copy", from)?, self.span("kv_copy", to)?);
        self.extents.write(to);
        self.arena.copy_within(from_span, to_span.start);
        Ok(())
    }

    pub(super) fn read(&self, block: usize, out: &mut [u8]) -> Result<(), DeviceError> {
        let span = self.span("kv_read", block)?;
        self.check_len("kv_read", out.len())?;
        out.copy_from_slice(&self.arena[span]);
        Ok(())
    }

    pub(super) fn load(&mut self, block: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let span = self.span("kv_load", block)?;
        self.check_len("kv_load", bytes.len())?;
        self.extents.write(block);
        self.arena[span].copy_from_slice(bytes);
        Ok(())
    }

    /// Where a block's bytes are in the arena.
    fn span(&self, op: &'static str, block: usize) -> Result<Range<usize>, DeviceError> {
        check(op, "block", (self.spec.blocks, block))?;
        let start = block * self.block_bytes();
        Ok(start..start + self.block_bytes())
    }

    fn check_len(&self, op: &'static str, given: usize) -> Result<(), DeviceError> {
        if given == self.block_bytes() {
            return Ok(());
        }
        Err(DeviceError::OutOfRange {
            op,
            what: "length",
            limit: self.block_bytes(),
            given,
        })
    }
}

/// `given` counts from 0 and must stay below `limit`.
fn check(
    op: &'static str,
    what: &'static str,
    (limit, given): (usize, usize),
) -> Result<(), DeviceError> {
    if given < limit {
        return Ok(());
    }
    Err(DeviceError::OutOfRange {
        op,
        what,
        limit,
        given,
    })
}

impl CpuDevice {
    pub(super) fn pool(&self, kv: KvCache) -> &KvPool {
        &self.kv_pools[kv.0 as usize]
    }

    pub(super) fn pool_mut(&mut self, kv: KvCache) -> &mut KvPool {
        &mut self.kv_pools[kv.0 as usize]
    }

    pub(super) fn kv_write(&mut self, op: &KvWriteOp) -> Result<(), DeviceError> {
        const OP: &str = "kv_write";
        let spec = self.pool(op.kv).spec;
        check(OP, "layer", (spec.layers, op.layer))?;
        let slots_total = spec.blocks * spec.block_size;
        self.indices(OP, op.slots, (op.n, "slot", slots_total))?;
        let Self {
            isa,
            slabs,
            kv_pools,
            ..
        } = self;
        let pool = &mut kv_pools[op.kv.0 as usize];
        let dim = spec.kv_heads * spec.head_dim;
        let k = front(OP, op.k, slabs.f32(OP, op.k)?, op.n * dim)?;
        let v = front(OP, op.v, slabs.f32(OP, op.v)?, op.n * dim)?;
        let slots = front(OP, op.slots, slabs.u32(OP, op.slots)?, op.n)?;
        let rows = k.chunks_exact(dim).zip(v.chunks_exact(dim));
        for (slot, (k, v)) in slots.iter().map(|slot| *slot as usize).zip(rows) {
            pool.extents.write(slot / spec.block_size);
            let row = kernels::KvToken {
                layer: op.layer,
                slot,
                k,
                v,
            };
            kernels::kv_write(*isa, &pool.layout, &row, &mut pool.arena);
        }
        Ok(())
    }

    pub(super) fn attention(
        &mut self,
        op: &AttentionOp,
        out: &mut Lent,
    ) -> Result<(), DeviceError> {
        self.check_attention(op)?;
        let Self {
            isa,
            pool,
            slabs,
            kv_pools,
            scratch,
            ..
        } = self;
        let KvPool {
            spec,
            layout,
            arena,
            attention,
            ..
        } = &mut kv_pools[op.kv.0 as usize];
        let dim = op.heads * spec.head_dim;
        let fields = front(
            "attention",
            op.spans,
            slabs.u32("attention", op.spans)?,
            op.sequences * 4,
        )?;
        scratch.spans.clear();
        scratch
            .spans
            .extend(fields.chunks_exact(4).map(|span| SequenceSpan {
                first_row: span[0],
                rows: span[1],
                first_position: span[2],
                table_start: span[3],
            }));
        let tables = slabs.u32("attention", op.block_tables)?;
        let batch = AttentionBatch {
            q: front("attention", op.q, slabs.f32("attention", op.q)?, op.n * dim)?,
            sequences: &scratch.spans,
            block_tables: front("attention", op.block_tables, tables, op.tables_len)?,
            heads: op.heads,
            scale: op.scale,
            layer: op.layer,
            kv: KvView {
                layout: *layout,
                bytes: arena,
            },
        };
        let out = out.front("attention", op.n * dim)?;
        kernels::paged_attention(*isa, pool, &batch, attention, out);
        Ok(())
    }

    /// Every index the kernel will follow, before it does.
    fn check_attention(&self, op: &AttentionOp) -> Result<(), DeviceError> {
        const OP: &str = "attention";
        let spec = self.pool(op.kv).spec;
        let out_of_range = |what, limit, given| DeviceError::OutOfRange {
            op: OP,
            what,
            limit,
            given,
        };
        self.indices(OP, op.block_tables, (op.tables_len, "block", spec.blocks))?;
        check(OP, "layer", (spec.layers, op.layer))?;
        if op.heads == 0 || !op.heads.is_multiple_of(spec.kv_heads) {
            return Err(out_of_range("heads", spec.kv_heads, op.heads));
        }
        let fields = front(
            OP,
            op.spans,
            self.slabs.u32(OP, op.spans)?,
            op.sequences * 4,
        )?;
        for span in fields.chunks_exact(4) {
            let [first_row, rows, first_position, table_start] =
                [0, 1, 2, 3].map(|i| span[i] as usize);
            let last_row = first_row + rows;
            if rows == 0 || last_row > op.n {
                return Err(out_of_range("row", op.n, last_row));
            }
            let last_entry = table_start + (first_position + rows).div_ceil(spec.block_size);
            if last_entry > op.tables_len {
                return Err(out_of_range("block table entry", op.tables_len, last_entry));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::KvReaders;
    use kvist_base::{KvDtype, mix64};

    fn pool(blocks: usize, head_dim: usize) -> KvPool {
        let spec = KvSpec {
            blocks,
            block_size: 16,
            layers: 3,
            kv_heads: 2,
            head_dim,
            dtype: KvDtype::F16,
            readers: KvReaders {
                heads: 2,
                tokens_max: 1,
                context_max: 16,
            },
        };
        KvPool::new(spec, 1).expect("memory for a test")
    }

    fn resident(pool: &KvPool) -> u64 {
        Bytes::of_len(pool.arena.resident_bytes()).0
    }

    #[test]
    fn committed_is_an_upper_bound_of_resident_whatever_is_written_and_released() {
        // 6 KiB a block in small pages; 48 KiB a block in huge ones, 27 MiB in all.
        for (blocks, head_dim) in [(40, 16), (560, 128)] {
            let mut pool = pool(blocks, head_dim);
            let mut content = vec![0u8; pool.block_bytes()];
            let mut written = vec![None; blocks];
            for step in 0..300u64 {
                let pick = |below: usize, salt| {
                    usize::try_from(mix64(step * 8 + salt) % below as u64).expect("small")
                };
                let block = pick(blocks, 0);
                if pick(4, 1) > 0 {
                    let byte = u8::try_from(step % 251 + 1).expect("below 252");
                    content.fill(byte);
                    pool.load(block, &content).expect("valid");
                    written[block] = Some(byte);
                } else {
                    let end = block + 1 + pick((blocks - block).min(blocks / 2), 2);
                    let before = (pool.committed(), resident(&pool));
                    let (start, stop) = (u32::try_from(block), u32::try_from(end));
                    let given = pool.release(start.expect("small")..stop.expect("small"));
                    written[block..end].fill(None);
                    assert_eq!(pool.committed() + given, before.0);
                    assert!(resident(&pool) <= before.1);
                }
                assert!(
                    resident(&pool) <= pool.committed().0,
                    "step {step}: {} resident, {} committed",
                    resident(&pool),
                    pool.committed()
                );
                for (block, byte) in written.iter().enumerate() {
                    if let Some(byte) = byte {
                        pool.read(block, &mut content).expect("valid");
                        assert!(content.iter().all(|b| b == byte), "block {block} is kept");
                    }
                }
            }
            let last = u32::try_from(blocks).expect("small");
            pool.release(0..last);
            assert_eq!((pool.committed(), resident(&pool)), (Bytes::ZERO, 0));
        }
    }

    #[test]
    fn a_release_gives_resident_memory_back() {
        let mut pool = pool(560, 128);
        let content = vec![7u8; pool.block_bytes()];
        for block in 0..560 {
            pool.load(block, &content).expect("valid");
        }
        assert_eq!(pool.committed(), pool.reserved());
        assert_eq!(resident(&pool), pool.reserved().0);
        // 1 MiB + 2 MiB pages wholly inside the run + 1 MiB: the edges belong to kept neighbours.
        let given = pool.release(21..342);
        assert!(given.0 >= 321 * content.len() as u64 - (4 << 20));
        assert_eq!(pool.committed() + given, pool.reserved());
        assert_eq!(resident(&pool), pool.committed().0);
    }

    #[test]
    fn a_pool_beyond_the_machine_is_reserved_and_costs_nothing() {
        let pool = pool(1 << 20, 128);
        assert!(pool.reserved() >= Bytes(48 << 30));
        assert_eq!(pool.committed(), Bytes::ZERO);
    }
}
