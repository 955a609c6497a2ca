//! The engine thread's side of memory: the plan in force, the second tier, and what goes into the
//! ledger.

use std::path::PathBuf;

use kvist_base::{Blocks, Bytes};
use kvist_device::DeviceMemory;
use kvist_plan::{Holding, Ledger, LineKind, OverPlan, Plan};
use kvist_sched::{TierEntry, TierSlot};

use crate::error::EngineFault;
use crate::idle::IdleRelease;
use crate::memory::KvReport;
use crate::shared::UNSALTED_ROOT;
use crate::speculation::Speculator;
use crate::step::{Core, gauges};
use crate::tier::{Identity, Manifest, StoredEntry, TierStore};
use crate::transfer::Costs;

/// Label of the buffers that hold weights which are vectors.
const VECTORS: &str = "norms and biases";
/// Label of the buffer that holds logits, which have a line of their own.
const LOGITS: &str = "logits";

/// What the engine thread knows of its memory.
#[derive(Debug)]
pub(crate) struct Memory {
    /// In force since the last change of the budget.
    pub(crate) plan: Plan,
    /// Most blocks the KV arena has addresses for.
    pub(crate) blocks_max: Blocks,
    pub(crate) tier: Option<TierStore>,
    /// Slots whose content found no buffer in this step.
    pub(crate) congested: Vec<TierSlot>,
    /// Where to write down what the tier holds, when it is kept.
    pub(crate) manifest: Option<(PathBuf, Identity)>,
    /// One block on its way back from the tier.
    pub(crate) block: Vec<u8>,
    pub(crate) costs: Costs,
    pub(crate) idle: IdleRelease,
}

impl Core {
    /// Writes the pool's state where callers see it.
    pub(crate) fn report(&mut self) {
        if let Some(speculator) = &mut self.speculator {
            speculator.settle(&self.scheduler);
        }
        let speculator = self.speculator.as_ref();
        self.shared.update_metrics(|metrics| {
            gauges(&self.scheduler, metrics);
            if let Some(speculator) = speculator {
                speculator.count(metrics);
            }
        });
        let draft_kv = speculator.and_then(Speculator::draft_kv);
        let counts = self.scheduler.pool_counts();
        let committed = self.device.kv_committed(self.kv);
        let block_bytes = Bytes::of_len(self.device.kv_block_bytes(self.kv));
        let tier = self.memory.tier.as_ref();
        let staged = tier.map(|tier| Bytes::of_len(tier.buffer_bytes() + self.memory.block.len()));
        let tier_index = self.memory.plan.kv.tier_index();
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
                .set(LineKind::KvPool, Holding { committed, used })?;
            if let Some(holding) = draft_kv {
                view.ledger.set(LineKind::DraftKv, holding)?;
            }
            if let Some(staged) = staged {
                view.ledger
                    .set(LineKind::KvTier, all(tier_index + staged))?;
            }
            Ok::<_, OverPlan>(())
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

    /// The end: a tier that is kept takes over what is cached, and is written down.
    pub(crate) fn close(&mut self) -> Result<(), EngineFault> {
        let Some((path, identity)) = self.memory.manifest.take() else {
            return Ok(());
        };
        self.release_kv()?;
        self.settle_tier();
        let Some(tier) = &self.memory.tier else {
            return Ok(());
        };
        let stored = |entry: TierEntry| {
            assert_eq!(
                entry.root, UNSALTED_ROOT,
                "salted prefixes end with the process"
            );
            Some(StoredEntry {
                sum: tier.stored_sum(entry.slot.0)?,
                slot: entry.slot.0,
                content: entry.content,
                parent: entry.parent,
                hash: entry.hash,
                tokens: entry.tokens,
            })
        };
        let manifest = Manifest {
            identity,
            entries: self.scheduler.tier_entries().filter_map(stored).collect(),
        };
        match manifest.write(&path) {
            Ok(()) => tracing::info!(blocks = manifest.entries.len(), "prefix cache kept"),
            // The next process starts with an empty cache; nothing else depends on it.
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the prefix cache is not kept");
            }
        }
        Ok(())
    }
}

/// Enters what a loaded device and model hold for good. Lines that are not measured from inside
/// count as planned.
pub(crate) fn charge(ledger: &mut Ledger, device: &DeviceMemory) -> Result<(), OverPlan> {
    let (vectors, logits) = (labelled(device, VECTORS), labelled(device, LOGITS));
    let activations = all_buffers(device) - vectors - logits + device.scratch;
    ledger.set(LineKind::WeightsResident, all(device.weights + vectors))?;
    ledger.set(LineKind::WeightsRing, all(device.stream_ring))?;
    ledger.set(LineKind::Activations, all(activations))?;
    ledger.set(LineKind::Logits, all(logits))?;
    for kind in [
        LineKind::WeightsMapped,
        LineKind::KvTables,
        LineKind::Sampler,
        LineKind::Tokenizer,
        LineKind::Threads,
        LineKind::Http,
        LineKind::Drafts,
        LineKind::Grammars,
        LineKind::Program,
        LineKind::Margin,
    ] {
        charge_as_planned(ledger, kind)?;
    }
    Ok(())
}

/// Enters what the draft model and its device hold for good; its KV pool is empty yet.
pub(crate) fn charge_draft(ledger: &mut Ledger, device: &DeviceMemory) -> Result<(), OverPlan> {
    let vectors = labelled(device, VECTORS);
    let work = all_buffers(device) - vectors + device.scratch;
    ledger.set(LineKind::DraftWeights, all(device.weights + vectors))?;
    ledger.set(LineKind::DraftWork, all(work))
}

/// Bytes of the buffers with one label.
fn labelled(device: &DeviceMemory, wanted: &str) -> Bytes {
    let buffers = device.buffers.iter();
    let these = buffers.filter(|(label, _)| *label == wanted);
    these.map(|(_, bytes)| *bytes).sum()
}

fn all_buffers(device: &DeviceMemory) -> Bytes {
    device.buffers.iter().map(|(_, bytes)| *bytes).sum()
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
