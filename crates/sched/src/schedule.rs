//! Decide: spans and blocks for one step.

use kvist_base::{BlockId, Blocks, SeqId, Tokens};

use crate::kv::{BlockCopy, PrefixHit, Restore};
use crate::plan::{Begun, Chunk, StepPlan};
use crate::scheduler::Scheduler;
use crate::sequence::SequenceState;

/// A plan being made.
#[derive(Default)]
pub(crate) struct Outline {
    chunks: Vec<Chunk>,
    preempted: Vec<SeqId>,
    /// Their sources are pinned until the plan is made.
    pub(crate) copies: Vec<BlockCopy>,
    pub(crate) begun: Vec<Begun>,
    /// Their slots are pinned until the plan is made.
    pub(crate) restores: Vec<Restore>,
    tokens_left: Tokens,
    /// Rows that may have logits; at least one for each running sequence that has no chunk yet.
    rows_left: Tokens,
}

/// What is left of a step for one sequence.
#[derive(Clone, Copy)]
struct Room {
    tokens: Tokens,
    rows: Tokens,
}

impl Outline {
    /// Plans how what a hit does not share gets into these blocks.
    pub(crate) fn take_up(&mut self, hit: &PrefixHit, fresh: &[BlockId]) {
        let pairs = hit.slots.iter().zip(fresh);
        let restores = pairs.map(|(&slot, &block)| Restore { slot, block });
        self.restores.extend(restores);
        if let Some(tail) = hit.tail {
            self.copies.push(BlockCopy {
                from: tail.block,
                to: fresh[0],
            });
        }
    }

    fn push(&mut self, chunk: Chunk) {
        assert!(chunk.token_count() <= self.tokens_left);
        assert!(chunk.logit_count() <= self.rows_left);
        self.tokens_left = self.tokens_left - chunk.token_count();
        self.rows_left = self.rows_left - chunk.logit_count();
        self.chunks.push(chunk);
    }
}

impl Scheduler {
    /// Decides the next step: running sequences in order of rank, then waiting ones in the order
    /// of the configured fairness. A running sequence goes on from what others have computed
    /// meanwhile; a waiting one whose next block this step computes for another waits for it, and
    /// so do those behind. Allocates the blocks the step writes to, and preempts running
    /// sequences from the last in rank when there are not enough. Nothing waiting is let in by a
    /// step that preempted. Drafts get what room is left after all that.
    ///
    /// As long as there is work the plan has at least one chunk. An empty plan need not be given
    /// back; any other must be, before this is called again.
    pub fn schedule(&mut self) -> StepPlan {
        assert!(
            !self.plan_is_out,
            "the last plan was neither committed nor abandoned"
        );
        let mut outline = Outline {
            chunks: std::mem::take(&mut self.spare_chunks),
            tokens_left: self.config.step_tokens_max,
            rows_left: Tokens(u32::try_from(self.config.logit_rows_max()).unwrap_or(u32::MAX)),
            ..Outline::default()
        };
        assert!(outline.chunks.is_empty());
        self.plan_running(&mut outline);
        if outline.preempted.is_empty() {
            self.plan_waiting(&mut outline);
        }
        outline.tokens_left = self.plan_drafts(&mut outline.chunks, outline.tokens_left);
        self.check_sums();
        assert_eq!(
            outline.chunks.is_empty(),
            !self.has_work(),
            "work is never left lying"
        );
        self.step += 1;
        self.plan_is_out = !outline.chunks.is_empty();
        StepPlan {
            step: self.step,
            chunks: outline.chunks,
            preempted: outline.preempted,
            spills: self.pool.take_spills(),
            restores: outline.restores,
            copies: outline.copies,
            begun: outline.begun,
            token_count: self.config.step_tokens_max - outline.tokens_left,
        }
    }

    fn plan_running(&mut self, outline: &mut Outline) {
        let mut after = None;
        // A row for each of those that follow, and one for whoever waits: it is let in one by one, if
        // not faster, beside a prompt that wants all the rows there are.
        let mut others = self.running.len() + usize::from(!self.waiting.is_empty());
        while !outline.tokens_left.is_empty() {
            let Some((rank, id)) = self.running.first_after(after) else {
                break;
            };
            self.catch_up(id);
            others -= 1;
            let reserved = Tokens(u32::try_from(others).unwrap_or(u32::MAX));
            let room = Room {
                tokens: outline.tokens_left,
                rows: outline.rows_left.saturating_sub(reserved).max(Tokens(1)),
            };
            let chunk = self.next_chunk(id, room);
            if !self.try_secure(&chunk, &mut outline.preempted) {
                // It was the last itself, so there is nobody after it.
                assert_eq!(self.running.first_after(Some(rank)), None);
                break;
            }
            outline.push(chunk);
            after = Some(rank);
        }
    }

