//! Sequences with a prefix in common, side by side: none computes what another has computed since it
//! began, or computes in this very step.

use kvist_base::{Blocks, SeqId};

use crate::commit::parent_at;
use crate::kv::{FullBlock, PrefixHit};
use crate::plan::Chunk;
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Lets a running sequence go on from the end of what is indexed by now: a *late hit*. What it
    /// has computed of the first block it finds goes back with that block of its own.
    ///
    /// The last known token is left to compute. Nothing here depends on the plan being made: shared
    /// blocks are computed, so a plan that is abandoned leaves this true.
    pub(crate) fn catch_up(&mut self, id: SeqId) {
        if self.hasher.is_none() {
            return;
        }
        let block_size = self.config.block_size;
        let sequence = self
            .sequences
            .get_mut(&id)
            .expect("queues name live sequences");
        let computed_len = sequence.computed_len;
        let first_idx = computed_len.len() / block_size.len();
        if sequence.indexed_count != first_idx {
            // A hash collision: what it would go on from is not in the index.
            return;
        }
        // Of a sequence that is decoding nothing is left but the last token, and it stops here.
        let idx_max = sequence.hit_len_max().len() / block_size.len();
        for block_idx in first_idx..idx_max {
            let start = block_idx * block_size.len();
            let Some(found) = self.pool.find(&FullBlock {
                root: sequence.cache_root,
                hash: sequence.chain[block_idx],
                parent: parent_at(&self.pool, sequence, block_idx),
                tokens: &sequence.tokens[start..start + block_size.len()],
            }) else {
                break;
            };
            self.pool.adopt(&mut sequence.table, block_idx, found);
            sequence.indexed_count += 1;
        }
        if sequence.indexed_count == first_idx {
            return;
        }
        let shared = u32::try_from(sequence.indexed_count).ok().map(Blocks);
        let shared_len = shared.and_then(|blocks| blocks.capacity(block_size));
        sequence.computed_len = shared_len.expect("a hit is shorter than its sequence");
        assert!(sequence.computed_len < sequence.known_len());
        let hit_len = sequence.computed_len - computed_len;
        sequence.prefix_hit_len += hit_len;
        self.totals.late_hit_tokens += u64::from(hit_len.0);
        // What a preemption made it compute again is no saving, and output is no part of the prompt.
        if sequence.preempted_count == 0 && sequence.known_len() == sequence.prompt_len {
            let first_hit_len = sequence.first_hit_len.as_mut();
            *first_hit_len.expect("it has begun") += hit_len;
            self.totals.prefix_hit_tokens += u64::from(hit_len.0);
        }
    }

    /// Whether one of these chunks computes the block that a waiting sequence would have to compute
    /// first, and could share one step later. A part of the block counts: the rest follows as soon
    /// as that sequence gets its next chunk.
    ///
    /// Equal hashes are enough here. A collision costs the wait, nothing else.
    pub(crate) fn is_computed_by(&self, chunks: &[Chunk], id: SeqId, hit: &PrefixHit) -> bool {
        let block_size = self.config.block_size.len();
        let waiting = self.live(id);
        let block_idx = hit.blocks.len() + hit.slots.len();
        let is_shareable = block_idx < waiting.hit_len_max().len() / block_size;
        let Some(hash) = waiting.chain.get(block_idx).filter(|_| is_shareable) else {
            return false;
        };
        let (start, end) = (block_idx * block_size, (block_idx + 1) * block_size);
        let is_in = |chunk: &&Chunk| chunk.start.len() < end && start < chunk.end.len();
        let mut computing = chunks.iter().filter(is_in);
        computing.any(|chunk| self.live(chunk.seq).chain.get(block_idx) == Some(hash))
    }
}
