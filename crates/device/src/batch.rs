//! A step plan packed into flat arrays: what a forward pass reads.

/// One sequence's rows in a batch. Row `first_row + i` is position `first_position + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceSpan {
    /// First row of the batch that belongs to the sequence.
    pub first_row: u32,
    /// How many do.
    pub rows: u32,
    /// Position of the first of them in the sequence.
    pub first_position: u32,
    /// Where the sequence's block table begins in [`ForwardBatch::block_tables`].
    pub table_start: u32,
}

/// All that one forward pass needs to know. Rows are tokens; sequences' rows are contiguous.
///
/// ```text
/// rows        0 .. 4      4 .. 5     5 .. 9
///             |--seq A--| |-seq B-| |--seq C--|      prefill, decode, prefill
/// spans       one entry a sequence, in row order
/// logit_rows  the rows whose next token is wanted, ascending
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ForwardBatch<'a> {
    /// [rows] token ids.
    pub tokens: &'a [u32],
    /// [rows] positions within their sequences.
    pub positions: &'a [u32],
    /// [rows] KV slots the rows' keys and values go to: `block * block_size + offset`.
    pub slots: &'a [u32],
    /// One span a sequence.
    pub spans: &'a [SequenceSpan],
    /// Block tables of the sequences, one after the other.
    pub block_tables: &'a [u32],
    /// Rows whose logits are wanted.
    pub logit_rows: &'a [u32],
}
