//! Planning for devices with memory of their own: how a model is split over them, and what each
//! holds.
//!
//! Tensor parallel: every matrix and the KV heads are divided between the devices, vectors are on
//! all of them. The plan is that of one device; all are alike. What runs on the host is no part of
//! it.

use kvist_base::{Bytes, WeightPart};
use serde::Serialize;

use crate::budget::{BudgetSource, share_of};
use crate::error::{Given, PlanError, PlanLimit};
use crate::limits::MemoryLimit;
use crate::lines::{LineKind, PlanLine};
use crate::serial;
use crate::shape::{ModelShape, WeightKind, WeightLine};

/// What a device's runtime takes beside weights and KV: its context, workspaces and recorded
/// graphs. A reckoning for CUDA with a 7B model, not a measurement: vLLM logs of such runs show
/// 0.24 GiB outside its allocator and 0.38 GiB of activations at the peak, and graphs come on top.
const OVERHEAD: Bytes = Bytes(1 << 30);

/// Devices of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Devices {
    /// How many.
    pub count: u32,
    /// Memory of each.
    #[serde(serialize_with = "serial::bytes")]
    pub memory: Bytes,
}

impl Devices {
    pub(crate) fn check(self, model: &ModelShape) -> Result<(), PlanError> {
        PlanError::check("device_memory", self.memory.0, 1, 1 << 56)?;
        PlanError::check("devices", self.count.into(), 1, 1 << 10)?;
        let splits = |heads: u32| heads.is_multiple_of(self.count);
        if splits(model.heads) && splits(model.kv_heads) {
            return Ok(());
        }
        Err(PlanError {
            field: "devices",
            limit: PlanLimit::Divides {
                heads: model.heads,
                kv_heads: model.kv_heads,
            },
            given: Given::Count(self.count.into()),
        })
    }

    /// What the limit leaves of one device.
    pub(crate) fn budget(self, limit: MemoryLimit) -> (Bytes, BudgetSource) {
        let (share, budget) = match limit {
            MemoryLimit::Absolute(bytes) => {
                return (bytes.min(self.memory), BudgetSource::Absolute);
            }
            MemoryLimit::Fraction(share) => (share, share_of(self.memory, share)),
        };
        let of = self.memory;
        (budget, BudgetSource::Device { share, of })
    }

    /// One device's part of a model. Parts are rounded up: they are all as large as the largest.
    pub(crate) fn shard(self, model: &ModelShape) -> ModelShape {
        let part_of = |bytes: Bytes| Bytes(bytes.0.div_ceil(u64::from(self.count)));
        let shard = |line: &WeightLine| {
            let kind = WeightKind::Resident;
            if line.part == WeightPart::Vectors {
                return WeightLine {
                    kind,
                    ..line.clone()
                };
            }
            WeightLine {
                bytes: part_of(line.bytes),
                values: line.values.div_ceil(u64::from(self.count)),
                by_layer: line.by_layer.iter().copied().map(part_of).collect(),
                kind,
                ..line.clone()
            }
        };
        ModelShape {
            heads: model.heads / self.count,
            kv_heads: model.kv_heads / self.count,
            weights: model.weights.iter().map(shard).collect(),
            layer_weight_max: part_of(model.layer_weight_max),
            ..model.clone()
        }
    }

    pub(crate) fn overhead_line(self) -> PlanLine {
        let note = "context, workspaces, graphs: a reckoning".to_owned();
        PlanLine::new(LineKind::Margin, "device overhead", OVERHEAD, note)
    }
}
