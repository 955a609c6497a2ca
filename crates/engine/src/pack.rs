//! A step plan packed into the flat arrays a device reads.

use kvist_base::{BlockId, TokenId, Tokens};
use kvist_device::{ForwardBatch, SequenceSpan};
use kvist_sched::{Scheduler, StepPlan};

/// Memory of the packed batch, kept between steps.
#[derive(Debug)]
pub(crate) struct BatchScratch {
    block_size: Tokens,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    spans: Vec<SequenceSpan>,
    block_tables: Vec<u32>,
    logit_rows: Vec<u32>,
}

/// The largest step there will be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub(crate) block_size: Tokens,
    pub(crate) tokens_max: usize,
    pub(crate) sequences_max: usize,
    pub(crate) logit_rows_max: usize,
    pub(crate) tables_max: usize,
}

impl BatchScratch {
    pub(crate) fn new(limits: BatchLimits) -> Self {
        let BatchLimits {
            block_size,
            tokens_max,
            sequences_max,
            logit_rows_max,
            tables_max,
        } = limits;
        Self {
            block_size,
            tokens: Vec::with_capacity(tokens_max),
            positions: Vec::with_capacity(tokens_max),
            slots: Vec::with_capacity(tokens_max),
            spans: Vec::with_capacity(sequences_max),
            block_tables: Vec::with_capacity(tables_max),
            logit_rows: Vec::with_capacity(logit_rows_max),
        }
    }

    /// Lays the plan's chunks out as rows, in plan order.
    pub(crate) fn pack(&mut self, plan: &StepPlan, scheduler: &Scheduler) -> ForwardBatch<'_> {
        self.clear();
        for chunk in plan.chunks() {
            let view = scheduler
                .sequence(chunk.seq)
                .expect("a scheduled sequence is known");
            assert_eq!(
                chunk.start, view.computed_len,
                "a chunk starts where the KV ends"
            );
            self.push(&ChunkRows {
                known: view.tokens,
                draft: view.draft,
                block_table: view.block_table,
                start: chunk.start,
                end: chunk.end + chunk.draft_len,
                logits_from: chunk.logits_from,
            });
        }
        self.batch()
    }

    /// Forgets the rows packed so far.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.spans.clear();
        self.block_tables.clear();
        self.logit_rows.clear();
    }

    /// Adds a chunk's rows after those packed so far.
    pub(crate) fn push(&mut self, chunk: &ChunkRows<'_>) {
        let ChunkRows {
            known,
            draft,
            block_table,
            start,
            end,
            logits_from,
        } = *chunk;
        let first_row = index(self.tokens.len());
        self.spans.push(SequenceSpan {
            first_row,
            rows: (end - start).0,
            first_position: start.0,
            table_start: index(self.block_tables.len()),
        });
        let (before, behind) = (
            known.len().min(end.len()),
            end.len().saturating_sub(known.len()),
        );
        let draft = &draft[start.len().saturating_sub(known.len())..behind];
        let known = &known[start.len().min(before)..before];
        self.tokens
            .extend(known.iter().chain(draft).map(|token| token.0));
        self.positions.extend(start.0..end.0);
        self.slots.extend((start.0..end.0).map(|position| {
            let block = block_table[(position / self.block_size.0) as usize];
            block.0 * self.block_size.0 + position % self.block_size.0
        }));
        let used = end.div_ceil(self.block_size).len();
        self.block_tables
            .extend(block_table[..used].iter().map(|block| block.0));
        let wanted = logits_from.max(start).0..end.0;
        self.logit_rows
            .extend(wanted.map(|position| first_row + position - start.0));
    }

    /// What has been packed.
    pub(crate) fn batch(&self) -> ForwardBatch<'_> {
        ForwardBatch {
            tokens: &self.tokens,
            positions: &self.positions,
            slots: &self.slots,
            spans: &self.spans,
            block_tables: &self.block_tables,
            logit_rows: &self.logit_rows,
        }
    }
}

/// One sequence's part of a step.
///
/// ```text
/// position  0      start      logits_from      end
///           |-in KV--|--computed--|--and logits--|
/// ```
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkRows<'a> {
    /// Tokens of the sequence from position 0.
    pub(crate) known: &'a [TokenId],
    /// Those that may follow. Together they reach `end` at least; the chunk may begin among them.
    pub(crate) draft: &'a [TokenId],
    /// Its blocks, with room up to `end`.
    pub(crate) block_table: &'a [BlockId],
    pub(crate) start: Tokens,
    pub(crate) end: Tokens,
    pub(crate) logits_from: Tokens,
}

/// Rows of a step are bounded by `max_num_batched_tokens`, table entries by the pool: both are u32.
fn index(len: usize) -> u32 {
    u32::try_from(len).expect("a step is smaller than 2^32 rows")
}
