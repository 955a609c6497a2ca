//! What must hold of every plan, and after every event.

use std::collections::BTreeMap;

use kvist_base::{BlockId, SeqId, Tokens};

use super::report::Rule;
use super::world::{Before, World};
use crate::kv::BlockState;
use crate::plan::{Chunk, StepPlan};
use crate::sequence::{Sequence, SequenceState};

impl World {
    /// The rules of a plan, seen before it is carried out.
    pub(super) fn check_plan(&mut self, plan: &StepPlan, before: &Before) -> Result<(), Rule> {
        let config = self.scheduler.config();
        if plan.is_empty() && self.scheduler.has_work() {
            return Err(Rule::Idle);
        }
        let given: Tokens = plan.chunks().iter().map(Chunk::token_count).sum();
        if given > config.step_tokens_max || given != plan.token_count() {
            return Err(Rule::OverBudget {
                limit: config.step_tokens_max,
                given,
            });
        }
        let rows: Tokens = plan.chunks().iter().map(Chunk::logit_count).sum();
        if rows.len() > config.logit_rows_max() {
            return Err(Rule::TooManyRows {
                limit: config.logit_rows_max(),
                given: rows.len(),
            });
        }
        for chunk in plan.chunks() {
            self.check_chunk(chunk)?;
        }
        self.check_drafts(plan, before)?;
        self.check_moves(plan)?;
        self.check_computed_once(plan, before)?;
        self.check_nobody_skipped(plan, before)?;
        self.check_order(plan, before)
    }

    /// A running sequence goes without a chunk only when the step is full, and then so does
    /// everyone after it.
    fn check_nobody_skipped(&self, plan: &StepPlan, before: &Before) -> Result<(), Rule> {
        let known: Tokens = plan.chunks().iter().map(Chunk::known_count).sum();
        let is_full = known == self.scheduler.config().step_tokens_max;
        let planned: Vec<SeqId> = plan.chunks().iter().map(|chunk| chunk.seq).collect();
        for seq in self
            .scheduler
            .running
            .iter()
            .filter(|seq| !planned.contains(seq))
        {
            let is_after = |other: &SeqId| {
                self.rank(*other) > self.rank(seq) || !before.running.contains(other)
            };
            if !is_full || planned.iter().any(is_after) {
                return Err(Rule::Skipped { seq });
            }
        }
        Ok(())
    }

    fn check_chunk(&self, chunk: &Chunk) -> Result<(), Rule> {
        let Chunk {
            seq,
            start,
            end,
            draft_len,
            logits_from,
            wants_logits,
        } = *chunk;
        let view = self.scheduler.sequence(seq);
        let view = view.ok_or(Rule::BadSequence {
            seq,
            what: "planned, but not alive",
        })?;
        let continues = start == view.computed_len && end <= view.known_len && start < end;
        if !continues || wants_logits != (end == view.known_len) {
            return Err(Rule::BadSpan { seq, start, end });
        }
        let client = &self.clients[&seq];
        // Each token of the prompt has logits once, where they are wanted, and the last known one always.
        let expected = match client.scored_len {
            scored if scored < client.prompt_len => scored.min(end.len()),
            _ => end.len() - usize::from(wants_logits),
        };
        if logits_from.len() != expected {
            return Err(Rule::BadLogits { seq });
        }
        // A draft leaves room for the token after it, and is what was proposed.
        let is_drafting = wants_logits && start + Tokens(1) == end;
        if !draft_len.is_empty() && (!is_drafting || end + draft_len >= client.len_max)
            || view.draft.len() != draft_len.len()
            || !client.proposed.starts_with(view.draft)
        {
            return Err(Rule::BadDraft { seq });
        }
        if let Some(limit) = self.scheduler.config().chunk_max
            && self.clients.len() > 1
            && chunk.token_count() > limit
        {
            return Err(Rule::ChunkTooLong {
                seq,
                limit,
                given: chunk.token_count(),
            });
        }
        Ok(())
    }

    /// The rules between events.
    pub(super) fn check_state(&mut self) -> Result<(), Rule> {
        let (limit, given) = (
            self.scheduler.config().running_max,
            self.scheduler.running_count(),
        );
        if given > limit {
            return Err(Rule::TooManyRunning { limit, given });
        }
        for seq in self.clients.keys() {
            self.check_sequence(*seq)?;
        }
        self.check_tables()?;
        self.check_blocks()
    }

