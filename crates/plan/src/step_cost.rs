//! What a step takes beside weights, KV and logits.

use kvist_base::{Bytes, Tokens};

use crate::limits::Limits;

/// Positions of a sequence that attention computes as one part.
const PARTITION: u32 = 512;

/// The memory of a step as model and device allocate it: a sum of terms, each linear in one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    /// Whatever the limits are.
    pub fixed: Bytes,
    /// For each token of a step.
    pub per_token: Bytes,
    /// For each sequence that runs.
    pub per_sequence: Bytes,
    /// For each row whose logits are wanted.
    pub per_logit_row: Bytes,
    /// For each entry of a block table.
    pub per_table_entry: Bytes,
    /// For each thread.
    pub per_thread: Bytes,
    /// For each 512 positions of a sequence, begun, when there is more than one such part.
    pub per_partition: Bytes,
}

impl StepCost {
    /// The sum, for sequences of up to `model_len`.
    pub(crate) fn bytes(&self, limits: &Limits, model_len: Tokens) -> Bytes {
        let sequences = u64::from(limits.running_max);
        let blocks = u64::from(model_len.div_ceil(limits.block_size).0);
        let partitions = model_len.div_ceil(Tokens(PARTITION)).0;
        let partitions = if partitions > 1 { partitions } else { 0 };
        let terms = [
            (self.fixed, 1),
            (self.per_token, u64::from(limits.step_tokens_max.0)),
            (self.per_sequence, sequences),
            (self.per_logit_row, limits.logit_rows()),
            (self.per_table_entry, sequences * blocks),
            (self.per_thread, u64::from(limits.threads)),
            (self.per_partition, u64::from(partitions)),
        ];
        terms.into_iter().map(|(each, count)| each * count).sum()
    }
}