    /// The span a sequence gets if so much is left in the step.
    fn next_chunk(&self, id: SeqId, room: Room) -> Chunk {
        let sequence = self.live(id);
        let (start, known_len) = (sequence.computed_len, sequence.known_len());
        assert!(start < known_len);
        let mut len = (known_len - start).min(room.tokens);
        let unscored = sequence.logits_len;
        let is_scored = unscored < sequence.prompt_len;
        if is_scored {
            assert!(start <= unscored, "tokens without logits were skipped");
            len = len.min(unscored - start + room.rows);
        }
        if let Some(chunk_max) = self.config.chunk_max
            && self.sequences.len() > 1
        {
            len = len.min(chunk_max);
        }
        assert!(!len.is_empty());
        let end = start + len;
        let wants_logits = end == known_len;
        Chunk {
            seq: id,
            start,
            end,
            draft_len: Tokens::ZERO,
            logits_from: match is_scored {
                true => unscored.min(end),
                false => end - Tokens(u32::from(wants_logits)),
            },
            wants_logits,
        }
    }

    /// Gets a running sequence the blocks of its chunk, preempting from the last in rank. False if it came
    /// to be preempted itself.
    fn try_secure(&mut self, chunk: &Chunk, preempted: &mut Vec<SeqId>) -> bool {
        loop {
            let sequence = self
                .sequences
                .get_mut(&chunk.seq)
                .expect("queues name live sequences");
            assert_eq!(sequence.state, SequenceState::Running);
            if self.pool.extend(&mut sequence.table, chunk.end).is_ok() {
                return true;
            }
            let last = self.running.last().expect("this sequence runs");
            // Alone, a sequence always fits: `admit` refused it otherwise.
            assert_ne!(
                self.running.first(),
                Some(last),
                "the first in rank is never preempted"
            );
            self.take_back(last);
            preempted.push(last);
            if last == chunk.seq {
                return false;
            }
        }
    }

    fn plan_waiting(&mut self, outline: &mut Outline) {
        assert!(outline.preempted.is_empty());
        let mut promised = self.blocks_promised();
        while !outline.tokens_left.is_empty()
            && !outline.rows_left.is_empty()
            && self.running.len() < self.config.running_max
        {
            let Some(id) = self.next_waiting() else {
                break;
            };
            let Some(hit) = self.fitting_hit(id, promised) else {
                // Strictly in order: a smaller one does not overtake, or the large one could wait for
                // ever.
                break;
            };
            if self.is_computed_by(&outline.chunks, id, &hit) {
                // With this step it would compute the same tokens again; with a later one it shares
                // them. Whoever computes them is in this plan, so the wait ends.
                self.totals.held_back += 1;
                break;
            }
            self.begin(id, &hit, outline);
            let room = Room {
                tokens: outline.tokens_left,
                rows: outline.rows_left,
            };
            let chunk = self.next_chunk(id, room);
            let is_secured = self.try_secure(&chunk, &mut outline.preempted);
            assert!(
                is_secured && outline.preempted.is_empty(),
                "fitting_hit counted the blocks"
            );
            outline.push(chunk);
            let sequence = self.live(id);
            promised += sequence
                .blocks_known(self.config.block_size)
                .saturating_sub(sequence.table.count());
        }
        for copy in &outline.copies {
            self.pool.unpin(copy.from);
        }
        self.pool.unpin_slots();
    }

    /// Blocks that running sequences will ask for to compute what they know already. To let others
    /// have them would mean to preempt soon.
    fn blocks_promised(&self) -> Blocks {
        let block_size = self.config.block_size;
        let missing = |id| {
            let sequence = self.live(id);
            sequence
                .blocks_known(block_size)
                .saturating_sub(sequence.table.count())
        };
        self.running.iter().map(missing).sum()
    }
}
