//! Memory planner: model shape, machine and limits to a sum of named lines, or a refusal with the fix.
//!
//! The plan, its report and its JSON are one list: every byte the process may hold is in exactly
//! one [`PlanLine`], and [`Plan::total`] is their sum. Only the KV pool has a choice: it gets what
//! the budget leaves, but never more than the admitted sequences could use. [`Plan::replan`] gives
//! it more or less while the model is served, and the [`Ledger`] holds every line to its plan.
//!
//! Pure: reads no file and no clock. The caller reads `/proc/meminfo` and the cgroup files and
//! hands their text to the parsers here.

mod budget;
mod devices;
mod draft;
mod error;
mod kv;
mod ledger;
mod limits;
mod lines;
mod machine;
mod offload;
mod planner;
mod replan;
mod scheme;
mod serial;
mod shape;
mod step_cost;
mod table;
mod ways_out;

pub use budget::BudgetSource;
pub use devices::Devices;
pub use draft::DraftSizes;
pub use error::{Given, PlanError, PlanLimit, ProbeError};
pub use kv::{KvPlan, STAGED_BLOCKS};
pub use ledger::{Holding, Ledger, LedgerLine, OverPlan};
pub use limits::{Limits, MemoryLimit, Offload};
pub use lines::{
    DRAFT_TOKEN_BYTES, LineKind, PROCESS_BYTES, PROCESS_LINES, PlanLine, activation_bytes,
    draft_index_count, draft_window,
};
pub use machine::{
    CgroupMemory, Machine, MemInfo, parse_cgroup_v1, parse_cgroup_v2, parse_meminfo,
    parse_reclaimable,
};
pub use offload::OffloadPlan;
pub use planner::{CapacityRow, MODEL_LEN_MIN, ModelLenReason, Plan, Verdict, plan, plan_devices};
pub use replan::BudgetTooSmall;
pub use scheme::WeightScheme;
pub use shape::{ModelShape, WeightKind, WeightLine};
pub use step_cost::StepCost;
pub use ways_out::WayOut;

#[cfg(test)]
mod tests;
