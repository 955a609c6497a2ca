//! The loop: intake, schedule, forward, sample, commit, emit.
//!
//! One engine thread owns the scheduler, the KV pool, the model and every sequence's state; callers
//! reach it through an [`EngineHandle`] and read a bounded stream of [`StreamEvent`]s. Start reading
//! at `step.rs`: it is the architecture on one screen.

mod assemble;
mod constrain;
mod control;
mod cores;
mod draft;
mod emit;
mod error;
#[cfg(any(test, feature = "faults"))]
pub mod faults;
mod fleet;
mod handle;
mod hf_shape;
mod identity;
mod idle;
mod keeper;
mod live;
mod load;
mod machine;
mod map;
mod memory;
mod metrics;
mod pack;
mod places;
mod plan_change;
mod prompt;
mod pulse;
mod request;
mod run;
mod score;
mod shape;
mod shared;
mod speculation;
mod step;
#[cfg(test)]
mod tests;
mod tier;
mod transfer;
mod vocab;
mod what_if;

pub use constrain::FileGrammars;
pub use cores::Cores;
pub use draft::{DraftError, draft_shape};
pub use emit::{Delta, Finished, Progress, StoppedBy, StreamEvent, TokenLogprobs, Usage};
pub use error::{EngineFault, RequestError, SubmitError};
pub use fleet::{
    Fleet, FleetError, FleetLine, FleetMember, FleetMemory, FleetModel, FleetModelMemory,
    FleetPlanError, Lease, ModelState,
};
pub use handle::{EngineHandle, EngineStatus, ModelInfo, RequestHandle};
pub use load::{
    Engine, EngineOptions, ErrorClass, LoadError, PlannedModel, ShutdownReport, plan_file,
};
pub use machine::read_machine;
pub use map::{
    BlockMap, CellContent, MAP_AGE_MAX, MAP_CELLS_MAX, MAP_SEQUENCES_MAX, MapCounts, MapSequence,
};
pub use memory::{BudgetError, KvReport, MemoryReport, ProcessMemory, ResetError};
pub use metrics::{FinishedCounts, Histogram, MetricsSnapshot, RequestHistograms};
pub use plan_change::PlanChange;
pub use request::{
    BeginToken, EndTokens, GenerateSpec, Prompt, PromptOptions, PromptTokens, SpecialTokens,
    StopText, Truncation, TruncationSide,
};
pub use score::{ScoreError, ScoreOptions, Scorer};
pub use speculation::{DraftLength, Speculation, SpeculationError};
pub use tier::{TierError, TierOptions};
pub use what_if::{WhatIf, WhatIfError, plan_what_if};

// What callers need to state a request or read an answer, so that they depend on this room alone.
pub use kvist_device::{Ceilings, CpuOptions};
pub use kvist_grammar::{
    Constraint, ConstraintError, Grammar, GrammarFault, GrammarState, Progress as GrammarProgress,
    TaggedJson, TaggedValue,
};
pub use kvist_kernels::{Isa, IsaError};
pub use kvist_plan as plan;
pub use kvist_sample::{
    LOGPROB_TOKENS_MAX, LOGPROBS_MAX, ParamError, SamplingSpec, Scored, TokenLogprob,
};
pub use kvist_sched::{Admission, Fairness};
pub use kvist_text::{
    ChatInput, ChatMessage, ChatTraits, OutputParser, OutputPiece, OutputSpec, ReasoningFormat,
    SpecialText, ToolCall, ToolFormat, ToolSpec, ToolsSpec, UnknownFormat,
};
