//! The scheduler with everything around it: clients, model, device, and an observer.

use std::collections::BTreeMap;

use kvist_base::{BlockId, Blocks, FinishReason, SeqId, TokenId, Tokens};

use super::device::FakeDevice;
use super::model::{FakeModel, Tag};
use super::report::{Rule, SimReport};
use super::scenario::Scenario;
use crate::config::{AdmitError, Fairness};
use crate::kv::{PlantedBug, Spill, TierSlot};
use crate::plan::{Chunk, ChunkEnd, ChunkOutcome, StepOutcome, StepPlan};
use crate::scheduler::Scheduler;
use crate::sequence::{FinishedSequence, NewSequence, PromptLogits, SequenceState};

/// Something that happens to a scheduler.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A sequence arrives; the world gives it an id.
    Admit(NewSequence),
    /// A step is decided, done and committed.
    Step,
    /// As `Step`, and the outcome cancels this sequence if it is in the plan.
    StepCancelling(SeqId),
    /// A step is decided and fails on the device.
    Abandon,
    /// What may follow a sequence is proposed.
    Propose(SeqId, Vec<TokenId>),
    Cancel(SeqId),
    Preempt(SeqId),
    Reset,
    Resize(Blocks),
    DropCached(Blocks),
    LoseSlot(TierSlot),
    /// As `Step`, and if there is something to restore, these slots among it cannot be read.
    StepDamaged(u64),
}

/// A client's side of a live sequence, kept apart from the scheduler's.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) tokens: Vec<TokenId>,
    pub(super) cache_root: u64,
    pub(super) prompt_len: usize,
    /// Tokens of the prompt that need no logits any more.
    pub(super) scored_len: usize,
    pub(super) len_max: Tokens,
    pub(super) preempted_count: u32,
    pub(super) priority: i32,
    pub(super) tenant: u64,
    /// What the tenant was charged for.
    pub(super) charged_len: usize,
    /// What was proposed to follow `tokens`.
    pub(super) proposed: Vec<TokenId>,
}

/// What the observer looks at before and after a plan is made.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) running: Vec<SeqId>,
    /// In the order in which they must be let in.
    pub(super) waiting: Vec<SeqId>,
    /// Blocks with content worth keeping.
    pub(super) indexed: Vec<BlockId>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) device: FakeDevice,
    pub(super) clients: BTreeMap<SeqId, Client>,
    pub(super) report: SimReport,
    model: FakeModel,
    live: Vec<SeqId>,
    next_id: u64,
    /// Tokens served, by tenant.
    pub(super) served: BTreeMap<u64, u64>,
    /// Whether a promise of blocks may have been broken by a smaller pool.
    pub(super) has_shrunk: bool,
    /// Whether two contents hardly ever have one hash.
    pub(super) has_whole_hashes: bool,
}

impl World {
    pub(super) fn new(scenario: &Scenario, bug: Option<PlantedBug>) -> Self {
        let config = &scenario.config;
        let device = FakeDevice::new(config);
        let mut scheduler = Scheduler::with_hash_mask(config.clone(), scenario.hash_mask)
            .expect("scenarios have valid limits");
        scheduler.pool.planted = bug;
        if let Some(costs) = scenario.tier_costs {
            scheduler.set_tier_costs(costs);
        }
        Self {
            scheduler,
            device,
            clients: BTreeMap::new(),
            report: SimReport::default(),
            model: scenario.model,
            live: Vec::new(),
            next_id: 0,
            served: BTreeMap::new(),
            has_shrunk: false,
            has_whole_hashes: scenario.hash_mask == u128::MAX,
        }
    }

    /// Live sequences, oldest first.
    pub(super) fn live(&self) -> &[SeqId] {
        &self.live
    }

    pub(super) fn apply(&mut self, event: Event) -> Result<(), Rule> {
        match event {
            Event::Admit(sequence) => self.admit(sequence)?,
            Event::Step => self.step(None)?,
            Event::StepCancelling(seq) => self.step(Some(seq))?,
            Event::Abandon => self.abandon()?,
            Event::Propose(seq, draft) => self.propose(seq, draft)?,
            Event::Cancel(seq) => self.cancel(seq)?,
            Event::Preempt(seq) => self.preempt(seq),
            Event::Reset => match self.scheduler.reset_prefix_cache() {
                Ok(()) => self.report.resets += 1,
                Err(_) => self.report.resets_refused += 1,
            },
            Event::Resize(limit) => self.resize(limit)?,
            Event::DropCached(keep) => self.drop_cached(keep)?,
            Event::LoseSlot(slot) => self.lose_slot(slot),
            Event::StepDamaged(which) => self.step_damaged(which)?,
        }
        self.live = self.clients.keys().copied().collect();
        self.check_state()?;
        self.check_tier()
    }

