//! What a second, smaller model takes that drafts for the one that is served.

use kvist_base::{Blocks, Bytes, Tokens};

use crate::kv::BlockCost;
use crate::limits::Limits;
use crate::lines::{LOGIT_BYTES, LineKind, PlanLine, activation_bytes, draft_index_count};
use crate::shape::{ModelShape, WeightKind};

/// Tokens its KV pool holds, at most: sequences that find no room are not drafted for.
const KV_TOKENS_MAX: Tokens = Tokens(1 << 14);
/// Rows of one of its steps, at most: what it has missed of a sequence is computed in such parts, and
/// all other sequences wait for one.
const ROWS_MAX: Tokens = Tokens(256);
/// A block's place in the list of free ones and in a table, and the guesses of its tokens.
const BLOCK_RECORD_BYTES: u64 = 24;

/// How large a draft model's memory is: what the plan counts and loading allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftSizes {
    /// Sequences it follows at one time.
    pub sequences: u32,
    /// Longest sequence it follows, drafts included.
    pub len_max: Tokens,
    /// Blocks of its KV pool, of as many tokens as those of the served model.
    pub blocks: Blocks,
    /// Rows of one of its steps.
    pub rows_max: Tokens,
}

impl Limits {
    /// The sizes of the draft model for a served model with contexts of up to `context_max`; `None`
    /// without one, or without drafts.
    pub fn draft_sizes(&self, context_max: Tokens) -> Option<DraftSizes> {
        let draft = self.draft_model.as_ref()?;
        let sequences = draft_index_count(self.running_max, self.draft_max);
        if sequences == 0 {
            return None;
        }
        let longest = self.model_len.unwrap_or(context_max);
        let len_max = longest.min(draft.context_max).min(KV_TOKENS_MAX);
        let each = len_max.div_ceil(self.block_size);
        let all = Blocks(each.0.saturating_mul(sequences));
        let most = KV_TOKENS_MAX.div_ceil(self.block_size);
        Some(DraftSizes {
            sequences,
            len_max,
            blocks: all.min(most).max(each),
            rows_max: self.step_tokens_max.min(ROWS_MAX).max(Tokens(sequences)),
        })
    }
}

/// The lines of the draft model; none without one.
pub(crate) fn draft_model_lines(model: &ModelShape, limits: &Limits) -> Vec<PlanLine> {
    let (Some(draft), Some(sizes)) = (
        limits.draft_model.as_deref(),
        limits.draft_sizes(model.context_max),
    ) else {
        return Vec::new();
    };
    let name = &draft.name;
    let resident = draft
        .weights
        .iter()
        .filter(|line| line.kind == WeightKind::Resident);
    let DraftSizes {
        sequences,
        len_max,
        blocks,
        rows_max,
    } = sizes;
    let own = own_limits(limits, sizes);
    let logits = Bytes(own.logit_rows() * u64::from(draft.vocab_len) * LOGIT_BYTES);
    let records = Bytes(BLOCK_RECORD_BYTES) * u64::from(blocks.0);
    let work = activation_bytes(draft, &own) + logits + records;
    vec![
        PlanLine::new(
            LineKind::DraftWeights,
            LineKind::DraftWeights.name(),
            resident.map(|line| line.bytes).sum(),
            format!("{name}, resident"),
        ),
        PlanLine::new(
            LineKind::DraftKv,
            LineKind::DraftKv.name(),
            BlockCost::new(draft, limits).pool_bytes(blocks),
            format!("cap: {blocks}, sequences up to {len_max}"),
        ),
        PlanLine::new(
            LineKind::DraftWork,
            LineKind::DraftWork.name(),
            work,
            format!("{rows_max} a step, {sequences} sequences"),
        ),
    ]
}

/// The limits under which the draft model computes.
fn own_limits(limits: &Limits, sizes: DraftSizes) -> Limits {
    Limits {
        model_len: Some(sizes.len_max),
        running_max: sizes.sequences,
        step_tokens_max: sizes.rows_max,
        draft_max: Tokens::ZERO,
        draft_model: None,
        ..limits.clone()
    }
}
