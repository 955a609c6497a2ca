//! Drafts, seen from outside.

use kvist_base::{SeqId, TokenId, Tokens};

use super::report::Rule;
use super::world::{Before, World};
use crate::plan::StepPlan;

impl World {
    pub(super) fn propose(&mut self, seq: SeqId, draft: Vec<TokenId>) -> Result<(), Rule> {
        let state = self.scheduler.sequence(seq);
        let is_decoding = state.is_some_and(|view| {
            !view.block_table.is_empty() && view.computed_len + Tokens(1) == view.known_len
        });
        if self.scheduler.propose(seq, &draft) != is_decoding {
            return Err(Rule::BadDraft { seq });
        }
        self.report.proposed += u64::from(is_decoding);
        self.report.proposed_in_vain += u64::from(!is_decoding);
        if is_decoding && let Some(client) = self.clients.get_mut(&seq) {
            client.proposed = draft;
        }
        Ok(())
    }

    /// Drafts keep to their number, and take only blocks that were good for nothing else.
    pub(super) fn check_drafts(&mut self, plan: &StepPlan, before: &Before) -> Result<(), Rule> {
        let (limit, block_size) = {
            let config = self.scheduler.config();
            (config.draft_max, config.block_size)
        };
        let given: Tokens = plan.chunks().iter().map(|chunk| chunk.draft_len).sum();
        if given > limit {
            return Err(Rule::TooManyDrafts { limit, given });
        }
        for chunk in plan.chunks() {
            let table = self.scheduler.live(chunk.seq).table.blocks();
            let taken = table.iter().skip(chunk.end.div_ceil(block_size).len());
            if chunk.draft_len.is_empty() {
                continue;
            }
            self.report.draft_blocks += taken.len() as u64;
            if taken
                .into_iter()
                .any(|block| before.indexed.contains(block))
            {
                return Err(Rule::DraftEvicted { seq: chunk.seq });
            }
        }
        for chunk in plan.chunks() {
            let proposed = self.clients[&chunk.seq].proposed.len();
            self.report.drafts_cut += u64::from(chunk.draft_len.len() < proposed);
        }
        Ok(())
    }
}
