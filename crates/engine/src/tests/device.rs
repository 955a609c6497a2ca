//! A device that passes everything on to another one, but steps only when a gate lets it, and that
//! fails or panics at a given step.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvist_base::{BlockId, Bytes};
use kvist_device::{
    Buf, BufSpec, Caps, Device, DeviceError, DeviceMemory, KvCache, KvSpec, Op, Residence,
    SequenceSpan, StreamStats, Weight, WeightShape, WeightSource,
};

/// Closed at first.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_open: bool,
    /// Steps that may pass a closed gate.
    permits: u64,
    /// Steps that came to the gate.
    arrived: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every step pass from now on.
    pub(super) fn open(&self) {
        self.lock().is_open = true;
        self.changed.notify_all();
    }

    /// Lets `steps` more pass.
    pub(super) fn admit(&self, steps: u64) {
        self.lock().permits += steps;
        self.changed.notify_all();
    }

    /// Waits until the step with this number, from 1 on, stands at the gate.
    pub(super) fn wait_for(&self, step: u64) {
        let mut state = self.lock();
        while state.arrived < step {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pass(&self) {
        let mut state = self.lock();
        state.arrived += 1;
        self.changed.notify_all();
        while !state.is_open && state.permits == 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.permits = state.permits.saturating_sub(1);
    }
}

/// What goes wrong, and at which step, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    FailAt(u64),
    PanicAt(u64),
}

pub(super) struct TroubledDevice {
    inner: Box<dyn Device>,
    gate: Arc<Gate>,
    trouble: Trouble,
    step: u64,
}

impl TroubledDevice {
    pub(super) fn new(inner: Box<dyn Device>, gate: Arc<Gate>, trouble: Trouble) -> Self {
        Self {
            inner,
            gate,
            trouble,
            step: 0,
        }
    }
}

impl Device for TroubledDevice {
    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        self.gate.pass();
        self.step += 1;
        if self.trouble == Trouble::FailAt(self.step) {
            return Err(DeviceError::NotAMatrix {
                op: "a planted fault",
            });
        }
        assert_ne!(self.trouble, Trouble::PanicAt(self.step), "a planted panic");
        self.inner.run(ops)
    }

    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn memory(&self) -> DeviceMemory {
        self.inner.memory()
    }

    fn alloc(&mut self, spec: BufSpec) -> Result<Buf, DeviceError> {
        self.inner.alloc(spec)
    }

    fn alloc_kv(&mut self, spec: KvSpec) -> Result<KvCache, DeviceError> {
        self.inner.alloc_kv(spec)
    }

    fn kv_block_bytes(&self, kv: KvCache) -> usize {
        self.inner.kv_block_bytes(kv)
    }

    fn kv_committed(&self, kv: KvCache) -> Bytes {
        self.inner.kv_committed(kv)
    }

    fn kv_is_committed(&self, kv: KvCache, block: BlockId) -> bool {
        self.inner.kv_is_committed(kv, block)
    }

    fn kv_release(&mut self, kv: KvCache, blocks: Range<u32>) -> Bytes {
        self.inner.kv_release(kv, blocks)
    }

    fn kv_copy(&mut self, kv: KvCache, from: BlockId, to: BlockId) -> Result<(), DeviceError> {
        self.inner.kv_copy(kv, from, to)
    }

    fn kv_read(&self, kv: KvCache, block: BlockId, out: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.kv_read(kv, block, out)
    }

    fn kv_load(&mut self, kv: KvCache, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.inner.kv_load(kv, block, bytes)
    }

    fn expect_packed(&mut self, shapes: &[WeightShape]) -> Result<(), DeviceError> {
        self.inner.expect_packed(shapes)
    }

    fn prepare(&mut self, from: WeightSource, residence: Residence) -> Result<Weight, DeviceError> {
        self.inner.prepare(from, residence)
    }

    fn reserve(&mut self, tokens_max: usize) -> Result<(), DeviceError> {
        self.inner.reserve(tokens_max)
    }

    fn stream_stats(&self) -> StreamStats {
        self.inner.stream_stats()
    }

    fn write_f32(&mut self, buf: Buf, values: &[f32]) -> Result<(), DeviceError> {
        self.inner.write_f32(buf, values)
    }

    fn write_u32(&mut self, buf: Buf, values: &[u32]) -> Result<(), DeviceError> {
        self.inner.write_u32(buf, values)
    }

    fn write_spans(&mut self, buf: Buf, spans: &[SequenceSpan]) -> Result<(), DeviceError> {
        self.inner.write_spans(buf, spans)
    }

    fn read_f32(&self, buf: Buf) -> Result<&[f32], DeviceError> {
        self.inner.read_f32(buf)
    }
}
