//! The engine thread's side of memory: the plan in force, the second tier, and what goes into the
//! ledger.

use kvist_base::{Blocks, Bytes};
use kvist_device::DeviceMemory;
use kvist_plan::{Holding, Ledger, LineKind, OverPlan, Plan};

use crate::idle::IdleRelease;
use crate::memory::KvReport;
use crate::step::{Core, gauges};

/// Label of the buffers that hold weights which are vectors.
const VECTORS: &str = "norms and biases";

/// What the engine thread knows of its memory.
#[derive(Debug)]
pub(crate) struct Memory {
    /// In force since the last change of the budget.
    pub(crate) plan: Plan,
    /// Most blocks the KV arena has addresses for.
    pub(crate) blocks_max: Blocks,
    pub(crate) idle: IdleRelease,
}

impl Core {
    /// Writes the pool's state where callers see it.
    pub(crate) fn report(&mut self) {
        self.shared
            .update_metrics(|metrics| gauges(&self.scheduler, metrics));
        let counts = self.scheduler.pool_counts();
        let committed = self.device.kv_committed(self.kv);
        let block_bytes = Bytes::of_len(self.device.kv_block_bytes(self.kv));
        let result = self.shared.update_memory(|view| {
            view.kv = KvReport {
                block_bytes,
                block_size: view.kv.block_size,
                blocks_limit: counts.total.0,
                blocks_free: counts.free.0,
                blocks_held: counts.held.0,
                blocks_cached: counts.cached.0,
                committed,
            };
            let used = block_bytes * u64::from((counts.held + counts.cached).0);
            view.ledger
                .set(LineKind::KvPool, Holding { committed, used })
        });
        if let Err(over) = result {
            // The plan's own sums, and the arena's bound, are at fault: nothing a caller did.
            debug_assert!(false, "{over}");
            tracing::error!(%over, "more memory is held than planned");
        }
    }

    /// Goes on under another plan. What the smaller pool gave back is reported before.
    pub(crate) fn adopt(&mut self, plan: Plan) {
        let tables = LineKind::KvTables;
        self.shared.update_memory(|view| {
            let none = view.ledger.set(tables, Holding::default());
            assert_eq!(none, Ok(()), "nothing is within every plan");
            view.ledger.replan(&plan);
            let planned = charge_as_planned(&mut view.ledger, tables);
            assert_eq!(planned, Ok(()), "a line is within its own plan");
            view.plan = plan.clone();
        });
        self.memory.plan = plan;
    }
}

/// Enters what a loaded device and model hold for good. Lines that are not measured from inside
/// count as planned.
pub(crate) fn charge(ledger: &mut Ledger, device: &DeviceMemory) -> Result<(), OverPlan> {
    let vectors = device.buffers.iter().filter(|(label, _)| *label == VECTORS);
    let vectors: Bytes = vectors.map(|(_, bytes)| *bytes).sum();
    ledger.set(LineKind::WeightsResident, all(device.weights + vectors))?;
    ledger.set(LineKind::WeightsRing, all(device.stream_ring))?;
    for kind in [
        LineKind::WeightsMapped,
        LineKind::KvTables,
        LineKind::Activations,
        LineKind::Logits,
        LineKind::Sampler,
        LineKind::Tokenizer,
        LineKind::Threads,
        LineKind::Http,
        LineKind::Margin,
    ] {
        charge_as_planned(ledger, kind)?;
    }
    Ok(())
}

/// Enters a line that only the plan knows.
fn charge_as_planned(ledger: &mut Ledger, kind: LineKind) -> Result<(), OverPlan> {
    let line = ledger.lines().iter().find(|line| line.kind == kind);
    let planned = line.map_or(Bytes::ZERO, |line| line.planned);
    ledger.set(kind, all(planned))
}

/// Committed, and all of it in use.
fn all(bytes: Bytes) -> Holding {
    Holding {
        committed: bytes,
        used: bytes,
    }
}
