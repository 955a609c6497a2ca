//! The scheduler: what is alive, and the doors in and out. Deciding is in `schedule`, committing
//! in `commit`.

use std::collections::BTreeMap;
use std::ops::Range;

use kvist_base::{BlockId, Blocks, FinishReason, SeqId, Tokens};

use crate::config::{AdmitError, CacheInUse, ConfigError, SchedulerConfig};
use crate::fairness::Tenants;
use crate::kv::{BlockPool, BlockState, BlockTable, ChainHasher, PoolCounts, PoolSizes, Spill};
use crate::plan::Chunk;
use crate::queue::{Rank, RankQueue};
use crate::sequence::{
    FinishedSequence, NewSequence, PromptLogits, Sequence, SequenceState, SequenceView,
    slots_needed, token_count,
};

/// Decides what runs next, and owns the KV blocks.
///
/// Sequences have a rank: priority, then arrival. When blocks run out the last in rank that runs gives
/// its own back and waits again; the first is never asked to, so every step brings it nearer its
/// end.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) pool: BlockPool,
    /// `None` without prefix caching.
    pub(crate) hasher: Option<ChainHasher>,
    /// Every live sequence; each is in exactly one of the two queues.
    pub(crate) sequences: BTreeMap<SeqId, Sequence>,
    pub(crate) running: RankQueue,
    pub(crate) waiting: RankQueue,
    pub(crate) arrival_count: u64,
    pub(crate) tenants: Tenants,
    /// Plans made so far, and so the number of the latest.
    pub(crate) step: u64,
    /// Whether the latest plan has yet to be committed or abandoned.
    pub(crate) plan_is_out: bool,
    /// The chunk list of the last plan, kept so that a step need not allocate one.
    pub(crate) spare_chunks: Vec<Chunk>,
    /// `None`: restoring is always cheaper.
    pub(crate) tier_costs: Option<TierCosts>,
    pub(crate) totals: Totals,
}

/// What `drop_cached` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Blocks that were cached and are free now.
    pub blocks: Blocks,
    /// Contents to write to the second tier, before the next plan is made.
    pub spills: Vec<Spill>,
}

/// What it costs to restore a block, and what to compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierCosts {
    /// Nanoseconds to read a block from the second tier.
    pub restore_ns_per_block: u64,
    /// Nanoseconds to compute a token of a prompt.
    pub compute_ns_per_token: u64,
}

/// Counts since the scheduler was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Times a sequence lost its blocks.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache, each sequence once.
    pub prefix_query_tokens: u64,
    /// Of those, tokens found: when the sequence first began, and late hits until it first gave way
    /// or produced a token.
    pub prefix_hit_tokens: u64,
    /// Tokens that running sequences did not compute because others had meanwhile.
    pub late_hit_tokens: u64,
    /// Times a step let nobody in, or nobody more, because it computes already what the next one
    /// would.
    pub held_back: u64,
    /// Cached blocks overwritten with other content.
    pub evictions: u64,
    /// Times all of a sequence was cached, and its whole last block was computed again for the logits
    /// of its last token.
    pub last_block_recomputes: u64,
    /// Blocks given back because another sequence had computed the same content.
    pub merged_blocks: u64,
    /// Blocks copied because a sequence goes on from within them.
    pub copied_blocks: u64,
    /// Tokens that were not computed thanks to these copies.
    pub copied_tokens: u64,
    /// Contents given a slot of the second tier.
    pub spilled_blocks: u64,
    /// Blocks restored from the second tier.
    pub restored_blocks: u64,
    /// Tokens that were not computed thanks to these.
    pub restored_tokens: u64,
    /// Slots of the second tier whose content was lost.
    pub lost_slots: u64,
    /// Blocks moved to lower ids when the pool was made smaller.
    pub moved_blocks: u64,
    /// Draft tokens computed.
    pub drafted_tokens: u64,
    /// Of those, tokens that were accepted.
    pub accepted_tokens: u64,
    /// Times a full block stayed out of the prefix index because another content has its hash.
    pub hash_collisions: u64,
}

