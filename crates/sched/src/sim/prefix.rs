//! What is computed though it need not be, found by comparing tokens.

use std::collections::BTreeSet;

use kvist_base::{BlockId, TokenId};

use super::report::Rule;
use super::world::{Before, World};
use crate::plan::{Chunk, StepPlan};

/// A cache root and all tokens up to the end of a block.
type Prefix<'a> = (u64, &'a [TokenId]);

impl World {
    /// No chunk begins with a block that is indexed, and none that begins a sequence with a block that
    /// an earlier chunk computes; as far as the block could have been shared.
    pub(super) fn check_computed_once(&self, plan: &StepPlan, before: &Before) -> Result<(), Rule> {
        if !self.scheduler.config().prefix_caching || !self.has_whole_hashes {
            return Ok(());
        }
        let pool = &self.scheduler.pool;
        let ids = (0..self.scheduler.blocks_limit().0).map(BlockId);
        let indexed: BTreeSet<_> = ids.filter_map(|id| pool.indexed_prefix(id)).collect();
        for (idx, chunk) in plan.chunks().iter().enumerate() {
            let Some((root, tokens)) = self.first_computed(chunk) else {
                continue;
            };
            let client = &self.clients[&chunk.seq];
            if client.scored_len < client.prompt_len && client.scored_len < tokens.len() {
                // Its tokens have to be computed for their logits, whoever has computed them.
                continue;
            }
            let is_running = before.running.contains(&chunk.seq);
            let earlier = &plan.chunks()[..idx];
            let is_computing = |other: &Chunk| self.computes(other, (root, tokens));
            if indexed.contains(&(root, tokens.to_vec()))
                || !is_running && earlier.iter().any(is_computing)
            {
                return Err(Rule::ComputedTwice { seq: chunk.seq });
            }
        }
        Ok(())
    }

    /// The prefix that ends with the first block a chunk computes; `None` if that block has the last
    /// known token, or is not full.
    fn first_computed(&self, chunk: &Chunk) -> Option<Prefix<'_>> {
        let client = &self.clients[&chunk.seq];
        let block_size = self.scheduler.config().block_size.len();
        let end = (chunk.start.len() / block_size + 1) * block_size;
        (end < client.tokens.len()).then(|| (client.cache_root, &client.tokens[..end]))
    }

    /// Whether a chunk computes anything of the block that ends a prefix.
    fn computes(&self, chunk: &Chunk, (root, tokens): Prefix<'_>) -> bool {
        let client = &self.clients[&chunk.seq];
        let start = tokens.len() - self.scheduler.config().block_size.len();
        chunk.start.len() < tokens.len()
            && start < chunk.end.len()
            && client.cache_root == root
            && client.tokens.starts_with(tokens)
    }
}
