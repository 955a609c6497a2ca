//! One stream of tokens being extended.

use kvist_base::{BlockId, Blocks, FinishReason, SeqId, TokenId, Tokens};

use crate::kv::{BlockTable, ChainHash, ChainHasher};
use crate::queue::Rank;

/// A sequence to admit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSequence {
    /// Its identity, never used before.
    pub id: SeqId,
    /// The tokens to start from.
    pub prompt: Vec<TokenId>,
    /// Most tokens to produce. 0: it ends with its prompt, and the outcome of the step that computes
    /// the last of it says so.
    pub output_max: Tokens,
    /// Which tokens of the prompt have logits.
    pub prompt_logits: PromptLogits,
    /// Identity of everything besides the tokens that KV content depends on: model, adapter, salt.
    /// Sequences share blocks only within one root.
    pub cache_root: u64,
    /// Those with a lower number are served first, and give way last; 0 is usual.
    pub priority: i32,
    /// On whose behalf it runs, for `Fairness::Tenants`.
    pub tenant: u64,
}

/// Which tokens of a prompt have logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PromptLogits {
    /// The last: from it the first token of the output is drawn.
    #[default]
    Last,
    /// Each of them, once, in order. What is found in the prefix cache has no logits, so before its
    /// prompt has been gone through such a sequence shares nothing it has not computed before.
    All,
}

/// Where a live sequence is. A finished one is no longer in the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SequenceState {
    /// Owns no blocks; nothing of it is computed.
    Waiting,
    /// Owns blocks, and gets chunks.
    Running,
}

/// A live sequence, as it is between two calls to the scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SequenceView<'a> {
    /// Waiting or running.
    pub state: SequenceState,
    /// Prompt and output so far; `known_len` of them.
    pub tokens: &'a [TokenId],
    /// Length of the prompt.
    pub prompt_len: Tokens,
    /// The prefix whose KV is in the blocks; less than `known_len`.
    pub computed_len: Tokens,
    /// Length of `tokens`.
    pub known_len: Tokens,
    /// Length at which it ends, whatever is sampled.
    pub len_max: Tokens,
    /// What was proposed to follow `tokens`. While a plan is out: what of it the plan computes.
    pub draft: &'a [TokenId],
    /// The blocks in order: position `p` is in `block_table[p / block_size]`. Between steps an entry
    /// may be replaced by another block with the same content, so read it anew for every step.
    pub block_table: &'a [BlockId],
    /// Tokens that were found in the prefix cache when it last began to run, and since.
    pub prefix_hit_len: Tokens,
    /// How often it lost its blocks.
    pub preempted_count: u32,
}

/// The last word about a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedSequence {
    /// The sequence.
    pub id: SeqId,
    /// Why it ended.
    pub reason: FinishReason,
    /// Length of the prompt.
    pub prompt_len: Tokens,
    /// Tokens produced.
    pub output_len: Tokens,
    /// Prompt tokens found in the prefix cache when it *first* began to run, and late hits from then
    /// until it gave way or produced a token: what a usage report calls cached tokens. Less than
    /// `prompt_len`.
    pub prefix_hit_len: Tokens,
}

/// ```text
/// tokens   0        prompt_len          known_len        len_max
///          |--prompt--|--output so far------|--may come----|
///          |---computed_len---|--to compute-|
/// ```
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SeqId,
    pub(crate) rank: Rank,
    pub(crate) tenant: u64,
    /// What its tenant was charged for; nothing up to here is charged again.
    pub(crate) charged_len: Tokens,
    pub(crate) state: SequenceState,
    pub(crate) cache_root: u64,
    pub(crate) tokens: Vec<TokenId>,
    /// Tokens that may follow. Nothing is ever hashed or indexed by them.
    pub(crate) draft: Vec<TokenId>,
    /// Chain hash of each full block of `tokens`; empty without prefix caching.
    pub(crate) chain: Vec<ChainHash>,
    pub(crate) prompt_len: Tokens,
    /// Length at which it ends, whatever is sampled.
    pub(crate) len_max: Tokens,
    pub(crate) computed_len: Tokens,
    /// Tokens of the prompt that need no logits any more.
    pub(crate) logits_len: Tokens,
    pub(crate) table: BlockTable,
    /// Leading blocks of `table` that are in the prefix index.
    pub(crate) indexed_count: usize,
    pub(crate) prefix_hit_len: Tokens,
    pub(crate) first_hit_len: Option<Tokens>,
    pub(crate) preempted_count: u32,
}

impl Sequence {
    pub(crate) fn known_len(&self) -> Tokens {
        token_count(&self.tokens)
    }

    /// Blocks that hold every known token.
    pub(crate) fn blocks_known(&self, block_size: Tokens) -> Blocks {
        self.known_len().div_ceil(block_size)
    }

    /// Blocks it has at its longest. Nothing is computed from the last output token, so it never
    /// needs a slot.
    pub(crate) fn blocks_needed(&self, block_size: Tokens) -> Blocks {
        slots_needed(self.prompt_len, self.len_max).div_ceil(block_size)
    }

    /// Tokens it may take from the prefix cache: not the last, which is computed for its logits, and
    /// none that has yet to have logits.
    pub(crate) fn hit_len_max(&self) -> Tokens {
        if self.logits_len < self.prompt_len {
            self.logits_len
        } else {
            self.known_len() - Tokens(1)
        }
    }

    /// Appends an output token and hashes the block it fills.
    pub(crate) fn push_token(&mut self, token: TokenId, hasher: Option<&ChainHasher>) {
        assert!(
            self.known_len() < self.len_max,
            "a sequence outgrew its limit"
        );
        self.tokens.push(token);
        if let Some(hasher) = hasher {
            hasher.extend(&mut self.chain, self.cache_root, &self.tokens);
        }
    }

    pub(crate) fn finished(&self, reason: FinishReason) -> FinishedSequence {
        let output_len = self.known_len() - self.prompt_len;
        let prefix_hit_len = self.first_hit_len.unwrap_or(Tokens::ZERO);
        assert!(prefix_hit_len < self.prompt_len);
        FinishedSequence {
            id: self.id,
            reason,
            prompt_len: self.prompt_len,
            output_len,
            prefix_hit_len,
        }
    }

    pub(crate) fn view(&self) -> SequenceView<'_> {
        assert!(self.computed_len < self.known_len());
        SequenceView {
            state: self.state,
            tokens: &self.tokens,
            prompt_len: self.prompt_len,
            computed_len: self.computed_len,
            known_len: self.known_len(),
            len_max: self.len_max,
            draft: &self.draft,
            block_table: self.table.blocks(),
            prefix_hit_len: self.prefix_hit_len,
            preempted_count: self.preempted_count,
        }
    }
}

/// Positions that are computed of a sequence at its longest.
pub(crate) fn slots_needed(prompt_len: Tokens, len_max: Tokens) -> Tokens {
    prompt_len.max(len_max - Tokens(1))
}

/// The length of a sequence, which `model_len_max` keeps within a token count.
pub(crate) fn token_count(tokens: &[TokenId]) -> Tokens {
    Tokens(u32::try_from(tokens.len()).expect("admission bounds the length by model_len_max"))
}
