//! The two values that cross the border of a step: what to do, and what happened.

use kvist_base::{FinishReason, SeqId, TokenId, Tokens};

use crate::kv::{BlockCopy, Restore, Spill};

/// A span of one sequence to compute in one step.
///
/// ```text
/// tokens   0            start            end           known_len
///          |--computed--|--this chunk--|--later steps--|
///
/// with a draft          start         end = known_len  end + draft_len
///          |--computed--|--last known token--|--draft--|
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The sequence.
    pub seq: SeqId,
    /// First position to compute: the sequence's `computed_len`.
    pub start: Tokens,
    /// One past the last known position to compute; `start < end`.
    pub end: Tokens,
    /// How many tokens of the sequence's draft are computed after `end`. Only where the chunk is the
    /// last known token; each of them has logits then, as that token has.
    pub draft_len: Tokens,
    /// The position from which on tokens have logits, up to the chunk's end: that of its last token if
    /// that is the last known one, an earlier one where the prompt's own logits are wanted too, `end`
    /// if there are none.
    pub logits_from: Tokens,
    /// Whether the chunk ends with the last known token, so that the next one must be sampled.
    pub wants_logits: bool,
}

impl Chunk {
    /// Known tokens in the chunk; at least one.
    pub fn known_count(&self) -> Tokens {
        assert!(self.start < self.end);
        self.end - self.start
    }

    /// Tokens in the chunk, draft included.
    pub fn token_count(&self) -> Tokens {
        self.known_count() + self.draft_len
    }

    /// Rows of the chunk whose logits are wanted: from `logits_from` to its end, draft included.
    pub fn logit_count(&self) -> Tokens {
        self.end - self.logits_from + self.draft_len
    }

    /// Of those rows the first, which nothing is drawn from: row `n` is about the token at position
    /// `logits_from + n + 1`.
    pub fn scored_count(&self) -> Tokens {
        self.end - self.logits_from - Tokens(u32::from(self.wants_logits))
    }
}

/// What to compute in one step. The blocks it writes are already in the tables.
///
/// It is carried out in this order: spills, restores, copies, then the chunks.
///
/// A plan that is not empty goes back to its scheduler, through `commit` or `abandon`, before the
/// next one is made. It cannot be cloned, so it cannot be committed twice.
#[must_use = "a plan holds up its scheduler until it is committed or abandoned"]
#[derive(Debug, PartialEq, Eq)]
pub struct StepPlan {
    pub(crate) step: u64,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) preempted: Vec<SeqId>,
    pub(crate) spills: Vec<Spill>,
    pub(crate) restores: Vec<Restore>,
    pub(crate) copies: Vec<BlockCopy>,
    pub(crate) begun: Vec<Begun>,
    pub(crate) token_count: Tokens,
}

/// A sequence that begins in a step with content that the step has yet to put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) seq: SeqId,
    /// Whether it begins for the first time.
    pub(crate) is_first: bool,
    /// Tokens it finds in restored blocks.
    pub(crate) restored_len: Tokens,
    /// Tokens it finds in a copied block.
    pub(crate) copied_len: Tokens,
}

impl StepPlan {
    /// The spans to compute, at most one for each sequence: those that ran already, in order of rank
    /// (priority, then arrival), then those that begin with this step.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Sequences that lost their blocks to make this plan, the last in rank first. They wait again, and keep
    /// every token they have.
    pub fn preempted(&self) -> &[SeqId] {
        &self.preempted
    }

    /// Contents to write to the second tier before their blocks are written again. No slot is named
    /// twice.
    pub fn spills(&self) -> &[Spill] {
        &self.spills
    }

    /// Contents to read from the second tier after all spills: a slot may be among both. A block is
    /// named once, a slot perhaps more often.
    pub fn restores(&self) -> &[Restore] {
        &self.restores
    }

    /// Blocks to copy after all restores, whole; their order does not matter. No destination is a
    /// source, and nothing of the plan writes to a source before.
    pub fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    /// The sum of all chunks' `token_count`.
    pub fn token_count(&self) -> Tokens {
        self.token_count
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

/// What a step did; `chunks[i]` is about `plan.chunks()[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOutcome {
    /// One for each chunk of the plan, in its order.
    pub chunks: Vec<ChunkOutcome>,
}

/// What became of one chunk.
///
/// Its known span is computed in every case. Of a draft, the leading tokens that were drawn too are
/// *accepted*: they are known and computed from now on. The token that was drawn after them is in `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkOutcome {
    /// Accepted tokens of the draft; at most the chunk's `draft_len`.
    pub accepted: Tokens,
    /// What came after them.
    pub end: ChunkEnd,
}

/// What came after a chunk and the accepted part of its draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkEnd {
    /// Nothing to sample (`wants_logits` was false).
    Advanced,
    /// This token follows.
    Sampled(TokenId),
    /// The sequence is over.
    Finished {
        /// The last token, if it belongs to the output. Only where `wants_logits` was true.
        token: Option<TokenId>,
        /// Why it is over.
        reason: FinishReason,
    },
}

impl ChunkEnd {
    /// The token that was drawn last, if it belongs to the output.
    pub fn token(self) -> Option<TokenId> {
        match self {
            Self::Advanced => None,
            Self::Sampled(token) => Some(token),
            Self::Finished { token, .. } => token,
        }
    }
}

impl ChunkOutcome {
    /// Tokens the output grew by.
    pub fn token_count(self) -> Tokens {
        self.accepted + Tokens(u32::from(self.end.token().is_some()))
    }
}

impl From<ChunkEnd> for ChunkOutcome {
    /// The outcome of a chunk without an accepted draft.
    fn from(end: ChunkEnd) -> Self {
        Self {
            accepted: Tokens::ZERO,
            end,
        }
    }
}
