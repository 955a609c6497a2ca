//! The lines of the sum that do not depend on how much is left for the KV pool.

use kvist_base::{Bytes, Tokens};
use serde::Serialize;

use crate::draft::draft_model_lines;
use crate::limits::Limits;
use crate::offload::OffloadPlan;
use crate::serial;
use crate::shape::{ModelShape, WeightKind, WeightLine};

/// Activations are computed in single precision.
const ACTIVATION_BYTES: u64 = 4;
/// A token's id, position, slot and sequence index in the flat arrays of a step.
const STEP_ENTRY_BYTES: u64 = 16;
/// One logit.
pub(crate) const LOGIT_BYTES: u64 = 4;
/// Per token of the vocabulary the sampler keeps an edited logit and a candidate.
const SAMPLER_ENTRY_BYTES: u64 = 4 + 16;
/// A vocabulary entry with its text, both directions of the map, and its merge rule, at the peak while
/// the tokenizer is built. Anonymous memory grows by 150 bytes an entry for Qwen2.5 (151 936 entries)
/// and by 136 for SmolLM2 (49 152), chat template included, under glibc's allocator.
const TOKENIZER_ENTRY_BYTES: u64 = 152;
/// A worker's stack as touched; its scratch is among the activations.
const WORKER_BYTES: u64 = 64 << 10;
/// A client's connection, request and output waiting to be sent.
const CLIENT_BYTES: u64 = 24 << 10;
/// Connections there is room for whatever the limits: those who are refused, or ask for nothing,
/// are connected all the same.
const CLIENTS_MIN: u64 = 256;
/// Drafts are looked for no further back than this.
const DRAFT_WINDOW_MAX: u32 = 1 << 15;
/// A token in the tries that grammars are matched with: five tries or six hold most of the
/// vocabulary, as bytes, nodes and offsets.
const GRAMMAR_ENTRY_BYTES: u64 = 224;
/// Compiled grammars that are kept.
const GRAMMAR_CACHE_BYTES: u64 = 16 << 20;
/// In the index drafts are looked for with, a token has a place in a chain, and the head of one.
pub const DRAFT_TOKEN_BYTES: u64 = 8;
/// Listener, runtime and metrics, whatever the load.
const HTTP_BASE_BYTES: u64 = 1 << 20;
/// The program's own pages as touched: 8 MiB of code and constants under full load. They belong to its
/// file, so the system can drop them, but they are resident all the same.
const PROGRAM_BYTES: u64 = 9 << 20;
/// What the allocator keeps beside what is counted elsewhere.
const MARGIN_BASE_BYTES: u64 = 2 << 20;
/// The unused ends of the pages that weights lie in, as a part of resident weights.
const MARGIN_WEIGHT_DIVISOR: u64 = 1000;

/// The parts of lines that a process needs once, however many models it serves: plans of models that
/// share a process each count them.
pub const PROCESS_LINES: [(LineKind, Bytes); 3] = [
    (LineKind::Http, Bytes(HTTP_BASE_BYTES)),
    (LineKind::Program, Bytes(PROGRAM_BYTES)),
    (LineKind::Margin, Bytes(MARGIN_BASE_BYTES)),
];

/// The sum of [`PROCESS_LINES`].
pub const PROCESS_BYTES: Bytes = Bytes(HTTP_BASE_BYTES + PROGRAM_BYTES + MARGIN_BASE_BYTES);

/// What a line of the plan is for. Whatever the engine allocates is charged to one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// Weights in the process's own memory.
    WeightsResident,
    /// Weights that stay in the file: takes nothing, and says what it would.
    WeightsMapped,
    /// Room for the panels of streamed weights that threads work on.
    WeightsRing,
    /// KV blocks.
    KvPool,
    /// Block tables, hashes and the ids of the tokens the blocks hold.
    KvTables,
    /// Index and staging buffers of the spill tier.
    KvTier,
    /// Everything a step computes between embedding and logits.
    Activations,
    /// The step's logits.
    Logits,
    /// The sampler's scratch.
    Sampler,
    /// Vocabulary and merge rules.
    Tokenizer,
    /// Stacks and scratch of worker threads.
    Threads,
    /// Connections and their buffers.
    Http,
    /// The indices that drafts are looked for with.
    Drafts,
    /// Weights of the model that drafts.
    DraftWeights,
    /// Its KV blocks.
    DraftKv,
    /// Everything its steps compute, logits and tables included.
    DraftWork,
    /// The vocabulary as grammars are matched with, and compiled grammars.
    Grammars,
    /// Code and constants of the program, in the pages of its file.
    Program,
    /// What no line counts exactly.
    Margin,
}

