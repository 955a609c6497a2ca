//! How much the process may hold, and why.

use std::fmt;

use kvist_base::Bytes;

use crate::limits::MemoryLimit;
use crate::machine::Machine;

/// Least memory left to the rest of the system.
const SAFETY_MIN: Bytes = Bytes(16 << 20);
/// Most memory left to the rest of the system.
pub(crate) const SAFETY_MAX: Bytes = Bytes(512 << 20);
/// Between the two: this part of the memory.
const SAFETY_DIVISOR: u64 = 32;

/// What set the budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BudgetSource {
    /// The operator's share of the memory.
    Fraction {
        /// The share.
        share: f64,
        /// What it is of.
        of: Bytes,
        /// Whether that is a container's limit.
        contained: bool,
    },
    /// The operator's share of a device's memory.
    Device {
        /// The share.
        share: f64,
        /// The memory of one device.
        of: Bytes,
    },
    /// The operator's number.
    Absolute,
    /// Less is available than the operator allowed.
    Available {
        /// What is available now.
        available: Bytes,
        /// What of it is left to the rest of the system.
        safety: Bytes,
    },
}

impl fmt::Display for BudgetSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction {
                share,
                of,
                contained,
            } => {
                let owner = if *contained {
                    "container's"
                } else {
                    "machine's"
                };
                write!(f, "{:.0} % of the {owner} {of}", share * 100.0)
            }
            Self::Device { share, of } => {
                write!(f, "{:.0} % of the device's {of}", share * 100.0)
            }
            Self::Absolute => f.write_str("as asked"),
            Self::Available { available, safety } => {
                write!(
                    f,
                    "{available} available now, less {safety} left to the system"
                )
            }
        }
    }
}

/// What is left to the rest of a system with this much memory.
pub(crate) fn safety(total: Bytes) -> Bytes {
    Bytes(total.0 / SAFETY_DIVISOR).clamp(SAFETY_MIN, SAFETY_MAX)
}

/// The most the operator's limit could be set to on this machine now.
pub(crate) fn budget_max(machine: &Machine) -> Bytes {
    machine.available().saturating_sub(safety(machine.total()))
}

/// The budget: the operator's limit, but no more than can be had now.
pub(crate) fn budget(machine: &Machine, limit: MemoryLimit) -> (Bytes, BudgetSource) {
    let total = machine.total();
    let (asked, source) = match limit {
        MemoryLimit::Absolute(bytes) => (bytes, BudgetSource::Absolute),
        MemoryLimit::Fraction(share) => {
            let contained = machine.is_contained();
            (
                share_of(total, share),
                BudgetSource::Fraction {
                    share,
                    of: total,
                    contained,
                },
            )
        }
    };
    let available_max = budget_max(machine);
    if asked <= available_max {
        return (asked, source);
    }
    let (available, safety) = (machine.available(), safety(total));
    (available_max, BudgetSource::Available { available, safety })
}

/// `share` is checked to be above 0 and at most 1, so the product is within `total`.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(crate) fn share_of(total: Bytes, share: f64) -> Bytes {
    Bytes((total.0 as f64 * share) as u64).min(total)
}