    fn check_sequence(&self, seq: SeqId) -> Result<(), Rule> {
        let wrong = |what| Err(Rule::BadSequence { seq, what });
        let client = &self.clients[&seq];
        let Some(view) = self.scheduler.sequence(seq) else {
            return wrong("lost");
        };
        if view.tokens != client.tokens || view.known_len.len() != client.tokens.len() {
            return wrong("its tokens are not the client's");
        }
        if view.preempted_count != client.preempted_count {
            return wrong("its preemptions were not told");
        }
        if view.computed_len >= view.known_len || view.prompt_len.len() != client.prompt_len {
            return wrong("its lengths");
        }
        let block_size = self.scheduler.config().block_size;
        let table_len = view.block_table.len();
        let (least, most) = match view.state {
            SequenceState::Waiting => (0, 0),
            SequenceState::Running => (
                view.computed_len.div_ceil(block_size).len(),
                view.known_len.div_ceil(block_size).len(),
            ),
        };
        if table_len < least || table_len > most {
            return Err(Rule::BadTable { seq });
        }
        self.device
            .read(&self.scheduler, seq, view.computed_len.len())
    }

    /// A block is in several tables only as the same, computed, full prefix.
    fn check_tables(&mut self) -> Result<(), Rule> {
        let mut first_users: BTreeMap<BlockId, (SeqId, usize)> = BTreeMap::new();
        for seq in self.clients.keys() {
            let sequence = self.scheduler.live(*seq);
            for (block_idx, block) in sequence.table.blocks().iter().enumerate() {
                let Some((other, other_idx)) = first_users.insert(*block, (*seq, block_idx)) else {
                    continue;
                };
                let end = (block_idx + 1) * self.scheduler.config().block_size.len();
                let one = self.scheduler.live(other);
                let is_same = block_idx == other_idx
                    && one.id != sequence.id
                    && has_computed(one, end)
                    && has_computed(sequence, end)
                    && one.cache_root == sequence.cache_root
                    && one.tokens[..end] == sequence.tokens[..end];
                if !is_same {
                    return Err(Rule::BadShare {
                        block: *block,
                        one: other,
                        other: *seq,
                    });
                }
                self.report.shared_blocks += 1;
            }
        }
        Ok(())
    }

    /// Every block is in one state, and the state is true.
    fn check_blocks(&self) -> Result<(), Rule> {
        let scheduler = &self.scheduler;
        let limit = scheduler.blocks_limit();
        let mut tables = vec![0u32; limit.len()];
        for seq in self.clients.keys() {
            for block in scheduler.live(*seq).table.blocks() {
                let table = tables.get_mut(block.idx());
                *table.ok_or(Rule::BeyondLimit { block: *block })? += 1;
            }
        }
        let mut sums = [0u32; 3];
        let mut free = scheduler.free_runs().flatten().map(BlockId).peekable();
        for block in (0..limit.0).map(BlockId) {
            let tables = tables[block.idx()];
            let holders = scheduler.pool.holders(block);
            if tables != holders {
                return Err(Rule::BadHolders {
                    block,
                    tables,
                    holders,
                });
            }
            let state = scheduler.block_state(block);
            let prefix = scheduler.pool.indexed_prefix(block);
            let is_true = match state {
                BlockState::Held => tables > 0,
                BlockState::Cached => tables == 0 && prefix.is_some(),
                BlockState::Free => tables == 0 && prefix.is_none(),
            };
            let is_told_free = free.next_if_eq(&block).is_some();
            if !is_true || is_told_free != (state == BlockState::Free) {
                return Err(Rule::BadState { block });
            }
            if let Some((cache_root, tokens)) = prefix
                && !self.device.has(block, cache_root, &tokens)
            {
                return Err(Rule::BadIndex { block });
            }
            sums[state as usize] += 1;
        }
        let counts = scheduler.pool_counts();
        let stated = [counts.free.0, counts.held.0, counts.cached.0];
        if sums == stated && free.next().is_none() && counts.total == limit {
            Ok(())
        } else {
            Err(Rule::BadState { block: BlockId(0) })
        }
    }
}

fn has_computed(sequence: &Sequence, end: usize) -> bool {
    sequence.computed_len.len() >= end
}
