//! The same plan under another budget, while the model is being served.

use kvist_base::{Blocks, Bytes};
use thiserror::Error;

use crate::budget::BudgetSource;
use crate::kv::{BlockCost, BlockCounts};
use crate::lines::LineKind;
use crate::planner::{Plan, Verdict, capacity};

/// A budget that leaves less KV than the plan has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a budget of {given} is too small: at least {needed} are needed")]
pub struct BudgetTooSmall {
    /// The least that would do.
    pub needed: Bytes,
    /// What was given.
    pub given: Bytes,
}

impl Plan {
    /// What everything but the KV blocks takes: it is allocated once, and no budget changes it.
    pub fn fixed(&self) -> Bytes {
        let is_fixed = |kind| !matches!(kind, LineKind::KvPool | LineKind::KvTables);
        let fixed = self.lines.iter().filter(|line| is_fixed(line.kind));
        fixed.map(|line| line.bytes).sum()
    }

    /// The least budget that leaves so many blocks.
    pub fn budget_for(&self, blocks: Blocks) -> Bytes {
        self.fixed() + BlockCost::of(&self.kv).bytes(blocks)
    }

    /// The smallest budget [`replan`](Self::replan) accepts.
    pub fn budget_min(&self) -> Bytes {
        self.budget_for(self.kv.blocks_min)
    }

    /// The budget beyond which more brings nothing.
    pub fn budget_max(&self) -> Bytes {
        self.budget_for(self.kv.blocks_max)
    }

    /// This plan under another budget. Only the KV pool and its tables change: the pool gets what the
    /// budget leaves, at most [`KvPlan::blocks_max`](crate::KvPlan::blocks_max). What the machine has
    /// to spare is not asked: a caller that raises the budget checks that first.
    ///
    /// The announced `model_len` stays. A length that was asked for or is the model's own is a
    /// promise: a pool that cannot hold one such sequence is refused. A length that was cut to what
    /// memory held is none: the pool may shrink to
    /// [`MODEL_LEN_MIN`](crate::MODEL_LEN_MIN), and requests are checked against the pool.
    ///
    /// # Errors
    /// When the budget leaves fewer than [`KvPlan::blocks_min`](crate::KvPlan::blocks_min) blocks.
    pub fn replan(&self, budget: Bytes) -> Result<Self, BudgetTooSmall> {
        let (fixed, cost) = (self.fixed(), BlockCost::of(&self.kv));
        let needed = self.budget_min();
        if budget < needed {
            let given = budget;
            return Err(BudgetTooSmall { needed, given });
        }
        let now = cost.blocks_in(budget - fixed).min(self.kv.blocks_max);
        assert!(now >= self.kv.blocks_min);
        let counts = BlockCounts {
            now,
            min: self.kv.blocks_min,
            max: self.kv.blocks_max,
        };
        let mut plan = self.clone();
        for line in cost.lines(now) {
            let old = plan.lines.iter_mut().find(|old| old.kind == line.kind);
            *old.expect("the same cost has the same lines") = line;
        }
        plan.total = plan.lines.iter().map(|line| line.bytes).sum();
        assert!(plan.total <= budget && plan.total == fixed + cost.bytes(now));
        plan.budget = budget;
        plan.budget_source = BudgetSource::Absolute;
        plan.kv = cost.plan(counts, self.kv.tier_slots);
        plan.verdict = Verdict::Fits {
            capacity: capacity(&plan.kv, plan.model_len, plan.running_max),
        };
        Ok(plan)
    }
}
