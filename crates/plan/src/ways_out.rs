//! What the operator can change so that a model fits. Each way out is enough on its own.

use std::fmt;

use kvist_base::{Bytes, Tokens};
use serde::Serialize;

use crate::budget::{SAFETY_MAX, budget_max, safety};
use crate::limits::Limits;
use crate::lines::{activation_bytes, bytes_per_sequence};
use crate::machine::Machine;
use crate::planner::MODEL_LEN_MIN;
use crate::serial;
use crate::shape::ModelShape;

/// Steps shorter than this waste most of every pass over the weights.
const STEP_TOKENS_MIN: u64 = 32;
/// The smallest part of its size a model can shrink to: 16-bit weights encoded in 4 bits.
const SHRINK_DIVISOR: u64 = 4;

/// One change that makes the model fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WayOut {
    /// Ask for a shorter context.
    SmallerContext {
        /// The longest that fits.
        #[serde(serialize_with = "serial::tokens")]
        model_len: Tokens,
    },
    /// Run fewer sequences at once.
    FewerSequences {
        /// The most that fit.
        running_max: u32,
    },
    /// Compute fewer tokens a step.
    SmallerStep {
        /// The most that fit.
        #[serde(serialize_with = "serial::tokens")]
        step_tokens_max: Tokens,
    },
    /// Allow more of the memory that is there.
    RaiseBudget {
        /// The least that is enough, in whole mebibytes.
        #[serde(serialize_with = "serial::bytes")]
        memory: Bytes,
    },
    /// Free memory, or use a larger machine or container.
    MoreMemory {
        /// How much has to be available.
        #[serde(serialize_with = "serial::bytes")]
        available: Bytes,
        /// The budget to set then, in whole mebibytes.
        #[serde(serialize_with = "serial::bytes")]
        memory: Bytes,
    },
    /// Use a file of the model with fewer bits a weight.
    LighterWeights {
        /// The most the weights may take.
        #[serde(serialize_with = "serial::bytes")]
        weights_max: Bytes,
    },
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SmallerContext { model_len } => {
                write!(f, "a shorter context: --max-model-len {}", model_len.0)
            }
            Self::FewerSequences { running_max } => {
                write!(f, "fewer sequences at once: --max-num-seqs {running_max}")
            }
            Self::SmallerStep { step_tokens_max } => {
                write!(
                    f,
                    "smaller steps: --max-num-batched-tokens {}",
                    step_tokens_max.0
                )
            }
            Self::RaiseBudget { memory } => {
                write!(f, "a larger budget: --memory {}MiB", mebibytes(*memory))
            }
            Self::MoreMemory { available, memory } => {
                let memory = mebibytes(*memory);
                write!(
                    f,
                    "{available} of available memory, with --memory {memory}MiB"
                )
            }
            Self::LighterWeights { weights_max } => {
                write!(
                    f,
                    "a file of this model with fewer bits a weight, at most {weights_max}"
                )
            }
        }
    }
}

fn mebibytes(bytes: Bytes) -> u64 {
    bytes.0.div_ceil(Bytes::MIB.0)
}

/// By how much a model does not fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    /// Memory for one sequence of the length wanted.
    pub needed: Bytes,
    /// Memory there is.
    pub budget: Bytes,
    /// Tokens the KV pool could hold in what the other lines leave.
    pub room: Tokens,
}

impl Shortage {
    pub(crate) fn shortfall(&self) -> Bytes {
        self.needed.saturating_sub(self.budget)
    }

    /// How many of `count` have to go when each gives back `bytes_each`; `None` if less than
    /// `count_min` would be left.
    fn reduce(&self, count: u32, count_min: u64, bytes_each: Bytes) -> Option<u32> {
        let surplus = self.shortfall().0.div_ceil(bytes_each.0);
        let left = u64::from(count).checked_sub(surplus)?;
        u32::try_from(left).ok().filter(|_| left >= count_min)
    }
}

/// The single changes that make up for `shortage`, the cheapest for the user first.
pub(crate) fn ways_out(
    shortage: &Shortage,
    model: &ModelShape,
    machine: &Machine,
    limits: &Limits,
) -> Vec<WayOut> {
    let context = (limits.model_len.is_some() && shortage.room >= MODEL_LEN_MIN).then_some(
        WayOut::SmallerContext {
            model_len: shortage.room,
        },
    );
    let sequences = shortage
        .reduce(limits.running_max, 1, bytes_per_sequence(model))
        .map(|running_max| WayOut::FewerSequences { running_max });
    let step = shortage
        .reduce(
            limits.step_tokens_max.0,
            STEP_TOKENS_MIN,
            activation_bytes(model, Tokens(1)),
        )
        .map(|tokens| WayOut::SmallerStep {
            step_tokens_max: Tokens(tokens),
        });
    let memory = Some(more_memory(shortage.needed, machine));
    let lighter = model
        .weight_bytes()
        .0
        .checked_sub(shortage.shortfall().0)
        .filter(|weights_max| *weights_max >= model.weight_bytes().0 / SHRINK_DIVISOR)
        .map(|weights_max| WayOut::LighterWeights {
            weights_max: Bytes(weights_max),
        });
    [context, sequences, step, memory, lighter]
        .into_iter()
        .flatten()
        .collect()
}

/// The budget to ask for if the machine has it, or how much it would have to have.
fn more_memory(needed: Bytes, machine: &Machine) -> WayOut {
    let memory = Bytes::MIB * mebibytes(needed);
    if memory <= budget_max(machine) {
        return WayOut::RaiseBudget { memory };
    }
    // What is left to the system grows with its memory, so it is reckoned for enough of it,
    // and for the machine itself in case the way out is to lift a container's limit.
    let total = machine.mem_total.max(memory + SAFETY_MAX);
    WayOut::MoreMemory {
        available: memory + safety(total),
        memory,
    }
}
