//! What the operator asked for.

use kvist_base::{Bytes, KvDtype, Tokens};

use crate::error::{Given, PlanError, PlanLimit};
use crate::shape::ModelShape;

/// How much memory the whole process may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// A share of the machine's memory, above 0 and at most 1.
    Fraction(f64),
    /// So many bytes.
    Absolute(Bytes),
}

/// How many of the weights are streamed from the file, step by step, instead of kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// None: a model whose weights do not fit is refused.
    #[default]
    Off,
    /// As many layers as it takes to fit, and none when everything fits.
    Auto,
    /// Layers of at least so many bytes, and more when it takes more to fit.
    AtLeast(Bytes),
    /// Every decoder layer.
    All,
}

/// The operator's limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Ceiling for the whole process.
    pub memory: MemoryLimit,
    /// Longest sequence, prompt and output; `None` is the longest that fits.
    pub model_len: Option<Tokens>,
    /// Most sequences that run at once.
    pub running_max: u32,
    /// Most requests that wait beyond those that run.
    pub waiting_max: u32,
    /// Most tokens one step computes.
    pub step_tokens_max: Tokens,
    /// Most draft tokens of one step, of all sequences together; 0: there is no speculation.
    pub draft_max: Tokens,
    /// A second, smaller model that drafts for the served one.
    pub draft_model: Option<Box<ModelShape>>,
    /// Whether outputs may be put under a grammar: its tables take memory.
    pub structured_outputs: bool,
    /// Tokens of a KV block.
    pub block_size: Tokens,
    /// How the KV cache stores a value.
    pub kv_dtype: KvDtype,
    /// Exact size of the KV pool, in whole blocks; `None` is what the budget leaves.
    pub kv_cache: Option<Bytes>,
    /// Size on disk of the tier that evicted KV blocks are spilled to.
    pub spill: Option<Bytes>,
    /// How many of the weights are streamed.
    pub offload: Offload,
    /// Worker threads, the engine's own included.
    pub threads: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: MemoryLimit::Fraction(0.9),
            model_len: None,
            running_max: 64,
            waiting_max: 256,
            step_tokens_max: Tokens(512),
            draft_max: Tokens::ZERO,
            draft_model: None,
            structured_outputs: false,
            block_size: Tokens(16),
            kv_dtype: KvDtype::default(),
            kv_cache: None,
            spill: None,
            offload: Offload::Off,
            threads: 1,
        }
    }
}

impl Limits {
    /// Rows of a step that have logits, at most: one for each sequence, or one sequence and the longest
    /// drafts. Drafts take the rows that sequences leave; they pay when few sequences run.
    pub fn logit_rows(&self) -> u64 {
        u64::from(self.running_max).max(u64::from(self.draft_max.0) + 1)
    }

    /// Refuses limits nothing can be planned with. The upper bounds keep products inside 64 bits.
    pub(crate) fn check(&self, model: &ModelShape) -> Result<(), PlanError> {
        let counts = [
            ("max_num_seqs", self.running_max.into(), 1 << 16),
            ("max_waiting", u64::from(self.waiting_max) + 1, 1 << 20),
            (
                "max_num_batched_tokens",
                self.step_tokens_max.0.into(),
                1 << 20,
            ),
            (
                "num_speculative_tokens",
                u64::from(self.draft_max.0) + 1,
                1 << 10,
            ),
            ("block_size", self.block_size.0.into(), 1 << 12),
            ("threads", self.threads.into(), 1 << 12),
        ];
        for (field, given, max) in counts {
            PlanError::check(field, given, 1, max)?;
        }
        let sizes = [
            ("kv_cache_memory_bytes", self.kv_cache),
            ("kv_spill", self.spill),
        ];
        for (field, size) in sizes {
            PlanError::check(field, size.map_or(1, |size| size.0), 1, 1 << 56)?;
        }
        if let Some(draft) = &self.draft_model {
            draft.check()?;
        }
        if let Some(asked) = self.model_len {
            check_model_len(asked, model.context_max)?;
        }
        match self.memory {
            MemoryLimit::Fraction(share) if !(share > 0.0 && share <= 1.0) => Err(PlanError {
                field: "gpu_memory_utilization",
                limit: PlanLimit::Fraction,
                given: Given::Number(share),
            }),
            MemoryLimit::Absolute(bytes) => PlanError::check("memory", bytes.0, 1, u64::MAX),
            MemoryLimit::Fraction(_) => Ok(()),
        }
    }
}

fn check_model_len(asked: Tokens, context_max: Tokens) -> Result<(), PlanError> {
    let field = "max_model_len";
    let (given, max) = (u64::from(asked.0), u64::from(context_max.0));
    if given > max {
        let limit = PlanLimit::ModelContext(max);
        return Err(PlanError {
            field,
            limit,
            given: Given::Count(given),
        });
    }
    PlanError::check(field, given, 1, max)
}
