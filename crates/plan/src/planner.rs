//! The plan itself: the sum, the context length and the verdict.

use std::borrow::Cow;

use kvist_base::{Blocks, Bytes, Tokens};
use serde::Serialize;

use crate::budget::{BudgetSource, budget};
use crate::devices::Devices;
use crate::error::PlanError;
use crate::kv::{BlockCost, BlockCounts, KvPlan};
use crate::limits::{Limits, Offload};
use crate::lines::{LineKind, PlanLine, margin_of, weight_lines, work_lines};
use crate::machine::Machine;
use crate::offload::OffloadPlan;
use crate::serial;
use crate::shape::ModelShape;
use crate::ways_out::{Inputs, Shortage, WayOut, ways_out};

/// The shortest context worth starting with when the operator asked for none. A model that
/// cannot hold one sequence of this length does not fit.
pub const MODEL_LEN_MIN: Tokens = Tokens(512);

/// Why sequences may be as long as they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelLenReason {
    /// The model's own limit.
    AsModel,
    /// The operator's limit.
    AsAsked,
    /// All that the budget leaves room for.
    CappedByMemory,
    /// All that a KV pool of the size asked for holds.
    CappedByPool,
}

/// How many sequences of a length run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CapacityRow {
    /// Length of each, prompt and output.
    #[serde(serialize_with = "serial::tokens")]
    pub context: Tokens,
    /// How many fit, at most `running_max`.
    pub sequences: u32,
}

/// Whether the model can be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// At least one sequence of `model_len` fits.
    Fits {
        /// Concurrent sequences by length, shortest first; the last row is `model_len`, or what the
        /// pool holds if a smaller budget has made that less.
        capacity: Vec<CapacityRow>,
    },
    /// Not one does.
    DoesNotFit {
        /// Memory needed for one sequence of `model_len`.
        #[serde(serialize_with = "serial::bytes")]
        needed: Bytes,
        /// The budget.
        #[serde(serialize_with = "serial::bytes")]
        available: Bytes,
        /// The difference.
        #[serde(serialize_with = "serial::bytes")]
        shortfall: Bytes,
        /// The line that takes most.
        largest_line: PlanLine,
        /// Changes that each make it fit.
        ways_out: Vec<WayOut>,
    },
}

/// Where every byte goes. Printed as a table by `Display`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The model's name.
    pub model: String,
    /// The devices it is split over: every number is then of one of them.
    pub devices: Option<Devices>,
    /// Every line; weights first.
    pub lines: Vec<PlanLine>,
    /// Sum of the lines.
    #[serde(serialize_with = "serial::bytes")]
    pub total: Bytes,
    /// What the process may hold.
    #[serde(serialize_with = "serial::bytes")]
    pub budget: Bytes,
    /// What set the budget; text in JSON.
    #[serde(serialize_with = "serial::text")]
    pub budget_source: BudgetSource,
    /// The KV pool. When the model does not fit: the one sequence that would be needed.
    pub kv: KvPlan,
    /// The layers that are streamed.
    pub offload: OffloadPlan,
    /// Whether streaming was allowed, needed or not.
    pub is_offload_asked: bool,
    /// Longest sequence, prompt and output.
    #[serde(serialize_with = "serial::tokens")]
    pub model_len: Tokens,
    /// Why it is that long.
    pub model_len_reason: ModelLenReason,
    /// The model's own limit.
    #[serde(serialize_with = "serial::tokens")]
    pub context_max: Tokens,
    /// Most sequences that run at once.
    pub running_max: u32,
    /// Whether the model can be served.
    pub verdict: Verdict,
}

impl Plan {
    /// Whether the model can be served.
    pub fn fits(&self) -> bool {
        matches!(self.verdict, Verdict::Fits { .. })
    }
}