impl LineKind {
    /// Every kind, in the order reports use.
    pub const ALL: [Self; 19] = [
        Self::WeightsResident,
        Self::WeightsMapped,
        Self::WeightsRing,
        Self::KvPool,
        Self::KvTables,
        Self::KvTier,
        Self::Activations,
        Self::Logits,
        Self::Sampler,
        Self::Tokenizer,
        Self::Threads,
        Self::Http,
        Self::Drafts,
        Self::DraftWeights,
        Self::DraftKv,
        Self::DraftWork,
        Self::Grammars,
        Self::Program,
        Self::Margin,
    ];

    /// The name reports use for all lines of this kind together.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WeightsResident => "weights",
            Self::WeightsMapped => "weights mapped",
            Self::WeightsRing => "weights ring",
            Self::KvPool => "kv pool",
            Self::KvTables => "kv tables",
            Self::KvTier => "kv tier",
            Self::Activations => "activations",
            Self::Logits => "logits",
            Self::Sampler => "sampler",
            Self::Tokenizer => "tokenizer",
            Self::Threads => "threads",
            Self::Http => "http buffers",
            Self::Drafts => "drafts",
            Self::DraftWeights => "draft weights",
            Self::DraftKv => "draft kv pool",
            Self::DraftWork => "draft activations",
            Self::Grammars => "grammars",
            Self::Program => "program",
            Self::Margin => "margin",
        }
    }
}

/// One named term of the sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanLine {
    /// What it is for.
    pub kind: LineKind,
    /// Its name in reports.
    pub name: String,
    /// Its size.
    #[serde(serialize_with = "serial::bytes")]
    pub bytes: Bytes,
    /// How the size comes about.
    pub note: String,
}

impl PlanLine {
    pub(crate) fn new(kind: LineKind, name: impl Into<String>, bytes: Bytes, note: String) -> Self {
        Self {
            kind,
            name: name.into(),
            bytes,
            note,
        }
    }
}

/// Bytes the activations of a step take under `limits`.
pub fn activation_bytes(model: &ModelShape, limits: &Limits) -> Bytes {
    match &model.step {
        Some(step) => step.bytes(limits, limits.model_len.unwrap_or(model.context_max)),
        None => bytes_per_step_token(model) * u64::from(limits.step_tokens_max.0),
    }
}

/// Bytes the activations of one token take: the residual stream and its normalised copy, queries,
/// keys and values, the attention's output, both halves of the feed-forward network, and the widest
/// of these once more quantised to 8 bits with scales (1.2 bytes a value).
pub(crate) fn bytes_per_step_token(model: &ModelShape) -> Bytes {
    if let Some(step) = &model.step {
        return step.per_token;
    }
    let (dim, ffn_dim) = (u64::from(model.dim), u64::from(model.ffn_dim));
    let query_dim = model.query_dim();
    let qkv = query_dim + 2 * model.key_dim();
    let values = 2 * dim + qkv + query_dim + 2 * ffn_dim;
    let widest = dim.max(ffn_dim).max(query_dim);
    let quantised = (widest * 6).div_ceil(5);
    Bytes(values * ACTIVATION_BYTES + quantised + STEP_ENTRY_BYTES)
}

/// Bytes each sequence of `running_max` adds outside the KV pool.
pub(crate) fn bytes_per_sequence(model: &ModelShape) -> Bytes {
    Bytes(u64::from(model.vocab_len) * LOGIT_BYTES + CLIENT_BYTES)
}

/// One line for each group of weights that are not streamed, and one for the memory
/// streaming needs.
pub(crate) fn weight_lines(model: &ModelShape, offload: &OffloadPlan) -> Vec<PlanLine> {
    let line = |weights: &WeightLine| {
        let name = format!("weights {}", weights.label);
        let streamed = offload.share_of(weights);
        let (kind, bytes, note) = match weights.kind {
            WeightKind::Resident if streamed == Bytes::ZERO => {
                let note = "resident".to_owned();
                (LineKind::WeightsResident, weights.bytes, note)
            }
            WeightKind::Resident => {
                let note = format!("resident; {streamed} more are streamed");
                (LineKind::WeightsResident, weights.bytes - streamed, note)
            }
            WeightKind::Mapped => {
                let note = format!("{} in the file, rows read when needed", weights.bytes);
                (LineKind::WeightsMapped, Bytes::ZERO, note)
            }
        };
        PlanLine::new(kind, name, bytes, note)
    };
    let mut lines: Vec<PlanLine> = model.weights.iter().map(line).collect();
    lines.extend(offload.ring_line(model.layers));
    lines
}

