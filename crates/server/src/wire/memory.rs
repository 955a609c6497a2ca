//! `/v1/memory`: where the bytes are, and how many there may be.

use kvist_engine::plan::Plan;
use kvist_engine::{FleetLine, FleetMemory, FleetModelMemory, KvReport, ModelState, ProcessMemory};
use serde::Serialize;
use serde_json::value::RawValue;

use super::read::{ReadError, Reader, WireValue, wire_object};

wire_object! {
    /// What `PUT /v1/memory` takes.
    pub(crate) struct MemoryRequest {
        budget: SizeText,
    }
}

/// A number of bytes as it was sent: `"3GiB"` or `3221225472`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SizeText(pub(crate) String);

impl WireValue for SizeText {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'"') => reader.plain(raw).map(Self),
            Some(b'0'..=b'9') => Ok(Self(text.to_owned())),
            _ => Err(reader.error("expected a size such as \"3GiB\", or a number of bytes")),
        }
    }
}

/// What `/v1/memory` answers. All sizes are in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryAnswer {
    /// What the process may hold.
    budget: u64,
    /// Sums over all lines.
    planned: u64,
    committed: u64,
    used: u64,
    lines: Vec<Line>,
    models: Vec<Model>,
    /// The process as the system counts it.
    process: Option<ProcessMemory>,
}

#[derive(Debug, Serialize)]
struct Line {
    /// The model it is for; null: for all of several.
    model: Option<String>,
    #[serde(flatten)]
    line: kvist_engine::plan::LedgerLine,
}

#[derive(Debug, Serialize)]
struct Model {
    id: String,
    state: ModelState,
    busy: bool,
    kv: Option<KvReport>,
    plan: Plan,
}

impl From<FleetMemory> for MemoryAnswer {
    fn from(memory: FleetMemory) -> Self {
        let lines = &memory.lines;
        let sum = |of: fn(&FleetLine) -> u64| lines.iter().map(of).sum();
        Self {
            budget: memory.budget.0,
            planned: sum(|line| line.line.planned.0),
            committed: sum(|line| line.line.committed.0),
            used: sum(|line| line.line.used.0),
            lines: memory.lines.into_iter().map(Line::from).collect(),
            models: memory.models.into_iter().map(Model::from).collect(),
            process: memory.process,
        }
    }
}

impl From<FleetLine> for Line {
    fn from(FleetLine { model, line }: FleetLine) -> Self {
        Self { model, line }
    }
}

impl From<FleetModelMemory> for Model {
    fn from(model: FleetModelMemory) -> Self {
        Self {
            id: model.name,
            state: model.state,
            busy: model.is_busy,
            kv: model.kv,
            plan: model.plan,
        }
    }
}