/// Plans `model` on `machine` under `limits`.
///
/// A model that does not fit is a plan with that verdict; an error means that a limit or a
/// dimension is outside its range.
pub fn plan(model: &ModelShape, machine: &Machine, limits: &Limits) -> Result<Plan, PlanError> {
    plan_on(Inputs {
        model,
        place: Place::Host(machine),
        limits,
    })
}

/// Plans what each of several devices holds of `model`: its part of the weights and of the KV pool,
/// and what its runtime takes. The budget is the limit's share of one device's memory. Nothing of
/// the host is in the plan.
///
/// # Errors
/// As [`plan`], and when the model's heads cannot be divided between so many devices.
pub fn plan_devices(
    model: &ModelShape,
    devices: Devices,
    limits: &Limits,
) -> Result<Plan, PlanError> {
    plan_on(Inputs {
        model,
        place: Place::Devices(devices),
        limits,
    })
}

fn plan_on(inputs: Inputs<'_>) -> Result<Plan, PlanError> {
    let terms = Terms::new(inputs)?;
    let (model, limits) = (inputs.model, inputs.limits);
    let (cost, budget) = (terms.cost, terms.budget);
    let offload = terms.choose_offload();
    let (above, below) = terms.fixed_lines(&offload);
    let fixed: Bytes = above.iter().chain(&below).map(|line| line.bytes).sum();
    assert_eq!(fixed, terms.fixed(&offload));
    let pool = terms.choose_pool(fixed);
    let counts = terms.block_counts(&pool, inputs.place.memory().saturating_sub(fixed));
    let kv_lines = cost.lines(counts.now);
    let total = fixed + cost.bytes(counts.now);
    let lines: Vec<PlanLine> = above.into_iter().chain(kv_lines).chain(below).collect();
    assert_eq!(lines.iter().map(|line| line.bytes).sum::<Bytes>(), total);

    let kv = cost.plan(counts, terms.tier_slots);
    let verdict = if pool.fits {
        assert!(total <= budget);
        Verdict::Fits {
            capacity: capacity(&kv, pool.model_len, limits.running_max),
        }
    } else {
        let room = cost.blocks_in(budget.saturating_sub(fixed));
        let shortage = Shortage {
            needed: total,
            budget,
            room: cost.tokens_in(room),
            room_bytes: kv.block_bytes * u64::from(room.0),
        };
        does_not_fit(&lines, &shortage, ways_out(&shortage, inputs))
    };
    Ok(Plan {
        model: model.name.clone(),
        devices: inputs.place.devices(),
        lines,
        total,
        budget,
        budget_source: terms.budget_source,
        kv,
        offload,
        is_offload_asked: limits.offload != Offload::Off,
        model_len: pool.model_len,
        model_len_reason: pool.reason,
        context_max: model.context_max,
        running_max: limits.running_max,
        verdict,
    })
}

fn resident(lines: &[PlanLine]) -> Bytes {
    let resident = lines
        .iter()
        .filter(|line| line.kind == LineKind::WeightsResident);
    resident.map(|line| line.bytes).sum()
}

/// The shortest length a model without one asked for is served with.
fn len_min(model: &ModelShape) -> Tokens {
    MODEL_LEN_MIN.min(model.context_max)
}

/// Where a model is to run.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Host(&'a Machine),
    Devices(Devices),
}

impl Place<'_> {
    /// All the memory there is, for one plan.
    fn memory(self) -> Bytes {
        match self {
            Self::Host(machine) => machine.total(),
            Self::Devices(devices) => devices.memory,
        }
    }

    fn devices(self) -> Option<Devices> {
        match self {
            Self::Host(_) => None,
            Self::Devices(devices) => Some(devices),
        }
    }
}

/// What a plan is made of, checked.
pub(crate) struct Terms<'a> {
    model: Cow<'a, ModelShape>,
    limits: &'a Limits,
    place: Place<'a>,
    cost: BlockCost,
    tier_slots: Blocks,
    budget: Bytes,
    budget_source: BudgetSource,
    /// All but the pool, with every layer resident.
    fixed: Bytes,
    /// What of it are resident weights.
    resident: Bytes,
}

