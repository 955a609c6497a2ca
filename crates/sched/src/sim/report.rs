//! What a simulation saw, and what it found.

use kvist_base::{BlockId, Blocks, SeqId, Tokens};

macro_rules! counts {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $name {
            /// Every count with its name.
            pub fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }

            pub(super) fn merge(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counts! {
    /// How often each thing happened. A count of zero over many seeds means that the simulation does
    /// not reach that corner.
    SimReport {
        /// Histories simulated to their end.
        histories,
        /// Of those, histories of two schedulers with one budget.
        paired_histories,
        /// Blocks that went from one of them to the other.
        transfers,
        /// Transfers refused because a live sequence needs the blocks.
        transfers_refused,
        /// Plans with work in them.
        steps,
        /// Sequences admitted.
        admitted,
        /// Prompts too long for the model.
        refused_too_long,
        /// Sequences too large for the pool.
        refused_never_fits,
        /// Sequences that found the queue full.
        refused_overloaded,
        /// Ended by the fake model.
        finished_stop,
        /// Ended by the scheduler.
        finished_length,
        /// Cancelled while waiting.
        cancelled_waiting,
        /// Cancelled between steps while running.
        cancelled_running,
        /// Cancelled by a step's outcome.
        cancelled_in_step,
        /// Preempted because the pool was full.
        preempted_by_plan,
        /// Preempted from outside.
        preempted_by_force,
        /// Plans abandoned.
        abandoned,
        /// Proposals kept until the next chunk.
        proposed,
        /// Proposals for sequences that had more than their last token to compute.
        proposed_in_vain,
        /// Draft tokens computed.
        drafted_tokens,
        /// Draft tokens accepted.
        accepted_tokens,
        /// Drafts of which a part was not accepted.
        rejected_drafts,
        /// Sequences that ended by themselves after an accepted token.
        ended_in_draft,
        /// Drafts cut for want of free blocks, budget or rows.
        drafts_cut,
        /// Blocks that were taken for drafts.
        draft_blocks,
        /// Plans abandoned that had drafts, by drafts.
        abandoned_drafts,
        /// Rows of prompts whose logits were wanted beside the last.
        scored_rows,
        /// Chunks that did not reach the last known token.
        partial_chunks,
        /// Steps that left a waiting sequence waiting though it would have had a place.
        waited_for_blocks,
        /// Sequences passed by a later one of lower priority number.
        overtook_by_priority,
        /// Sequences passed by a later one of a tenant that was served less.
        overtook_by_tenant,
        /// Plans that run several sequences with room for all at their longest.
        guaranteed_steps,
        /// Preemptions that broke a promise of room, after the pool was made smaller.
        preempted_though_guaranteed,
        /// First admissions with a prefix hit.
        prefix_hits,
        /// Admissions after a preemption with a prefix hit.
        prefix_hits_again,
        /// Tokens that running sequences found because others had computed them meanwhile.
        late_hit_tokens,
        /// Beginnings put off because the step computed the same tokens for another.
        held_back,
        /// Whole sequences found cached, so that a block was computed again.
        last_block_recomputes,
        /// Contents given a slot of the second tier.
        spilled_blocks,
        /// Contents that left the pool because it was made smaller.
        spilled_by_resize,
        /// Contents that left the pool on demand.
        spilled_by_drop,
        /// Plans abandoned that should have spilled, by spills.
        abandoned_spills,
        /// Blocks restored.
        restored_blocks,
        /// Restores of what the same plan spilled.
        restored_at_once,
        /// Sequences that had run before and found something to restore.
        restored_again,
        /// Restores that failed.
        failed_restores,
        /// Plans abandoned that should have restored, by restores.
        abandoned_restores,
        /// Slots lost between steps.
        lost_slots,
        /// Blocks copied to go on from within them.
        copied_blocks,
        /// Copies out of a block that tables hold.
        copied_from_held,
        /// Copies out of a block that was not full.
        copied_from_tails,
        /// Plans abandoned that should have copied, by copies.
        abandoned_copies,
        /// Cached blocks overwritten.
        evictions,
        /// Blocks seen in several tables at once, counted each time looked.
        shared_blocks,
        /// Blocks given back for an equal one.
        merged_blocks,
        /// Blocks kept out of the index by a hash collision.
        hash_collisions,
        /// Prefix cache resets that went through.
        resets,
        /// Prefix cache resets refused because blocks were held.
        resets_refused,
        /// Pools made larger.
        grown,
        /// Pools made smaller.
        shrunk,
        /// Sizes refused because no pool can have them.
        resizes_refused,
        /// Sizes refused because a live sequence could not end.
        resizes_refused_for_live,
        /// Blocks moved to lower ids.
        moved_blocks,
        /// Blocks that moved while several tables had them.
        moved_shared_blocks,
        /// Sequences preempted to make a pool smaller.
        preempted_by_resize,
        /// Cached blocks dropped to make a pool smaller.
        dropped_by_resize,
        /// Cached blocks dropped on demand while others were held.
        dropped_while_held,
    }
}

impl SimReport {
    /// Names of the things that never happened.
    pub fn untouched(&self) -> Vec<&'static str> {
        self.counts()
            .into_iter()
            .filter(|(_, n)| *n == 0)
            .map(|(name, _)| name)
            .collect()
    }
}

/// A broken rule, and how to see it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, event {step}: {what}")]
pub struct Violation {
    /// The history.
    pub seed: u64,
    /// The event in it, from 1.
    pub step: u64,
    /// The rule.
    pub what: Rule,
}

/// The rules of a scheduler, each as its breach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each message says it
pub enum Rule {
    #[error("an assertion failed: {message}")]
    Panicked { message: String },
    #[error("there is work, but the plan is empty")]
    Idle,
    #[error("{given} planned, at most {limit} allowed")]
    OverBudget { limit: Tokens, given: Tokens },
    #[error("{given} rows with logits planned, at most {limit} allowed")]
    TooManyRows { limit: usize, given: usize },
    #[error("sequence {seq} does not get the logits it wants, once and in order")]
    BadLogits { seq: SeqId },
    #[error("sequence {seq} got {given} while others are alive, at most {limit} allowed")]
    ChunkTooLong {
        seq: SeqId,
        limit: Tokens,
        given: Tokens,
    },
    #[error("{given} sequences run, at most {limit} allowed")]
    TooManyRunning { limit: usize, given: usize },
    #[error("the chunk {start}..{end} of sequence {seq} does not continue it")]
    BadSpan {
        seq: SeqId,
        start: Tokens,
        end: Tokens,
    },
    #[error("the draft of sequence {seq} is not what was proposed, too long, or where none can be")]
    BadDraft { seq: SeqId },
    #[error("{given} draft tokens planned, at most {limit} allowed")]
    TooManyDrafts { limit: Tokens, given: Tokens },
    #[error("the draft of sequence {seq} took a block whose content was cached")]
    DraftEvicted { seq: SeqId },
    #[error("running sequences are not in order of rank, from {seq}")]
    OutOfOrder { seq: SeqId },
    #[error("running sequence {seq} was passed over")]
    Skipped { seq: SeqId },
    #[error("sequence {seq}, the first in rank that ran, was preempted")]
    FirstPreempted { seq: SeqId },
    #[error("a sequence was preempted, or let in, against the promise of room for all")]
    BrokenGuarantee,
    #[error("sequence {seq} was let in by a step that preempted")]
    AdmittedWhilePreempting { seq: SeqId },
    #[error("from sequence {seq} on, others were let in than should be")]
    Overtaken { seq: SeqId },
    #[error("sequence {seq} computes a block that another has computed, or computes in this step")]
    ComputedTwice { seq: SeqId },
    #[error("{reused} prompt tokens were found cached, of {looked_up} looked up")]
    BadHitCount { looked_up: u64, reused: u64 },
    #[error("slot {slot} is written twice in a step, the second time by sequence {seq}")]
    WrittenTwice { slot: usize, seq: SeqId },
    #[error("{block} cannot be spilled, restored or copied like this")]
    BadMove { block: BlockId },
    #[error("slot {slot} of the second tier has other content than it should")]
    BadSlot { slot: u32 },
    #[error("slot {slot} of the second tier was kept longer than what comes before it")]
    OrphanedSlot { slot: u32 },
    #[error("position {position} of sequence {seq} has no block")]
    NoBlock { seq: SeqId, position: usize },
    #[error("sequence {seq} reads position {position} in slot {slot}: {found}")]
    BadRead {
        seq: SeqId,
        position: usize,
        slot: usize,
        found: &'static str,
    },
    #[error("{block} is indexed with content that is not in it")]
    BadIndex { block: BlockId },
    #[error("{block} is in {tables} tables but has {holders} holders")]
    BadHolders {
        block: BlockId,
        tables: u32,
        holders: u32,
    },
    #[error("{block} is in use beyond the limit")]
    BeyondLimit { block: BlockId },
    #[error("the pool should not be resized to {limit} like this: {what}")]
    BadResize { limit: Blocks, what: &'static str },
    #[error("two pools come to {given} units, their budget is {limit}")]
    OverShared { limit: u32, given: u32 },
    #[error("{blocks} were dropped from the cache, not as many as asked for")]
    BadDrop { blocks: Blocks },
    #[error("the state of {block}, or the sum of the states, is wrong")]
    BadState { block: BlockId },
    #[error("{block} is shared by sequences {one} and {other} without the same full prefix")]
    BadShare {
        block: BlockId,
        one: SeqId,
        other: SeqId,
    },
    #[error("the table of sequence {seq} is shorter or longer than its tokens need")]
    BadTable { seq: SeqId },
    #[error("sequence {seq} is not as it should be: {what}")]
    BadSequence { seq: SeqId, what: &'static str },
    #[error("sequence {seq} should be refused or accepted otherwise")]
    BadRefusal { seq: SeqId },
    #[error("sequence {seq} finished with another output than alone")]
    OtherOutput { seq: SeqId },
    #[error("not finished {steps} steps after the last arrival")]
    Starved { steps: usize },
}
