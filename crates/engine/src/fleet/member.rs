//! The models of a fleet as planned: each alone, and all together.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kvist_base::{Bytes, Tokens};
use kvist_plan::{Limits, Machine, MemoryLimit, PROCESS_BYTES, Plan, PlanError};

use super::books::Needs;
use super::error::FleetPlanError;
use crate::load::{PlannedModel, plan_file};
use crate::plan_change::{PlanBasis, PlanChange};

/// A model to be served.
#[derive(Clone, Debug)]
pub struct FleetModel {
    /// Names it goes by; its own if there are none.
    pub names: Vec<String>,
    /// Its file.
    pub path: PathBuf,
}

/// A model of a fleet, loaded or not.
#[derive(Clone, Debug)]
pub struct FleetMember {
    /// Names it goes by, at least one.
    pub names: Vec<String>,
    /// What it calls itself.
    pub root: String,
    /// Its file.
    pub path: PathBuf,
    /// Where its bytes would go, with an even share of the budget.
    pub plan: Plan,
    /// What the file left open and how it was read.
    pub notes: Vec<String>,
    /// What the plan was made with: loading under the same limits gives the same plan.
    pub(super) basis: PlanBasis,
}

impl FleetMember {
    /// The name answers carry.
    pub fn name(&self) -> &str {
        &self.names[0]
    }

    /// Largest prompt and output together.
    pub fn model_len(&self) -> Tokens {
        self.plan.model_len
    }

    /// Where every byte would go under other limits, whether the model is loaded or not. The budget
    /// is the one the model was planned with, unless the change says otherwise.
    ///
    /// # Errors
    /// A limit that makes no sense. A model that would not fit is a plan that says so.
    pub fn plan_with(&self, change: PlanChange) -> Result<Plan, PlanError> {
        self.basis.plan(change)
    }

    pub(super) fn needs(&self) -> Needs {
        let fixed = self.plan.fixed();
        Needs {
            fixed: fixed - PROCESS_BYTES,
            kv_min: self.plan.budget_min() - fixed,
            kv_max: self.plan.budget_max() - fixed,
        }
    }
}

/// Plans each model, and says what the whole process may hold.
///
/// The length of sequences is settled here, once, so that it does not depend on what else is loaded
/// at the time. Where the operator leaves it open it is the longest that an even share of the budget
/// holds; if not all models fit at once, the longest that the model alone has room for.
pub(super) fn plan_members(
    models: Vec<FleetModel>,
    machine: &Machine,
    limits: &Limits,
) -> Result<(Bytes, Vec<FleetMember>), FleetPlanError> {
    let alone: Vec<FleetMember> = models
        .into_iter()
        .map(|model| plan_one(model, machine, limits.clone()))
        .collect::<Result<_, _>>()?;
    for member in &alone {
        if !member.plan.fits() {
            return Err(FleetPlanError::DoesNotFit {
                model: member.name().to_owned(),
                plan: Box::new(member.plan.clone()),
            });
        }
    }
    check_names(&alone)?;
    let budget = alone.iter().map(|member| member.plan.budget).min();
    let budget = budget.unwrap_or(Bytes::ZERO);
    let together = even_shares(&alone, machine, budget)?;
    Ok((budget, together.unwrap_or(alone)))
}

fn plan_one(
    FleetModel { names, path }: FleetModel,
    machine: &Machine,
    limits: Limits,
) -> Result<FleetMember, FleetPlanError> {
    let planned = plan_file(&path, machine, &limits);
    let PlannedModel {
        shape, plan, notes, ..
    } = planned.map_err(|source| FleetPlanError::Model {
        model: first_name(&names, &path.to_string_lossy()).to_owned(),
        source: Box::new(source),
    })?;
    let names = if names.is_empty() {
        vec![shape.name.clone()]
    } else {
        names
    };
    Ok(FleetMember {
        names,
        root: shape.name.clone(),
        path,
        plan,
        notes,
        basis: PlanBasis {
            shape,
            machine: *machine,
            limits,
        },
    })
}

/// The same models with an even share of the budget each; `None` if they do not all fit at once.
fn even_shares(
    alone: &[FleetMember],
    machine: &Machine,
    budget: Bytes,
) -> Result<Option<Vec<FleetMember>>, FleetPlanError> {
    let fixed: Bytes = alone.iter().map(|member| member.needs().fixed).sum();
    let Some(left) = budget.0.checked_sub((PROCESS_BYTES + fixed).0) else {
        return Ok(None);
    };
    let share = Bytes(left / alone.len() as u64);
    let mut members = Vec::with_capacity(alone.len());
    for member in alone {
        let limits = Limits {
            memory: MemoryLimit::Absolute(member.plan.fixed() + share),
            ..member.basis.limits.clone()
        };
        let model = FleetModel {
            names: member.names.clone(),
            path: member.path.clone(),
        };
        members.push(plan_one(model, machine, limits)?);
    }
    let all_fit = members.iter().all(|member| member.plan.fits());
    Ok(all_fit.then_some(members))
}

fn check_names(members: &[FleetMember]) -> Result<(), FleetPlanError> {
    let mut seen = BTreeSet::new();
    for name in members.iter().flat_map(|member| &member.names) {
        if !seen.insert(name) {
            return Err(FleetPlanError::NameTaken { name: name.clone() });
        }
    }
    Ok(())
}

fn first_name<'a>(names: &'a [String], path: &'a str) -> &'a str {
    names.first().map_or(path, String::as_str)
}
