//! Drafts: tokens guessed to follow what is known, computed together with the last known token and
//! kept as far as the sampler draws the same (Leviathan et al. 2023, Chen et al. 2023).
//!
//! A draft is never known. It has no hash and is in no index; what was computed of it beyond the
//! accepted part lies past `computed_len`, where the next chunk writes.
//!
//! ```text
//! before   |---------computed---------|last|
//! step                                |last|d1 d2 d3 d4|     one chunk, logits for each row
//! after    |---------computed---------|last|d1 d2|t|         d1 d2 accepted, t drawn instead of d3
//!                                      computed  ^ last
//! ```

use kvist_base::{Blocks, SeqId, TokenId, Tokens};

use crate::plan::Chunk;
use crate::scheduler::Scheduler;
use crate::sequence::SequenceState;

impl Scheduler {
    /// Proposes what may follow the known tokens of a sequence, in place of what was proposed before.
    /// The next plan computes as much of it, from its beginning, as the sequence's length, the step's
    /// budget and the pool's free blocks allow after everything else. It stands until the sequence
    /// gets a chunk or gives way.
    ///
    /// False, and nothing is kept, unless the sequence runs and has only its last known token to compute.
    /// Only between steps.
    pub fn propose(&mut self, id: SeqId, draft: &[TokenId]) -> bool {
        assert!(!self.plan_is_out, "propose during a step");
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        let is_decoding = sequence.state == SequenceState::Running
            && sequence.computed_len + Tokens(1) == sequence.known_len();
        if is_decoding {
            sequence.draft.clear();
            sequence.draft.extend_from_slice(draft);
        }
        is_decoding
    }

    /// Adds drafts to the chunks of a plan that is otherwise made; returns what is left of the step's
    /// tokens. Each chunk in turn gets as much as there is room for, in free blocks only: no cached
    /// content is given up for a guess.
    pub(crate) fn plan_drafts(&mut self, chunks: &mut [Chunk], mut tokens_left: Tokens) -> Tokens {
        let wanted: Tokens = chunks.iter().map(Chunk::logit_count).sum();
        let rows = self.config.logit_rows_max().saturating_sub(wanted.len());
        let mut rows_left =
            Tokens(u32::try_from(rows).unwrap_or(u32::MAX)).min(self.config.draft_max);
        for chunk in chunks {
            let sequence = self.live(chunk.seq);
            if sequence.draft.is_empty() {
                continue;
            }
            assert!(chunk.wants_logits && chunk.known_count() == Tokens(1));
            let len = self.draft_room(chunk).min(tokens_left).min(rows_left);
            let sequence = self
                .sequences
                .get_mut(&chunk.seq)
                .expect("chunks name live sequences");
            sequence.draft.truncate(len.len());
            chunk.draft_len = Tokens(
                u32::try_from(sequence.draft.len()).expect("no longer than the step's budget"),
            );
            let extended = self
                .pool
                .extend(&mut sequence.table, chunk.end + chunk.draft_len);
            extended.expect("draft_room counted the free blocks");
            tokens_left = tokens_left - chunk.draft_len;
            rows_left = rows_left - chunk.draft_len;
        }
        tokens_left
    }

    /// Most draft tokens that may follow a chunk, whatever the step has left.
    fn draft_room(&self, chunk: &Chunk) -> Tokens {
        let sequence = self.live(chunk.seq);
        // One more token follows the last accepted one, and nothing is computed from the last of all.
        let by_len = (sequence.len_max - Tokens(1)).saturating_sub(chunk.end);
        let free = self.pool.counts().free;
        let blocks = Blocks(sequence.table.count().0.saturating_add(free.0));
        let by_blocks = blocks
            .capacity(self.config.block_size)
            .map_or(by_len, |slots| slots.saturating_sub(chunk.end));
        let by_chunk = self
            .config
            .chunk_max
            .filter(|_| self.sequences.len() > 1)
            .map_or(by_len, |max| max.saturating_sub(chunk.known_count()));
        by_len.min(by_blocks).min(by_chunk)
    }

    /// Makes the accepted part of a chunk's draft known and computed, together with its span.
    pub(crate) fn accept_draft(&mut self, chunk: &Chunk, accepted: Tokens) {
        assert!(accepted <= chunk.draft_len, "more accepted than drafted");
        self.totals.drafted_tokens += u64::from(chunk.draft_len.0);
        self.totals.accepted_tokens += u64::from(accepted.0);
        let hasher = self.hasher;
        let sequence = self.live_mut(chunk.seq);
        let mut draft = std::mem::take(&mut sequence.draft);
        if !chunk.draft_len.is_empty() {
            assert_eq!(draft.len(), chunk.draft_len.len());
            for token in &draft[..accepted.len()] {
                sequence.push_token(*token, hasher.as_ref());
            }
        }
        draft.clear();
        sequence.draft = draft;
        sequence.computed_len = chunk.end + accepted;
        self.shorten_after_draft(chunk, accepted);
    }

    /// Nothing of a chunk's draft was computed.
    pub(crate) fn forget_draft(&mut self, chunk: &Chunk) {
        self.live_mut(chunk.seq).draft.clear();
        self.shorten_after_draft(chunk, Tokens::ZERO);
    }

    /// Gives back the blocks that a chunk got for what of its draft was not accepted.
    fn shorten_after_draft(&mut self, chunk: &Chunk, accepted: Tokens) {
        if chunk.draft_len > accepted {
            let sequence = self
                .sequences
                .get_mut(&chunk.seq)
                .expect("plans name live sequences");
            self.pool.shorten(&mut sequence.table, chunk.end + accepted);
        }
    }
}
