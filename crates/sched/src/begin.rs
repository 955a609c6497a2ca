//! Waiting to running: what a sequence finds in the prefix cache, and whether it has room.

use kvist_base::{Blocks, SeqId, Tokens};

use crate::config::Admission;
use crate::kv::PrefixHit;
use crate::plan::Begun;
use crate::schedule::Outline;
use crate::scheduler::Scheduler;
use crate::sequence::SequenceState;

impl Scheduler {
    /// The cached beginning of a waiting sequence, if it can run from there without a preemption.
    pub(crate) fn fitting_hit(&mut self, id: SeqId, promised: Blocks) -> Option<PrefixHit> {
        let (mut hit, is_whole) = self.prefix_hit(id);
        if !self.has_room(id, &hit, promised) {
            // The source of a copy takes room of its own.
            hit.tail = None;
            if !self.has_room(id, &hit, promised) {
                return None;
            }
        }
        self.totals.last_block_recomputes += u64::from(is_whole && hit.tail.is_none());
        Some(hit)
    }

    /// The cached beginning of a waiting sequence, and whether all of it is cached.
    ///
    /// The last token is always computed, for its logits. Its block is then written to, so it cannot
    /// be a shared one: it is copied.
    fn prefix_hit(&self, id: SeqId) -> (PrefixHit, bool) {
        let sequence = self.live(id);
        assert_eq!(sequence.state, SequenceState::Waiting);
        let (root, tokens) = (sequence.cache_root, &sequence.tokens);
        let mut hit = self.pool.longest(root, &sequence.chain, tokens);
        let block_size = self.config.block_size.len();
        let usable = sequence.hit_len_max().len();
        let is_whole = hit.shorten(usable / block_size);
        let start = hit.blocks.len() * block_size;
        assert!(start <= usable);
        if !is_whole && self.is_restoring_cheaper() {
            hit.slots = self.pool.restorable(root, &hit, &sequence.chain, tokens);
            // A block is worth restoring if anything of it can be used.
            hit.slots.truncate((usable - start).div_ceil(block_size));
        }
        if hit.slots.is_empty() && self.config.partial_hits && self.hasher.is_some() {
            let end = usable.min(start + block_size - 1);
            hit.tail = self.pool.tail_after(root, &hit, &tokens[start..end]);
        }
        (hit, is_whole && usable + 1 == tokens.len())
    }

    /// Whether a block is sooner restored than computed.
    fn is_restoring_cheaper(&self) -> bool {
        self.tier_costs.is_none_or(|costs| {
            let tokens = u64::from(self.config.block_size.0);
            costs.restore_ns_per_block < costs.compute_ns_per_token.saturating_mul(tokens)
        })
    }

    /// Whether all that is known of a waiting sequence can be computed without a preemption.
    fn has_room(&self, id: SeqId, hit: &PrefixHit, promised: Blocks) -> bool {
        let block_size = self.config.block_size;
        let known = self.live(id).blocks_known(block_size);
        assert!(hit.count() <= known);
        let pinned = hit.tail.map(|tail| self.pool.cached_among(&[tail.block]));
        let pinned = pinned.unwrap_or(Blocks::ZERO);
        let counts = self.pool.counts();
        if self.running.is_empty() {
            // Alone it fits, and the watermark has nobody to protect.
            assert!(known <= counts.total);
            return known + pinned <= counts.total;
        }
        let reserve = match self.config.admission {
            Admission::Optimistic => self.watermark(),
            Admission::Guaranteed => {
                let ids = self.running.iter().chain([id]);
                let longest: Blocks = ids.map(|id| self.live(id).blocks_needed(block_size)).sum();
                if longest > counts.total {
                    return false;
                }
                Blocks::ZERO
            }
        };
        let available = counts.available() - self.pool.cached_among(&hit.blocks);
        let missing = known - hit.count();
        let wanted = missing
            .checked_add(promised)
            .and_then(|n| n.checked_add(reserve))
            .and_then(|n| n.checked_add(pinned));
        wanted.is_some_and(|wanted| wanted <= available)
    }

    /// The configured watermark, as the share of the pool that it was at the start.
    fn watermark(&self) -> Blocks {
        let (share, start) = (self.config.watermark, self.config.blocks_limit);
        let scaled = u64::from(share.0) * u64::from(self.pool.limit().0) / u64::from(start.0);
        // A share of a pool is less than the pool.
        Blocks(u32::try_from(scaled).expect("the watermark is smaller than the pool"))
    }

    /// Waiting to running, from the end of the prefix hit.
    pub(crate) fn begin(&mut self, id: SeqId, hit: &PrefixHit, outline: &mut Outline) {
        let sequence = self
            .sequences
            .get_mut(&id)
            .expect("queues name live sequences");
        assert_eq!(sequence.computed_len, Tokens::ZERO);
        assert_eq!(sequence.indexed_count, 0);
        self.pool.share(&mut sequence.table, hit);
        let shared_len = hit.count().capacity(self.config.block_size);
        let shared_len = shared_len.expect("a hit is shorter than its sequence");
        let copied_len = hit.tail.map_or(Tokens::ZERO, |tail| tail.len);
        let usable = sequence.hit_len_max() - shared_len;
        let restored_len = hit.slots_len(self.config.block_size).min(usable);
        let hit_len = shared_len + restored_len + copied_len;
        assert!(hit_len < sequence.known_len());
        let is_first = sequence.first_hit_len.is_none();
        if hit_len > shared_len {
            self.pool.pin(hit);
            let extended = self.pool.extend(&mut sequence.table, hit_len);
            extended.expect("fitting_hit counted the blocks");
            let fresh = &sequence.table.blocks()[hit.blocks.len()..];
            outline.take_up(hit, fresh);
            outline.begun.push(Begun {
                seq: id,
                is_first,
                restored_len,
                copied_len,
            });
        }
        sequence.computed_len = hit_len;
        sequence.prefix_hit_len = hit_len;
        sequence.indexed_count = hit.blocks.len();
        sequence.state = SequenceState::Running;
        if self.config.prefix_caching && is_first {
            self.totals.prefix_query_tokens += u64::from(sequence.prompt_len.0);
            self.totals.prefix_hit_tokens += u64::from(hit_len.0);
        }
        sequence.first_hit_len.get_or_insert(hit_len);
        self.waiting.remove(sequence.rank, id);
        self.running.insert(sequence.rank, id);
    }

    /// Running to waiting, as if the sequence had not begun: what it was to begin with may not be in
    /// its blocks.
    pub(crate) fn undo_begin(&mut self, begun: &Begun) {
        self.stop_running(begun.seq);
        let sequence = self.live_mut(begun.seq);
        let hit_len = std::mem::take(&mut sequence.prefix_hit_len);
        if begun.is_first {
            sequence.first_hit_len = None;
            let prompt_len = sequence.prompt_len;
            self.totals.prefix_query_tokens -= u64::from(prompt_len.0);
            self.totals.prefix_hit_tokens -= u64::from(hit_len.0);
        }
    }
}