    /// Lets everything finish; `on_step` is called before each step.
    pub(super) fn drain(mut self, mut on_step: impl FnMut()) -> Result<SimReport, Rule> {
        // Each step computes at least one token of the oldest running sequence, which keeps its
        // blocks. In the worst case all that run finish before the oldest waiting one gets in, and
        // that again for each.
        let tokens: usize = self
            .clients
            .values()
            .map(|client| client.len_max.len())
            .sum();
        let mut steps_max = tokens * (self.clients.len() + 1);
        if self.scheduler.config().fairness == Fairness::Tenants {
            // Whoever is let in may rank before those that run, which then may have to begin again.
            steps_max *= self.clients.len() + 1;
        }
        for _ in 0..steps_max {
            if !self.scheduler.has_work() {
                break;
            }
            on_step();
            self.apply(Event::Step)?;
        }
        if !self.clients.is_empty() || self.scheduler.has_work() {
            return Err(Rule::Starved { steps: steps_max });
        }
        self.check_state()?;
        let totals = self.scheduler.totals();
        if totals.prefix_hit_tokens > totals.prefix_query_tokens {
            return Err(Rule::BadHitCount {
                looked_up: totals.prefix_query_tokens,
                reused: totals.prefix_hit_tokens,
            });
        }
        self.report.histories += 1;
        self.report.last_block_recomputes += totals.last_block_recomputes;
        self.report.evictions += totals.evictions;
        self.report.merged_blocks += totals.merged_blocks;
        self.report.late_hit_tokens += totals.late_hit_tokens;
        self.report.held_back += totals.held_back;
        self.report.hash_collisions += totals.hash_collisions;
        self.report.moved_blocks += totals.moved_blocks;
        self.report.copied_blocks += totals.copied_blocks;
        self.report.spilled_blocks += totals.spilled_blocks;
        self.report.restored_blocks += totals.restored_blocks;
        self.report.drafted_tokens += totals.drafted_tokens;
        self.report.accepted_tokens += totals.accepted_tokens;
        Ok(self.report)
    }

    fn admit(&mut self, mut sequence: NewSequence) -> Result<(), Rule> {
        let seq = SeqId(self.next_id);
        self.next_id += 1;
        sequence.id = seq;
        let config = self.scheduler.config();
        let prompt_len = sequence.prompt.len();
        let len_max = sequence.output_max.len() + prompt_len;
        let len_max = len_max.min(config.model_len_max.len());
        let slots = config.block_size.len() * self.scheduler.blocks_limit().len();
        let fits = prompt_len < config.model_len_max.len() && len_max - 1 <= slots;
        let has_place = self.scheduler.waiting_count() < config.waiting_max;
        let client = Client {
            tokens: sequence.prompt.clone(),
            cache_root: sequence.cache_root,
            prompt_len,
            scored_len: match sequence.prompt_logits {
                PromptLogits::Last => prompt_len,
                PromptLogits::All => 0,
            },
            len_max: Tokens(u32::try_from(len_max).expect("bounded by model_len_max")),
            preempted_count: 0,
            priority: sequence.priority,
            tenant: sequence.tenant,
            charged_len: 0,
            proposed: Vec::new(),
        };
        let result = self.scheduler.admit(sequence);
        match &result {
            Ok(()) => self.report.admitted += 1,
            Err(AdmitError::PromptTooLong { .. }) => self.report.refused_too_long += 1,
            Err(AdmitError::NeverFits { .. }) => self.report.refused_never_fits += 1,
            Err(AdmitError::Overloaded { .. }) => self.report.refused_overloaded += 1,
            Err(AdmitError::EmptyPrompt | AdmitError::DuplicateId { .. }) => {
                return Err(Rule::BadRefusal { seq });
            }
        }
        if result.is_ok() != (fits && has_place) {
            return Err(Rule::BadRefusal { seq });
        }
        if result.is_ok() {
            self.arrive(client.tenant);
            self.clients.insert(seq, client);
        }
        Ok(())
    }

