//! The limits a scheduler works under, and the refusals they cause.

use kvist_base::{Blocks, SeqId, Tokens};

/// The limits of a scheduler. All of them hold at every step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Token positions per KV block.
    pub block_size: Tokens,
    /// Blocks in the pool at the start; their ids are `0..blocks_limit`.
    pub blocks_limit: Blocks,
    /// Most blocks there can ever be: what `resize` can raise the limit to.
    pub blocks_max: Blocks,
    /// Most sequences that own blocks at one time (`max_num_seqs`).
    pub running_max: usize,
    /// Most sequences that queue for a first admission. Preempted sequences are let back in above
    /// this limit: they were accepted once.
    pub waiting_max: usize,
    /// Most tokens computed in one step (`max_num_batched_tokens`).
    pub step_tokens_max: Tokens,
    /// Most tokens one sequence gets in a step while others are alive, so that a long prompt does
    /// not hold up the rest. `None`: only `step_tokens_max` limits it.
    pub chunk_max: Option<Tokens>,
    /// Most draft tokens computed in one step, of all sequences together, as far as
    /// [`SchedulerConfig::logit_rows_max`] has rows for them. 0: drafts are not computed.
    pub draft_max: Tokens,
    /// Most tokens of a sequence, prompt and output together.
    pub model_len_max: Tokens,
    /// Whether full blocks are indexed by content and reused.
    pub prefix_caching: bool,
    /// Whether a part of a block is reused too, by copying: needs `prefix_caching`, and a device that
    /// carries out `StepPlan::copies`.
    pub partial_hits: bool,
    /// Blocks the second tier holds; 0: there is none. Needs `prefix_caching`, and a device that
    /// carries out `StepPlan::spills` and `StepPlan::restores`.
    pub tier_slots: u32,
    /// When a waiting sequence is let in.
    pub admission: Admission,
    /// Who is let in next.
    pub fairness: Fairness,
    /// Blocks an optimistic admission leaves unpromised, so that running sequences can grow a little
    /// before one must be preempted. Waived when nothing runs. Given for a pool of `blocks_limit`;
    /// of a pool of another size it is the same share, rounded down.
    pub watermark: Blocks,
}

/// When a waiting sequence is let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Admission {
    /// When what is known of it fits. Those let in last may have to wait again.
    #[default]
    Optimistic,
    /// When it fits at its longest, beside all that run at theirs. Nobody is preempted for want of
    /// blocks, unless the pool is made smaller.
    Guaranteed,
}

/// Who is let in next among waiting sequences of equal priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fairness {
    /// Who came first.
    #[default]
    Arrival,
    /// The tenant that was served the fewest tokens, and of its sequences the one that came first.
    Tenants,
}

impl SchedulerConfig {
    /// Most rows of a step that have logits: one for each sequence that runs, or one and the longest
    /// drafts. Prompts whose every token has logits share them, so they are computed in pieces.
    pub fn logit_rows_max(&self) -> usize {
        self.running_max.max(self.draft_max.len() + 1)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("block_size", self.block_size.is_empty()),
            ("blocks_limit", self.blocks_limit.is_empty()),
            ("running_max", self.running_max == 0),
            ("waiting_max", self.waiting_max == 0),
            ("step_tokens_max", self.step_tokens_max.is_empty()),
            ("chunk_max", self.chunk_max.is_some_and(Tokens::is_empty)),
        ];
        if let Some((field, _)) = sizes.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(ConfigError::Zero { field });
        }
        if self.model_len_max < MODEL_LEN_MIN {
            return Err(ConfigError::ModelLenTooSmall {
                limit: MODEL_LEN_MIN,
                given: self.model_len_max,
            });
        }
        if self.tier_slots > 0 && !self.prefix_caching {
            return Err(ConfigError::Missing {
                field: "tier_slots",
                needs: "prefix_caching",
            });
        }
        if self.blocks_limit > self.blocks_max {
            return Err(ConfigError::TooManyBlocks {
                limit: self.blocks_max,
                given: self.blocks_limit,
            });
        }
        if self.watermark >= self.blocks_limit {
            return Err(ConfigError::WatermarkTooLarge {
                watermark: self.watermark,
                blocks_limit: self.blocks_limit,
            });
        }
        Ok(())
    }
}

/// One prompt token and one output token.
const MODEL_LEN_MIN: Tokens = Tokens(2);

/// A configuration no scheduler can work under.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A size or limit that must be at least one.
    #[error("{field} must be at least 1, not 0")]
    Zero {
        /// The name of the field in [`SchedulerConfig`].
        field: &'static str,
    },
    /// A context too short for one prompt and one output token.
    #[error("model_len_max must be at least {limit}, not {given}")]
    ModelLenTooSmall {
        /// The least context length.
        limit: Tokens,
        /// The context length asked for.
        given: Tokens,
    },
    /// A feature that builds on another one, which is off.
    #[error("{field} has no use without {needs}")]
    Missing {
        /// The name of the field in [`SchedulerConfig`].
        field: &'static str,
        /// The name of the field it builds on.
        needs: &'static str,
    },
    /// The pool would start larger than it may ever be.
    #[error("blocks_limit ({given}) must not be larger than blocks_max ({limit})")]
    TooManyBlocks {
        /// Most blocks there can ever be.
        limit: Blocks,
        /// Blocks at the start.
        given: Blocks,
    },
    /// Admission would keep more blocks free than there are.
    #[error("watermark ({watermark}) must be smaller than the pool ({blocks_limit})")]
    WatermarkTooLarge {
        /// The watermark asked for.
        watermark: Blocks,
        /// The size of the pool.
        blocks_limit: Blocks,
    },
}

/// Why the pool was not resized. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// A pool has at least one block.
    #[error("a KV pool has at least one block, not 0")]
    Zero,
    /// There are no ids for so many blocks.
    #[error("the KV pool can have {limit} at most, not {given}")]
    TooLarge {
        /// `blocks_max` of the configuration.
        limit: Blocks,
        /// The size asked for.
        given: Blocks,
    },
    /// A live sequence could then never end, even alone.
    #[error("sequence {id} may need {needed} of KV cache, {given} would be left")]
    LiveSequence {
        /// The live sequence that needs most.
        id: SeqId,
        /// Blocks it needs at its longest.
        needed: Blocks,
        /// The size asked for.
        given: Blocks,
    },
}

/// Why a sequence was not admitted. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// There is no token to start from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an output token in the model's context.
    #[error("the prompt has {given}, the limit is {limit}")]
    PromptTooLong {
        /// The longest prompt: the context length, less one if there is to be an output.
        limit: Tokens,
        /// The length of this prompt.
        given: Tokens,
    },
    /// Prompt and output limit together need more blocks than the pool has, so the sequence could
    /// not end even if it ran alone.
    #[error("prompt and output need {blocks_needed} of KV cache, there are {blocks_limit}")]
    NeverFits {
        /// Blocks the sequence needs at its longest.
        blocks_needed: Blocks,
        /// Blocks in the pool.
        blocks_limit: Blocks,
    },
    /// The queue is full; later there may be room.
    #[error("{waiting} sequences are waiting, the limit is {waiting_max}")]
    Overloaded {
        /// Sequences waiting now.
        waiting: usize,
        /// The limit of the queue.
        waiting_max: usize,
    },
    /// A live sequence has this id.
    #[error("sequence {id} is already being served")]
    DuplicateId {
        /// The id given twice.
        id: SeqId,
    },
}

/// The prefix cache cannot be reset: running sequences hold blocks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held} are in use by running sequences")]
pub struct CacheInUse {
    /// Blocks that are held.
    pub held: Blocks,
}