/// The part of the margin that goes with resident weights.
pub(crate) fn margin_of(resident: Bytes) -> Bytes {
    Bytes(resident.0 / MARGIN_WEIGHT_DIVISOR)
}

/// The lines that follow from limits and shape alone, and from how much is `resident`.
pub(crate) fn work_lines(model: &ModelShape, limits: &Limits, resident: Bytes) -> Vec<PlanLine> {
    let running = u64::from(limits.running_max);
    let clients = (running + u64::from(limits.waiting_max)).max(CLIENTS_MIN);
    let vocab = u64::from(model.vocab_len);
    let threads = u64::from(limits.threads);
    let step_tokens = limits.step_tokens_max;
    let mut lines = vec![
        PlanLine::new(
            LineKind::Activations,
            "activations",
            activation_bytes(model, limits),
            format!("{step_tokens} a step"),
        ),
        PlanLine::new(
            LineKind::Logits,
            "logits",
            Bytes(limits.logit_rows() * vocab * LOGIT_BYTES),
            format!("{} rows of {vocab}", limits.logit_rows()),
        ),
        PlanLine::new(
            LineKind::Sampler,
            "sampler",
            Bytes(vocab * SAMPLER_ENTRY_BYTES),
            "scratch for one row".to_owned(),
        ),
        PlanLine::new(
            LineKind::Tokenizer,
            "tokenizer",
            Bytes(vocab * TOKENIZER_ENTRY_BYTES),
            format!("{vocab} entries"),
        ),
        PlanLine::new(
            LineKind::Threads,
            "threads",
            Bytes(threads * WORKER_BYTES),
            format!("{threads} workers"),
        ),
        PlanLine::new(
            LineKind::Http,
            "http buffers",
            Bytes(HTTP_BASE_BYTES + clients * CLIENT_BYTES),
            format!("{clients} clients"),
        ),
        PlanLine::new(
            LineKind::Program,
            "program",
            Bytes(PROGRAM_BYTES),
            "its file's pages, reclaimable".to_owned(),
        ),
        PlanLine::new(
            LineKind::Margin,
            "margin",
            Bytes(MARGIN_BASE_BYTES) + margin_of(resident),
            "allocator, ends of pages".to_owned(),
        ),
    ];
    lines.extend(drafts_line(model, limits));
    lines.extend(draft_model_lines(model, limits));
    lines.extend(grammars_line(model, limits));
    lines
}

/// What outputs under a grammar take; no line where there are none.
fn grammars_line(model: &ModelShape, limits: &Limits) -> Option<PlanLine> {
    let vocab = u64::from(model.vocab_len);
    let bytes = Bytes(vocab * GRAMMAR_ENTRY_BYTES + GRAMMAR_CACHE_BYTES);
    let note = format!(
        "tries over {vocab} entries, {} kept",
        Bytes(GRAMMAR_CACHE_BYTES)
    );
    limits
        .structured_outputs
        .then(|| PlanLine::new(LineKind::Grammars, "grammars", bytes, note))
}

/// What finding drafts takes; no line without speculation.
fn drafts_line(model: &ModelShape, limits: &Limits) -> Option<PlanLine> {
    let model_len = limits.model_len.unwrap_or(model.context_max);
    let count = draft_index_count(limits.running_max, limits.draft_max);
    let each = draft_window(model_len).len() as u64 * DRAFT_TOKEN_BYTES;
    let note = format!("{count} indices of {}", draft_window(model_len));
    let bytes = Bytes(each) * u64::from(count);
    (count > 0).then(|| PlanLine::new(LineKind::Drafts, "drafts", bytes, note))
}

/// How many sequences can have drafts at one time. A step computes no more draft tokens than that,
/// so a draft for one more would be in vain.
pub fn draft_index_count(running_max: u32, draft_max: Tokens) -> u32 {
    running_max.min(draft_max.0)
}

/// How far back drafts are looked for in sequences of up to `model_len`: a power of two.
pub fn draft_window(model_len: Tokens) -> Tokens {
    Tokens(model_len.0.min(DRAFT_WINDOW_MAX).next_power_of_two())
}
