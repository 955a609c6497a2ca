//! What is held, line by line, against what was planned.

use kvist_base::Bytes;
use serde::Serialize;
use thiserror::Error;

use crate::lines::LineKind;
use crate::planner::Plan;
use crate::serial;

/// What one line holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Memory the system has given.
    pub committed: Bytes,
    /// What of it has content that is wanted.
    pub used: Bytes,
}

/// All lines of one kind together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerLine {
    /// What they are for.
    pub kind: LineKind,
    /// The kind's name in reports.
    pub name: String,
    /// What the plan allows.
    #[serde(serialize_with = "serial::bytes")]
    pub planned: Bytes,
    /// Memory the system has given.
    #[serde(serialize_with = "serial::bytes")]
    pub committed: Bytes,
    /// What of it has content that is wanted.
    #[serde(serialize_with = "serial::bytes")]
    pub used: Bytes,
}

/// A line would hold more than its plan allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{} would hold {wanted}, but {planned} are planned", line.name())]
pub struct OverPlan {
    /// Which.
    pub line: LineKind,
    /// What the plan allows.
    pub planned: Bytes,
    /// What was to be held.
    pub wanted: Bytes,
}

/// What a process holds of its plan: one line for each kind the plan has. A pure value; whoever
/// allocates says so here first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    lines: Vec<LedgerLine>,
    budget: Bytes,
}

impl Ledger {
    /// Opens the books of a plan that fits; nothing is held yet.
    ///
    /// # Panics
    /// When the plan does not fit: nothing may be allocated under it.
    pub fn new(plan: &Plan) -> Self {
        assert!(plan.fits() && plan.total <= plan.budget);
        let line = |kind: LineKind| {
            let mut lines = plan
                .lines
                .iter()
                .filter(|line| line.kind == kind)
                .peekable();
            lines.peek()?;
            Some(LedgerLine {
                kind,
                name: kind.name().to_owned(),
                planned: lines.map(|line| line.bytes).sum(),
                committed: Bytes::ZERO,
                used: Bytes::ZERO,
            })
        };
        let lines: Vec<LedgerLine> = LineKind::ALL.into_iter().filter_map(line).collect();
        // Every line of the plan is of a listed kind, so nothing is left out of the sum.
        assert_eq!(
            lines.iter().map(|line| line.planned).sum::<Bytes>(),
            plan.total
        );
        Self {
            lines,
            budget: plan.budget,
        }
    }

    /// Every line, in the order of the plan.
    pub fn lines(&self) -> &[LedgerLine] {
        &self.lines
    }

    /// Says what a line holds now.
    ///
    /// # Errors
    /// When that is more than its plan; the line is as before. A kind without a line has a plan
    /// of nothing.
    pub fn set(&mut self, kind: LineKind, holding: Holding) -> Result<(), OverPlan> {
        let Holding { committed, used } = holding;
        let wanted = committed.max(used);
        let line = self.lines.iter_mut().find(|line| line.kind == kind);
        let planned = line.as_ref().map_or(Bytes::ZERO, |line| line.planned);
        if wanted > planned {
            return Err(OverPlan {
                line: kind,
                planned,
                wanted,
            });
        }
        if let Some(line) = line {
            (line.committed, line.used) = (committed, used);
        }
        assert!(self.committed() <= self.budget);
        Ok(())
    }

    /// Goes on under another plan, with what is held.
    ///
    /// # Panics
    /// When the plan does not fit, or a line holds more than it allows: memory is given back before
    /// the plan that has no room for it.
    pub fn replan(&mut self, plan: &Plan) {
        let mut next = Self::new(plan);
        for line in &self.lines {
            let holding = Holding {
                committed: line.committed,
                used: line.used,
            };
            let kept = next.set(line.kind, holding);
            assert_eq!(kept, Ok(()), "memory is given back before the plan shrinks");
        }
        *self = next;
    }

    /// What all lines hold.
    pub fn committed(&self) -> Bytes {
        self.lines.iter().map(|line| line.committed).sum()
    }

    /// Most that may be held.
    pub fn budget(&self) -> Bytes {
        self.budget
    }
}
