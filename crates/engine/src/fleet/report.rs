//! Where the bytes of a fleet are.

use kvist_base::Bytes;
use kvist_plan::{LedgerLine, PROCESS_LINES, Plan};
use serde::Serialize;

use super::Fleet;
use super::books::Place;
use crate::load::Engine;
use crate::memory::{KvReport, MemoryReport, ProcessMemory};

/// Where the bytes are: of the process, and of each model. The planned bytes of all lines together
/// are within the budget.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetMemory {
    /// What the process may hold.
    pub budget: Bytes,
    /// What the process needs once, then what each model needs.
    pub lines: Vec<FleetLine>,
    /// Every model, loaded or not.
    pub models: Vec<FleetModelMemory>,
    /// The process as the system counts it; `None` where it does not say.
    pub process: Option<ProcessMemory>,
}

/// A line of the process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetLine {
    /// The model it is for, by its first name; `None`: for all that a fleet has.
    pub model: Option<String>,
    /// What is planned, committed and used.
    pub line: LedgerLine,
}

/// A model and what it may hold.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetModelMemory {
    /// Its first name.
    pub name: String,
    /// Where it is.
    pub state: ModelState,
    /// Whether a request uses it now.
    pub is_busy: bool,
    /// The KV pool, while the model is in memory.
    pub kv: Option<KvReport>,
    /// Its plan as in force; of a model that is not in memory, as it would be with an even share.
    pub plan: Plan,
}

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// On the disk alone.
    Unloaded,
    /// On its way into memory.
    Loading,
    /// In memory.
    Ready,
    /// On its way out.
    Unloading,
}

impl FleetMemory {
    /// The report of one model that has the process for itself.
    pub fn of_one(name: &str, is_busy: bool, report: MemoryReport) -> Self {
        let line = |line: LedgerLine| FleetLine {
            model: Some(name.to_owned()),
            line,
        };
        Self {
            budget: report.budget,
            lines: report.lines.into_iter().map(line).collect(),
            models: vec![FleetModelMemory {
                name: name.to_owned(),
                state: ModelState::Ready,
                is_busy,
                kv: Some(report.kv),
                plan: report.plan,
            }],
            process: report.process,
        }
    }
}

impl Fleet {
    /// Where the bytes are, as of each engine's last step.
    pub fn memory(&self) -> FleetMemory {
        let (budget, moment) = self.moment();
        let mut lines: Vec<FleetLine> = process_lines().collect();
        let mut models = Vec::new();
        for (member, now) in self.members().iter().zip(moment) {
            let (plan, kv) = match &now.report {
                Some(report) => (report.plan.clone(), Some(report.kv)),
                None => (member.plan.clone(), None),
            };
            for line in now.report.into_iter().flat_map(|report| report.lines) {
                lines.push(FleetLine {
                    model: Some(member.name().to_owned()),
                    line: own_part(line),
                });
            }
            models.push(FleetModelMemory {
                name: member.name().to_owned(),
                state: now.state,
                is_busy: now.is_busy,
                kv,
                plan,
            });
        }
        FleetMemory {
            budget,
            lines,
            models,
            process: ProcessMemory::read(),
        }
    }

    /// The budget and every model at one moment: while the books are open no step begins or ends, so
    /// that what a model has given back is not counted once more in another.
    fn moment(&self) -> (Bytes, Vec<Moment>) {
        let state = self.lock();
        let model = |(model, engine): (usize, &Option<Engine>)| Moment {
            state: ModelState::of(state.books.place(model)),
            is_busy: state.books.is_busy(model),
            report: engine.as_ref().map(|engine| engine.handle().memory()),
        };
        let models = state.engines.iter().enumerate().map(model).collect();
        (state.books.budget(), models)
    }
}

/// A model at one moment.
struct Moment {
    state: ModelState,
    is_busy: bool,
    report: Option<MemoryReport>,
}

impl ModelState {
    fn of(place: Place) -> Self {
        match place {
            Place::Out => Self::Unloaded,
            Place::Arriving { .. } => Self::Loading,
            Place::In { .. } => Self::Ready,
            Place::Leaving { .. } => Self::Unloading,
        }
    }
}

/// What the process needs once, which it holds whatever is loaded.
fn process_lines() -> impl Iterator<Item = FleetLine> {
    PROCESS_LINES.into_iter().map(|(kind, bytes)| FleetLine {
        model: None,
        line: LedgerLine {
            kind,
            name: kind.name().to_owned(),
            planned: bytes,
            committed: bytes,
            used: bytes,
        },
    })
}

/// A line without what the process needs once: every engine counts that.
fn own_part(mut line: LedgerLine) -> LedgerLine {
    let once = PROCESS_LINES.iter().find(|(kind, _)| *kind == line.kind);
    if let Some((_, bytes)) = once {
        for part in [&mut line.planned, &mut line.committed, &mut line.used] {
            *part = part.saturating_sub(*bytes);
        }
    }
    line
}