impl Scheduler {
    /// An empty scheduler with a pool of free blocks.
    ///
    /// # Errors
    /// A limit that must be at least one is zero, or the limits contradict each other.
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        Self::with_hash_mask(config, u128::MAX)
    }

    /// As `new`, with only the masked bits of each chain hash, so that contents collide.
    pub(crate) fn with_hash_mask(config: SchedulerConfig, mask: u128) -> Result<Self, ConfigError> {
        config.check()?;
        let sizes = PoolSizes {
            block_size: config.block_size,
            limit: config.blocks_limit,
            tier_slots: config.tier_slots,
        };
        let hasher = config
            .prefix_caching
            .then(|| ChainHasher::new(config.block_size, mask));
        Ok(Self {
            pool: BlockPool::new(sizes),
            hasher,
            sequences: BTreeMap::new(),
            running: RankQueue::default(),
            waiting: RankQueue::default(),
            arrival_count: 0,
            tenants: Tenants::default(),
            step: 0,
            plan_is_out: false,
            spare_chunks: Vec::new(),
            tier_costs: None,
            totals: Totals::default(),
            config,
        })
    }

    /// The limits it was made with.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Queues a sequence in its place by rank: behind all others of its priority.
    ///
    /// # Errors
    /// The sequence can never be served, or the queue is full. Nothing is changed then.
    pub fn admit(&mut self, sequence: NewSequence) -> Result<(), AdmitError> {
        let len_max = self.check_fits(&sequence)?;
        if self.sequences.contains_key(&sequence.id) {
            return Err(AdmitError::DuplicateId { id: sequence.id });
        }
        if self.waiting.len() >= self.config.waiting_max {
            return Err(AdmitError::Overloaded {
                waiting: self.waiting.len(),
                waiting_max: self.config.waiting_max,
            });
        }
        let rank = Rank {
            priority: sequence.priority,
            arrival: self.arrival_count,
        };
        self.arrival_count += 1;
        let mut chain = Vec::new();
        if let Some(hasher) = &self.hasher {
            hasher.extend(&mut chain, sequence.cache_root, &sequence.prompt);
        }
        let prompt_len = token_count(&sequence.prompt);
        let admitted = Sequence {
            id: sequence.id,
            rank,
            tenant: sequence.tenant,
            charged_len: Tokens::ZERO,
            state: SequenceState::Waiting,
            cache_root: sequence.cache_root,
            chain,
            prompt_len,
            logits_len: match sequence.prompt_logits {
                PromptLogits::Last => prompt_len,
                PromptLogits::All => Tokens::ZERO,
            },
            tokens: sequence.prompt,
            draft: Vec::new(),
            len_max,
            computed_len: Tokens::ZERO,
            table: BlockTable::default(),
            indexed_count: 0,
            prefix_hit_len: Tokens::ZERO,
            first_hit_len: None,
            preempted_count: 0,
        };
        self.tenants.arrive(admitted.tenant);
        self.waiting.insert(rank, admitted.id);
        self.sequences.insert(admitted.id, admitted);
        self.check_sums();
        Ok(())
    }

    /// The length at which the sequence must end, if the model and the pool have room for it.
    fn check_fits(&self, sequence: &NewSequence) -> Result<Tokens, AdmitError> {
        if sequence.prompt.is_empty() {
            return Err(AdmitError::EmptyPrompt);
        }
        let output_min = sequence.output_max.min(Tokens(1));
        let limit = self.config.model_len_max - output_min;
        let prompt_len = Tokens(u32::try_from(sequence.prompt.len()).unwrap_or(u32::MAX));
        if prompt_len > limit {
            return Err(AdmitError::PromptTooLong {
                limit,
                given: prompt_len,
            });
        }
        let asked = prompt_len.checked_add(sequence.output_max);
        let len_max = asked.map_or(self.config.model_len_max, |len| {
            len.min(self.config.model_len_max)
        });
        // Nothing is computed from the last output token, so it never needs a slot.
        let blocks_needed = slots_needed(prompt_len, len_max).div_ceil(self.config.block_size);
        let blocks_limit = self.pool.limit();
        if blocks_needed > blocks_limit {
            return Err(AdmitError::NeverFits {
                blocks_needed,
                blocks_limit,
            });
        }
        assert!(len_max >= prompt_len + output_min);
        Ok(len_max)
    }

    /// A live sequence; `None` if the id is unknown or the sequence is over.
    pub fn sequence(&self, id: SeqId) -> Option<SequenceView<'_>> {
        self.sequences.get(&id).map(Sequence::view)
    }

    /// Ends a sequence now, whatever its state. `None` if it is not alive.
    ///
    /// Only between steps: a plan that is out may write to its blocks. (Within a step, commit
    /// `ChunkEnd::Finished` with `FinishReason::Cancelled`.)
    pub fn cancel(&mut self, id: SeqId) -> Option<FinishedSequence> {
        assert!(!self.plan_is_out, "cancel during a step");
        self.sequences
            .contains_key(&id)
            .then(|| self.finish(id, FinishReason::Cancelled))
    }

    /// Takes a running sequence's blocks back and makes it wait in its place by rank; it keeps
    /// its tokens. False if it does not run. Only between steps.
    pub fn preempt(&mut self, id: SeqId) -> bool {
        assert!(!self.plan_is_out, "preempt during a step");
        let is_running = self
            .sequences
            .get(&id)
            .is_some_and(|s| s.state == SequenceState::Running);
        if is_running {
            self.take_back(id);
            self.check_sums();
        }
        is_running
    }

    /// Makes every cached block free and empties the second tier, so that nothing computed so far is
    /// reused.
    ///
    /// # Errors
    /// Blocks are held; they may be part of the cache.
    pub fn reset_prefix_cache(&mut self) -> Result<(), CacheInUse> {
        let held = self.pool.counts().held;
        if !held.is_empty() {
            return Err(CacheInUse { held });
        }
        self.pool.forget_all();
        Ok(())
    }

    /// Makes cached blocks free, least recently used first, until at most `keep` are cached. Works
    /// while others are held. Only between steps.
    pub fn drop_cached(&mut self, keep: Blocks) -> Dropped {
        assert!(!self.plan_is_out, "drop_cached during a step");
        Dropped {
            blocks: self.pool.drop_cached(keep),
            spills: self.pool.take_spills(),
        }
    }

    /// Whether any sequence is alive.
    pub fn has_work(&self) -> bool {
        !self.sequences.is_empty()
    }

    /// Sequences that own no blocks, preempted ones among them.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that own blocks.
    pub fn running_count(&self) -> usize {
        self.running.len()
    }

    /// Sequences that own blocks, in order of rank.
    pub fn running(&self) -> impl Iterator<Item = SeqId> + '_ {
        self.running.iter()
    }

    /// Sequences that wait, in order of rank.
    pub fn waiting(&self) -> impl Iterator<Item = SeqId> + '_ {
        self.waiting.iter()
    }

    /// Blocks by state.
    pub fn pool_counts(&self) -> PoolCounts {
        self.pool.counts()
    }

    /// Blocks in the pool now; their ids are `0..blocks_limit`.
    pub fn blocks_limit(&self) -> Blocks {
        self.pool.limit()
    }

    /// The maximal runs of free ids below the limit, ascending: memory behind them has no content
    /// worth keeping.
    pub fn free_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.pool.free_runs()
    }

    /// The state of one block, an id below `blocks_limit`.
    pub fn block_state(&self, id: BlockId) -> BlockState {
        self.pool.state(id)
    }

    /// Counts since the scheduler was made.
    pub fn totals(&self) -> Totals {
        Totals {
            evictions: self.pool.eviction_count(),
            spilled_blocks: self.pool.spill_count(),
            lost_slots: self.pool.lost_slot_count(),
            ..self.totals
        }
    }

    pub(crate) fn live(&self, id: SeqId) -> &Sequence {
        self.sequences
            .get(&id)
            .expect("queues and plans name live sequences")
    }

    pub(crate) fn live_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.sequences
            .get_mut(&id)
            .expect("queues and plans name live sequences")
    }

    /// Running to waiting: the blocks go back, all of it is to be computed again.
    pub(crate) fn take_back(&mut self, id: SeqId) {
        self.index_tail(id);
        self.stop_running(id);
        self.live_mut(id).preempted_count += 1;
        self.totals.preemptions += 1;
    }

    /// Gives a running sequence's blocks back and lets it wait.
    pub(crate) fn stop_running(&mut self, id: SeqId) {
        let sequence = self
            .sequences
            .get_mut(&id)
            .expect("queues name live sequences");
        assert_eq!(sequence.state, SequenceState::Running);
        self.pool.release(std::mem::take(&mut sequence.table));
        sequence.computed_len = Tokens::ZERO;
        sequence.indexed_count = 0;
        sequence.draft.clear();
        sequence.state = SequenceState::Waiting;
        self.running.remove(sequence.rank, id);
        self.waiting.insert(sequence.rank, id);
    }

    pub(crate) fn finish(&mut self, id: SeqId, reason: FinishReason) -> FinishedSequence {
        self.index_tail(id);
        let sequence = self
            .sequences
            .remove(&id)
            .expect("only live sequences finish");
        match sequence.state {
            SequenceState::Waiting => self.waiting.remove(sequence.rank, id),
            SequenceState::Running => self.running.remove(sequence.rank, id),
        }
        self.tenants.leave(sequence.tenant);
        let finished = sequence.finished(reason);
        self.pool.release(sequence.table);
        self.check_sums();
        finished
    }

    pub(crate) fn check_sums(&self) {
        assert_eq!(
            self.waiting.len() + self.running.len(),
            self.sequences.len()
        );
        assert!(self.running.len() <= self.config.running_max);
        let counts = self.pool.counts();
        assert!(counts.total <= self.config.blocks_max);
        assert!(!self.running.is_empty() || counts.held.is_empty());
    }
}

impl Drop for Scheduler {
    /// Live sequences and the pool end together. Nothing is asserted here: this may run because an
    /// assertion failed.
    fn drop(&mut self) {
        for sequence in std::mem::take(&mut self.sequences).into_values() {
            sequence.table.discard();
        }
    }
}