    /// Has a plan made, and looks at it from outside.
    pub(super) fn plan(&mut self) -> Result<StepPlan, Rule> {
        let pool = &self.scheduler.pool;
        let ids = (0..self.scheduler.blocks_limit().0).map(BlockId);
        let before = Before {
            running: self.scheduler.running.iter().collect(),
            waiting: self.waiting_in_order(),
            indexed: ids.filter(|id| pool.content_of(*id).is_some()).collect(),
        };
        let plan = self.scheduler.schedule();
        for seq in plan.preempted() {
            self.report.preempted_by_plan += 1;
            if let Some(client) = self.clients.get_mut(seq) {
                client.preempted_count += 1;
            }
        }
        self.check_plan(&plan, &before)?;
        self.count_plan(&plan, &before);
        Ok(plan)
    }

    fn count_plan(&mut self, plan: &StepPlan, before: &Before) {
        self.report.steps += u64::from(!plan.is_empty());
        let known: Tokens = plan.chunks().iter().map(Chunk::known_count).sum();
        let has_place = self.scheduler.running_count() < self.scheduler.config().running_max
            && known < self.scheduler.config().step_tokens_max;
        let has_waiting = self.scheduler.waiting_count() > 0;
        self.report.waited_for_blocks +=
            u64::from(has_place && has_waiting && plan.preempted().is_empty());
        for restore in plan.restores() {
            let is_same = |spill: &Spill| spill.slot == restore.slot;
            self.report.restored_at_once += u64::from(plan.spills().iter().any(is_same));
        }
        for copy in plan.copies() {
            let pool = &self.scheduler.pool;
            self.report.copied_from_held += u64::from(pool.holders(copy.from) > 0);
            let prefix = pool
                .indexed_prefix(copy.from)
                .map_or(0, |(_, tokens)| tokens.len());
            let is_tail = !prefix.is_multiple_of(self.scheduler.config().block_size.len());
            self.report.copied_from_tails += u64::from(is_tail);
        }
        for chunk in plan.chunks() {
            self.report.partial_chunks += u64::from(!chunk.wants_logits);
            let sequence = self.scheduler.live(chunk.seq);
            if before.running.contains(&chunk.seq) || sequence.prefix_hit_len.is_empty() {
                continue;
            }
            if plan.begun.iter().any(|begun| {
                begun.seq == chunk.seq && begun.restored_len > Tokens(0) && !begun.is_first
            }) {
                self.report.restored_again += 1;
            }
            if sequence.preempted_count == 0 {
                self.report.prefix_hits += 1;
            } else {
                self.report.prefix_hits_again += 1;
            }
        }
    }

    fn step(&mut self, cancelled: Option<SeqId>) -> Result<(), Rule> {
        let plan = self.plan()?;
        self.carry_out(plan, cancelled)
    }

    pub(super) fn carry_out(
        &mut self,
        plan: StepPlan,
        cancelled: Option<SeqId>,
    ) -> Result<(), Rule> {
        let tags = self.device.run(&self.scheduler, &plan)?;
        let mut outcome = StepOutcome { chunks: Vec::new() };
        for (chunk, tags) in plan.chunks().iter().zip(tags) {
            let mut told = self.outcome(chunk, &tags);
            if cancelled == Some(chunk.seq) {
                self.report.cancelled_in_step += 1;
                told.end = ChunkEnd::Finished {
                    token: None,
                    reason: FinishReason::Cancelled,
                };
            }
            outcome.chunks.push(told);
        }
        let mut ended = Vec::new();
        for (chunk, outcome) in plan.chunks().iter().zip(&outcome.chunks) {
            ended.extend(self.tell_client(chunk, *outcome));
        }
        for (chunk, outcome) in plan.chunks().iter().zip(&outcome.chunks) {
            self.charge(chunk, *outcome);
        }
        let finished = self.scheduler.commit(plan, outcome);
        if finished.len() != ended.len() {
            let seq = finished
                .first()
                .map_or(SeqId(self.next_id), |finished| finished.id);
            return Err(Rule::BadSequence {
                seq,
                what: "finished too early or too late",
            });
        }
        for (finished, (seq, reason)) in finished.iter().zip(ended) {
            self.check_finished(finished, seq, reason)?;
        }
        Ok(())
    }

    /// What the model says at the chunk's last known token and after each draft token that it said
    /// itself.
    fn outcome(&mut self, chunk: &Chunk, tags: &[Tag]) -> ChunkOutcome {
        if !chunk.wants_logits {
            return ChunkEnd::Advanced.into();
        }
        let draft = self.scheduler.live(chunk.seq).draft.iter();
        let mut end = self.model.sample(tags[0]);
        let mut accepted = Tokens(0);
        for (token, tag) in draft.zip(&tags[1..]) {
            if end != ChunkEnd::Sampled(*token) {
                break;
            }
            accepted += Tokens(1);
            end = self.model.sample(*tag);
        }
        self.report.rejected_drafts += u64::from(accepted < chunk.draft_len);
        let is_over = matches!(end, ChunkEnd::Finished { .. });
        self.report.ended_in_draft += u64::from(is_over && !accepted.is_empty());
        ChunkOutcome { accepted, end }
    }

