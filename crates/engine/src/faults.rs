//! Faults on purpose, for tests: a device that waits, refuses, panics or computes nonsense when it is
//! told to.
//!
//! Compiled into this crate's tests, and for others with the feature `faults`. No product has it.

use std::cell::OnceCell;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvist_base::{BlockId, Bytes};
use kvist_device::{
    Buf, BufSpec, Caps, Device, DeviceError, DeviceMemory, KvCache, KvSpec, Op, Residence,
    SequenceSpan, StreamStats, Weight, WeightShape, WeightSource,
};
use kvist_plan::Machine;

use crate::load::{Engine, EngineOptions, LoadError};

/// What goes wrong in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device refuses to compute it.
    Refuse,
    /// The device finds no memory for it.
    OutOfMemory,
    /// The engine thread panics in it.
    Panic,
    /// These logits, counted over all rows, are not numbers.
    NotANumber(Range<usize>),
}

/// Which steps it happens in. Steps count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In the next one.
    Next,
    /// In this one.
    At(u64),
    /// In this one and in all that follow.
    From(u64),
}

impl When {
    fn is(self, step: u64) -> bool {
        match self {
            Self::Next => true,
            Self::At(at) => step == at,
            Self::From(first) => step >= first,
        }
    }
}

/// Tells a device when to fail, and lets its steps pass one by one if need be. Open at first.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    /// Steps that may pass though it is closed.
    permits: u64,
    /// Steps that came to the gate.
    arrived: u64,
    planned: Vec<(When, Fault)>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The panics on purpose happen outside the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.0.changed.notify_all();
    }

    /// Plans a fault.
    pub fn plan(&self, when: When, fault: Fault) {
        self.change(|state| state.planned.push((when, fault)));
    }

    /// Lets no step begin from now on: an engine with work stalls.
    pub fn close(&self) {
        self.change(|state| state.is_closed = true);
    }

    /// Lets every step pass from now on.
    pub fn open(&self) {
        self.change(|state| state.is_closed = false);
    }

    /// Lets `steps` more pass.
    pub fn admit(&self, steps: u64) {
        self.change(|state| state.permits += steps);
    }

    /// Waits until the step with this number stands at the gate.
    pub fn wait_for(&self, step: u64) {
        let mut state = self.lock();
        while state.arrived < step {
            let changed = self.0.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Steps that came to the gate so far.
    pub fn steps(&self) -> u64 {
        self.lock().arrived
    }

    /// Waits at the gate; then what goes wrong in this step.
    fn pass(&self) -> Option<Fault> {
        let mut state = self.lock();
        state.arrived += 1;
        let step = state.arrived;
        self.0.changed.notify_all();
        while state.is_closed && state.permits == 0 {
            let changed = self.0.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
        state.permits = state.permits.saturating_sub(1);
        let index = state.planned.iter().position(|(when, _)| when.is(step))?;
        match state.planned[index].0 {
            When::From(_) => Some(state.planned[index].1.clone()),
            When::Next | When::At(_) => Some(state.planned.remove(index).1),
        }
    }
}

impl Engine {
    /// [`Engine::load`] over a device that fails when `faults` says so.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_with_faults(
        path: &Path,
        machine: &Machine,
        (options, faults): (&EngineOptions, Faults),
    ) -> Result<Self, LoadError> {
        Self::load_around(path, machine, options, |device| {
            FaultyDevice::around(device, faults)
        })
    }
}

/// Passes everything on to another device, but for what is to go wrong.
pub(crate) struct FaultyDevice {
    inner: Box<dyn Device>,
    faults: Faults,
    /// What is not a number in the last step's logits.
    spoiled: Option<Range<usize>>,
    copy: OnceCell<Vec<f32>>,
}

impl FaultyDevice {
    pub(crate) fn around(inner: Box<dyn Device>, faults: Faults) -> Box<dyn Device> {
        Box::new(Self {
            inner,
            faults,
            spoiled: None,
            copy: OnceCell::new(),
        })
    }
}

impl Device for FaultyDevice {
    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        (self.spoiled, self.copy) = (None, OnceCell::new());
        match self.faults.pass() {
            None => {}
            Some(Fault::Refuse) => {
                let op = "a planted fault";
                return Err(DeviceError::NotAMatrix { op });
            }
            Some(Fault::OutOfMemory) => {
                let (label, wanted) = ("a planted fault", Bytes::GIB);
                return Err(DeviceError::OutOfMemory { label, wanted });
            }
            Some(Fault::Panic) => panic!("a planted panic"),
            Some(Fault::NotANumber(range)) => self.spoiled = Some(range),
        }
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
        let whole = self.inner.read_f32(buf)?;
        let Some(spoiled) = &self.spoiled else {
            return Ok(whole);
        };
        Ok(self.copy.get_or_init(|| {
            let mut copy = whole.to_vec();
            copy[spoiled.clone()].fill(f32::NAN);
            copy
        }))
    }
}
