//! Memory of one step: the buffers a batch is written into and activations flow through.

use kvist_base::Bytes;
use kvist_device::{Buf, BufSpec, Device, Element, ForwardBatch};

use crate::config::DecoderConfig;
use crate::error::ModelError;

/// The largest step a model is loaded for; its buffers are allocated once at this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Rows: `max_num_batched_tokens`.
    pub tokens_max: usize,
    /// Sequences: `max_num_seqs`.
    pub sequences_max: usize,
    /// Rows with logits, of sequences and their drafts.
    pub logit_rows_max: usize,
    /// Entries of all block tables together.
    pub tables_max: usize,
}

impl StepShape {
    /// What loading allocates for steps of this shape: all buffers but the logits.
    pub fn buffer_bytes(&self, config: &DecoderConfig) -> Bytes {
        let token = 3
            + config.head_dim
            + 2 * (config.dim + config.q_dim())
            + 2 * config.kv_dim()
            + config.ffn_dim;
        let logit_row = 1 + config.dim;
        let elements = self.tokens_max * token
            + self.sequences_max * 4
            + self.logit_rows_max * logit_row
            + self.tables_max
            + config.head_dim / 2;
        // Every element is an f32 or a u32.
        Bytes::of_len(elements) * 4
    }
}

/// Buffers of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepBuffers {
    shape: StepShape,
    pub(crate) tokens: Buf,
    pub(crate) positions: Buf,
    pub(crate) slots: Buf,
    pub(crate) spans: Buf,
    pub(crate) block_tables: Buf,
    pub(crate) logit_rows: Buf,
    pub(crate) cos: Buf,
    pub(crate) sin: Buf,
    /// [tokens][dim]: the residual stream.
    pub(crate) x: Buf,
    /// [tokens][dim]: its normalised copy.
    pub(crate) normed: Buf,
    pub(crate) q: Buf,
    pub(crate) k: Buf,
    pub(crate) v: Buf,
    /// [tokens][heads * head_dim]
    pub(crate) attended: Buf,
    /// [tokens][ffn_dim]: the gate, then what the MLP's last matrix takes.
    pub(crate) gate: Buf,
    /// [logit rows][dim]: rows whose logits are wanted.
    pub(crate) last: Buf,
    /// [logit rows][vocab_len]
    pub(crate) logits: Buf,
}

impl StepBuffers {
    pub(crate) fn alloc(
        device: &mut dyn Device,
        config: &DecoderConfig,
        shape: StepShape,
    ) -> Result<Self, ModelError> {
        let mut buf = |label, element, len| {
            device.alloc(BufSpec {
                label,
                element,
                len,
            })
        };
        let StepShape {
            tokens_max: n,
            sequences_max: seqs,
            logit_rows_max: rows,
            tables_max,
        } = shape;
        let half = config.head_dim / 2;
        Ok(Self {
            shape,
            tokens: buf("token ids", Element::U32, n)?,
            positions: buf("positions", Element::U32, n)?,
            slots: buf("slots", Element::U32, n)?,
            spans: buf("sequence spans", Element::U32, seqs * 4)?,
            block_tables: buf("block tables", Element::U32, tables_max)?,
            logit_rows: buf("logit rows", Element::U32, rows)?,
            cos: buf("rotation cosines", Element::F32, n * half)?,
            sin: buf("rotation sines", Element::F32, n * half)?,
            x: buf("residual stream", Element::F32, n * config.dim)?,
            normed: buf("normalised stream", Element::F32, n * config.dim)?,
            q: buf("queries", Element::F32, n * config.q_dim())?,
            k: buf("keys", Element::F32, n * config.kv_dim())?,
            v: buf("values", Element::F32, n * config.kv_dim())?,
            attended: buf("attention output", Element::F32, n * config.q_dim())?,
            gate: buf("mlp gate", Element::F32, n * config.ffn_dim)?,
            last: buf("logit inputs", Element::F32, rows * config.dim)?,
            logits: buf("logits", Element::F32, rows * config.vocab_len)?,
        })
    }

    /// Checks the batch against the planned shape and copies it to the device.
    pub(crate) fn write(
        &self,
        device: &mut dyn Device,
        batch: &ForwardBatch<'_>,
    ) -> Result<(), ModelError> {
        let StepShape {
            tokens_max,
            sequences_max,
            logit_rows_max,
            tables_max,
        } = self.shape;
        for (what, limit, given) in [
            ("tokens", tokens_max, batch.tokens.len()),
            ("sequences", sequences_max, batch.spans.len()),
            ("logit rows", logit_rows_max, batch.logit_rows.len()),
            ("block table entries", tables_max, batch.block_tables.len()),
        ] {
            if given > limit {
                return Err(ModelError::StepTooLarge { what, limit, given });
            }
        }
        device.write_u32(self.tokens, batch.tokens)?;
        device.write_u32(self.positions, batch.positions)?;
        device.write_u32(self.slots, batch.slots)?;
        device.write_spans(self.spans, batch.spans)?;
        device.write_u32(self.block_tables, batch.block_tables)?;
        device.write_u32(self.logit_rows, batch.logit_rows)?;
        Ok(())
    }
}
