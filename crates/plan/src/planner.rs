//! The plan itself: the sum, the context length and the verdict.

use kvist_base::{Blocks, Bytes, Tokens};
use serde::Serialize;

use crate::budget::{BudgetSource, budget};
use crate::error::PlanError;
use crate::kv::{BlockCost, KvPlan};
use crate::limits::Limits;
use crate::lines::{PlanLine, weight_lines, work_lines};
use crate::machine::Machine;
use crate::serial;
use crate::shape::ModelShape;
use crate::ways_out::{Shortage, WayOut, ways_out};

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
    /// All that the KV pool can hold.
    CappedByMemory,
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
        /// Concurrent sequences by length, shortest first; the last row is `model_len`.
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
    /// Longest sequence, prompt and output.
    #[serde(serialize_with = "serial::tokens")]
    pub model_len: Tokens,
    /// Why it is that long.
    pub model_len_reason: ModelLenReason,
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
    model.check()?;
    limits.check(model)?;
    let (budget, budget_source) = budget(machine, limits.memory);
    let cost = BlockCost::new(model, limits);
    let weights = weight_lines(model);
    let work = work_lines(model, limits);
    let fixed: Bytes = weights.iter().chain(&work).map(|line| line.bytes).sum();

    let room = cost.blocks_in(budget.saturating_sub(fixed));
    let choice = choose_model_len(model, limits, cost.tokens_in(room));
    let blocks = if choice.fits {
        room.min(cost.blocks_for(limits.running_max, choice.len))
    } else {
        cost.blocks_for(1, choice.len)
    };
    let kv_lines = cost.lines(blocks);
    let total = fixed + kv_lines.iter().map(|line| line.bytes).sum();
    let lines: Vec<PlanLine> = weights.into_iter().chain(kv_lines).chain(work).collect();
    assert_eq!(lines.iter().map(|line| line.bytes).sum::<Bytes>(), total);

    let verdict = if choice.fits {
        assert!(total <= budget);
        Verdict::Fits {
            capacity: capacity(blocks, choice.len, limits),
        }
    } else {
        let shortage = Shortage {
            needed: total,
            budget,
            room: cost.tokens_in(room),
        };
        does_not_fit(
            &lines,
            &shortage,
            ways_out(&shortage, model, machine, limits),
        )
    };
    Ok(Plan {
        model: model.name.clone(),
        lines,
        total,
        budget,
        budget_source,
        kv: cost.plan(blocks),
        model_len: choice.len,
        model_len_reason: choice.reason,
        verdict,
    })
}

struct ModelLenChoice {
    len: Tokens,
    reason: ModelLenReason,
    fits: bool,
}

/// The length asked for, or the longest that a pool with room for `room` tokens can hold.
fn choose_model_len(model: &ModelShape, limits: &Limits, room: Tokens) -> ModelLenChoice {
    let least = MODEL_LEN_MIN.min(model.context_max);
    let (len, reason) = match limits.model_len {
        Some(asked) => (asked, ModelLenReason::AsAsked),
        None if room >= model.context_max => (model.context_max, ModelLenReason::AsModel),
        None => (room.max(least), ModelLenReason::CappedByMemory),
    };
    ModelLenChoice {
        len,
        reason,
        fits: room >= len,
    }
}

/// Doubling lengths up to `model_len`, and `model_len` itself.
fn capacity(blocks: Blocks, model_len: Tokens, limits: &Limits) -> Vec<CapacityRow> {
    let doubling = std::iter::successors(Some(MODEL_LEN_MIN), |len| len.checked_mul(2));
    let shorter = doubling.take_while(|len| *len < model_len);
    let row = |context: Tokens| {
        let fitting = blocks.0 / context.div_ceil(limits.block_size).0;
        CapacityRow {
            context,
            sequences: fitting.min(limits.running_max),
        }
    };
    shorter.chain([model_len]).map(row).collect()
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
