//! Why a fleet, or a model of it, cannot serve.

use kvist_base::Bytes;
use kvist_plan::Plan;
use thiserror::Error;

use super::books::NoRoom;
use crate::load::LoadError;

/// Why these models cannot be served together.
#[derive(Debug, Error)]
pub enum FleetPlanError {
    /// A model's file cannot be planned.
    #[error("{model}: {source}")]
    Model {
        /// The model's first name.
        model: String,
        /// What is wrong with it.
        source: Box<LoadError>,
    },
    /// A model does not fit into the budget even alone; the plan says what would help.
    #[error("{model} does not fit, even alone: {plan}")]
    DoesNotFit {
        /// The model's first name.
        model: String,
        /// What it would need.
        plan: Box<Plan>,
    },
    /// A draft model has the vocabulary of one model.
    #[error("a draft model drafts for one model, not for several")]
    DraftModel,
    /// Two models go by the same name.
    #[error("two models are named {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
}

/// Why a model is not ready for a request.
#[derive(Debug, Error)]
pub enum FleetError {
    /// It does not fit beside the models that are busy: try again when they are not.
    #[error(
        "{model} is not loaded, and with the models that are busy it needs {needed}; the budget is \
         {budget}: try again when they are done"
    )]
    NoRoom {
        /// The model's first name.
        model: String,
        /// What it and the busy models need together, at least.
        needed: Bytes,
        /// What the process may hold.
        budget: Bytes,
    },
    /// It cannot be loaded any more.
    #[error("{model} cannot be loaded: {source}")]
    Load {
        /// The model's first name.
        model: String,
        /// Why.
        source: Box<LoadError>,
    },
    /// An engine of the fleet has stopped after a fault.
    #[error("the engine of {model} has stopped after a fault")]
    Stopped {
        /// The model's first name.
        model: String,
    },
    /// The fleet takes nothing new.
    #[error("the server is shutting down")]
    Draining,
}

/// Why a change of the fleet ended early.
#[derive(Debug)]
pub(super) enum Halt {
    NoRoom(NoRoom),
    Load(usize, Box<LoadError>),
    Stopped(usize),
}

impl From<NoRoom> for Halt {
    fn from(refusal: NoRoom) -> Self {
        Self::NoRoom(refusal)
    }
}