/// The KV pool that was chosen.
struct Pool {
    blocks: Blocks,
    model_len: Tokens,
    reason: ModelLenReason,
    fits: bool,
}

impl<'a> Terms<'a> {
    pub(crate) fn new(inputs: Inputs<'a>) -> Result<Self, PlanError> {
        let Inputs {
            model,
            place,
            limits,
        } = inputs;
        model.check()?;
        limits.check(model)?;
        let (budget, budget_source) = match place {
            Place::Host(machine) => budget(machine, limits.memory),
            Place::Devices(devices) => devices.budget(limits.memory),
        };
        let (model, cost) = match place {
            Place::Host(_) => (Cow::Borrowed(model), BlockCost::new(model, limits)),
            Place::Devices(devices) => {
                devices.check(model)?;
                let shard = devices.shard(model);
                let cost = BlockCost::new(&shard, limits).without_tables();
                (Cow::Owned(shard), cost)
            }
        };
        let least = limits.model_len.unwrap_or(len_min(&model));
        cost.check_pool(limits.kv_cache, least)?;
        let mut terms = Self {
            model,
            limits,
            place,
            cost,
            tier_slots: cost.tier_slots(limits.spill)?,
            budget,
            budget_source,
            fixed: Bytes::ZERO,
            resident: Bytes::ZERO,
        };
        let (above, below) = terms.fixed_lines(&OffloadPlan::default());
        terms.fixed = above.iter().chain(&below).map(|line| line.bytes).sum();
        terms.resident = resident(&above);
        Ok(terms)
    }

    /// Whether the model can be served.
    pub(crate) fn fits(&self) -> bool {
        self.choose_pool(self.fixed(&self.choose_offload())).fits
    }

    /// The lines that stay as they are whatever the pool gets: those above its own, and those below.
    fn fixed_lines(&self, offload: &OffloadPlan) -> (Vec<PlanLine>, Vec<PlanLine>) {
        let weights = weight_lines(&self.model, offload);
        let below = match self.place {
            Place::Devices(devices) => vec![devices.overhead_line()],
            Place::Host(_) => {
                let work = work_lines(&self.model, self.limits, resident(&weights));
                self.cost
                    .tier_line(self.tier_slots)
                    .into_iter()
                    .chain(work)
                    .collect()
            }
        };
        (weights, below)
    }

    /// The sum of those lines.
    fn fixed(&self, offload: &OffloadPlan) -> Bytes {
        let streamed = self.fixed - offload.bytes + offload.ring;
        match self.place {
            Place::Devices(_) => streamed,
            Place::Host(_) => {
                let left = self.resident - offload.bytes;
                streamed - (margin_of(self.resident) - margin_of(left))
            }
        }
    }

    /// What streamed weights pass through. Each thread of this machine takes them panel by panel; to
    /// a device they go in whole matrices, one in use and one on its way.
    fn ring(&self) -> Bytes {
        match self.place {
            Place::Host(_) => self.model.layer_panel_max * u64::from(self.limits.threads),
            Place::Devices(_) => self.model.layer_weight_max * 2,
        }
    }

    /// The fewest layers that do what the limit says and make the plan fit; where none does, those
    /// that bring it nearest.
    pub(crate) fn choose_offload(&self) -> OffloadPlan {
        let none = OffloadPlan::default();
        let (count_min, bytes_min) = match self.limits.offload {
            Offload::Off => return none,
            Offload::Auto => (0, Bytes::ZERO),
            Offload::AtLeast(bytes) => (0, bytes),
            Offload::All => (self.model.layers, Bytes::ZERO),
        };
        let layer_bytes = self.model.layer_bytes();
        let streamed_max: Bytes = layer_bytes.iter().copied().sum();
        let bytes_min = bytes_min.min(streamed_max);
        let mut nearest: Option<(Bytes, OffloadPlan)> = None;
        for count in count_min..=self.model.layers {
            let offload = OffloadPlan::spread(&self.model, &layer_bytes, (count, self.ring()));
            if offload.bytes < bytes_min {
                continue;
            }
            let fixed = self.fixed(&offload);
            if self.choose_pool(fixed).fits {
                let is_idle = count > 0 && self.choose_pool(self.fixed(&none)).fits;
                return OffloadPlan { is_idle, ..offload };
            }
            if nearest.as_ref().is_none_or(|(least, _)| fixed < *least) {
                nearest = Some((fixed, offload));
            }
        }
        nearest.map_or(none, |(_, offload)| offload)
    }