    /// Gives the client its tokens; says whether and why its sequence must now be over.
    fn tell_client(
        &mut self,
        chunk: &Chunk,
        outcome: ChunkOutcome,
    ) -> Option<(SeqId, FinishReason)> {
        let client = self
            .clients
            .get_mut(&chunk.seq)
            .expect("plans were checked");
        let draft = std::mem::take(&mut client.proposed);
        client.tokens.extend(&draft[..outcome.accepted.len()]);
        client.tokens.extend(outcome.end.token());
        if client.scored_len < client.prompt_len {
            self.report.scored_rows += u64::from(chunk.scored_count().0);
            client.scored_len = client.scored_len.max(chunk.end.len());
        }
        match outcome.end {
            ChunkEnd::Advanced => None,
            ChunkEnd::Sampled(_) => {
                let is_full = client.tokens.len() == client.len_max.len();
                is_full.then_some((chunk.seq, FinishReason::Length))
            }
            ChunkEnd::Finished { reason, .. } => Some((chunk.seq, reason)),
        }
    }

    /// Compares a finished sequence with what the model produces without any scheduler.
    fn check_finished(
        &mut self,
        finished: &FinishedSequence,
        seq: SeqId,
        reason: FinishReason,
    ) -> Result<(), Rule> {
        let client = self.clients.remove(&seq).expect("it was alive");
        let is_whole = client.scored_len == client.prompt_len;
        if !is_whole && reason != FinishReason::Cancelled {
            let what = "it ended before its prompt had logits";
            return Err(Rule::BadSequence { seq, what });
        }
        let (prompt, output) = client.tokens.split_at(client.prompt_len);
        let alone = self
            .model
            .run_alone(client.cache_root, prompt, client.len_max);
        let is_same = match reason {
            FinishReason::Cancelled => alone.0.starts_with(output),
            FinishReason::Stop | FinishReason::Length => alone == (output.to_vec(), reason),
        };
        if !is_same {
            return Err(Rule::OtherOutput { seq });
        }
        match reason {
            FinishReason::Stop => self.report.finished_stop += 1,
            FinishReason::Length => self.report.finished_length += 1,
            FinishReason::Cancelled => {}
        }
        let is_told = finished.id == seq
            && finished.reason == reason
            && finished.prompt_len.len() == client.prompt_len
            && finished.output_len.len() == output.len()
            && finished.prefix_hit_len < finished.prompt_len;
        if is_told {
            Ok(())
        } else {
            Err(Rule::BadSequence {
                seq,
                what: "its last word is wrong",
            })
        }
    }

    fn abandon(&mut self) -> Result<(), Rule> {
        let plan = self.plan()?;
        self.report.abandoned += u64::from(!plan.is_empty());
        // The device may have written any part of it.
        self.report.abandoned_spills += plan.spills().len() as u64;
        self.report.abandoned_restores += plan.restores().len() as u64;
        let drafts = plan
            .chunks()
            .iter()
            .filter(|chunk| !chunk.draft_len.is_empty());
        self.report.abandoned_drafts += drafts.count() as u64;
        self.report.abandoned_copies += plan.copies().len() as u64;
        self.device.fail(&self.scheduler, &plan)?;
        self.scheduler.abandon(plan);
        self.device.scrub_free(&self.scheduler);
        Ok(())
    }

    fn cancel(&mut self, seq: SeqId) -> Result<(), Rule> {
        let state = self.scheduler.sequence(seq).map(|view| view.state);
        let finished = self.scheduler.cancel(seq);
        match state {
            Some(SequenceState::Waiting) => self.report.cancelled_waiting += 1,
            Some(SequenceState::Running) => self.report.cancelled_running += 1,
            None => {}
        }
        match finished {
            Some(finished) => self.check_finished(&finished, seq, FinishReason::Cancelled),
            None if self.clients.contains_key(&seq) => Err(Rule::BadSequence {
                seq,
                what: "alive, but not to be cancelled",
            }),
            None => Ok(()),
        }
    }

    fn preempt(&mut self, seq: SeqId) {
        if self.scheduler.preempt(seq) {
            self.report.preempted_by_force += 1;
            if let Some(client) = self.clients.get_mut(&seq) {
                client.preempted_count += 1;
            }
        }
    }
}
