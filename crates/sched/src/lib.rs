//! What runs next and which KV blocks it owns: a pure state machine.
//!
//! No clock, no thread, no randomness, no I/O: the same calls give the same plans, so every
//! history can be replayed. One step is *decide, do, commit*:
//!
//! ```text
//! admit(NewSequence) ──► waiting ──schedule──► running ──commit──► FinishedSequence
//!                           ▲                     │
//!                           └──────preempt────────┘
//! ```
//!
//! There is no prefill or decode state. A sequence has `computed_len < known_len`, and a step hands
//! out spans (`Chunk`) until they meet; chunked prefill, prefix hits and recomputation after a
//! preemption are the same thing seen from different starts.
//!
//! A plan also says what is to be in which block before anything is computed: contents to write to a
//! second tier, to read from it, to copy.
//!
//! KV memory is a pool of blocks. A block is in exactly one of three states: *free* (no content
//! worth keeping), *held* (in at least one block table) or *cached* (indexed by its content, in no
//! table; evictable). See `kv` for how blocks are shared.

mod begin;
mod catch_up;
mod commit;
mod config;
mod draft;
mod fairness;
mod kv;
mod plan;
mod queue;
mod resize;
mod schedule;
mod scheduler;
mod sequence;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod tests;
mod tier;

pub use config::{
    Admission, AdmitError, CacheInUse, ConfigError, Fairness, ResizeError, SchedulerConfig,
};
pub use kv::{
    BlockCopy, BlockState, PoolCounts, Restore, Spill, TierEntry, TierEntryError, TierSlot,
};
pub use plan::{Chunk, ChunkEnd, ChunkOutcome, StepOutcome, StepPlan};
pub use resize::Resized;
pub use scheduler::{Dropped, Scheduler, TierCosts, Totals};
pub use sequence::{FinishedSequence, NewSequence, PromptLogits, SequenceState, SequenceView};