    /// The length asked for, or the longest that the pool can hold, and a pool for it.
    fn choose_pool(&self, fixed: Bytes) -> Pool {
        use ModelLenReason::{AsAsked, AsModel, CappedByMemory, CappedByPool};
        let (cost, limits, context_max) = (self.cost, self.limits, self.model.context_max);
        let room = cost.blocks_in(self.budget.saturating_sub(fixed));
        let exact = limits.kv_cache.map(|size| cost.blocks_of(size));
        let holds = cost.tokens_in(exact.unwrap_or(room));
        let (model_len, reason) = match limits.model_len {
            Some(asked) => (asked, AsAsked),
            None if holds >= context_max => (context_max, AsModel),
            None if exact.is_some() => (holds, CappedByPool),
            None => (holds.max(len_min(&self.model)), CappedByMemory),
        };
        let fits = holds >= model_len && exact.is_none_or(|exact| exact <= room);
        let useful = cost.blocks_for(limits.running_max, model_len);
        let blocks = match exact {
            Some(exact) => exact,
            None if fits => room.min(useful),
            None => cost.blocks_for(1, model_len),
        };
        Pool {
            blocks,
            model_len,
            reason,
            fits,
        }
    }

    /// The pool's size, and between what bounds another budget can move it. `machine_room` is what
    /// the whole machine leaves beside the fixed lines.
    fn block_counts(&self, pool: &Pool, machine_room: Bytes) -> BlockCounts {
        let (cost, limits) = (self.cost, self.limits);
        let is_promise = matches!(
            pool.reason,
            ModelLenReason::AsAsked | ModelLenReason::AsModel
        );
        let promised = if is_promise {
            pool.model_len
        } else {
            len_min(&self.model)
        };
        let useful = match limits.kv_cache {
            Some(_) => pool.blocks,
            None => cost.blocks_for(limits.running_max, pool.model_len),
        };
        BlockCounts {
            min: cost.blocks_for(1, promised),
            now: pool.blocks,
            max: useful.min(cost.blocks_in(machine_room)).max(pool.blocks),
        }
    }
}

/// Doubling lengths up to `model_len`, and `model_len` itself; none that the pool cannot hold.
pub(crate) fn capacity(kv: &KvPlan, model_len: Tokens, running_max: u32) -> Vec<CapacityRow> {
    let longest = model_len.min(kv.tokens);
    let doubling = std::iter::successors(Some(MODEL_LEN_MIN), |len| len.checked_mul(2));
    let shorter = doubling.take_while(|len| *len < longest);
    let row = |context: Tokens| {
        let fitting = kv.blocks.0 / context.div_ceil(kv.block_size).0;
        CapacityRow {
            context,
            sequences: fitting.min(running_max),
        }
    };
    shorter.chain([longest]).map(row).collect()
}

fn does_not_fit(lines: &[PlanLine], shortage: &Shortage, ways_out: Vec<WayOut>) -> Verdict {
    let largest_line = lines.iter().max_by_key(|line| line.bytes).cloned();
    Verdict::DoesNotFit {
        needed: shortage.needed,
        available: shortage.budget,
        shortfall: shortage.shortfall(),
        largest_line: largest_line.expect("a plan always has a margin line"),
        ways_out,
    }
}
