//! What a served model would take under other limits: the planner asked again, nothing changed.

use kvist_base::{Bytes, KvDtype, Tokens};
use kvist_plan::{Limits, Machine, MemoryLimit, ModelShape, Plan, PlanError, plan};

/// Limits to plan with instead of those a model is served with; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanChange {
    /// Longest sequence, prompt and output.
    pub model_len: Option<Tokens>,
    /// Most sequences that run at once.
    pub running_max: Option<u32>,
    /// What the process may hold.
    pub memory: Option<Bytes>,
    /// How the KV cache stores a value.
    pub kv_dtype: Option<KvDtype>,
}

/// What a model was planned with.
#[derive(Clone, Debug)]
pub(crate) struct PlanBasis {
    pub(crate) shape: ModelShape,
    /// As it was before anything was loaded.
    pub(crate) machine: Machine,
    pub(crate) limits: Limits,
}

impl PlanBasis {
    /// The plan under changed limits. A model that does not fit is a plan with that verdict.
    pub(crate) fn plan(&self, change: PlanChange) -> Result<Plan, PlanError> {
        let own = &self.limits;
        let limits = Limits {
            model_len: change.model_len.or(own.model_len),
            running_max: change.running_max.unwrap_or(own.running_max),
            memory: change.memory.map_or(own.memory, MemoryLimit::Absolute),
            kv_dtype: change.kv_dtype.unwrap_or(own.kv_dtype),
            ..own.clone()
        };
        plan(&self.shape, &self.machine, &limits)
    }
}
