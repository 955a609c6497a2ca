//! Who is served when, worked out from what clients asked for.

use kvist_base::{Blocks, SeqId, Tokens};

use super::report::Rule;
use super::world::{Before, World};
use crate::config::{Admission, Fairness};
use crate::plan::{Chunk, ChunkOutcome, StepPlan};

impl World {
    /// Clients get their ids in order of arrival.
    pub(super) fn rank(&self, seq: SeqId) -> (i32, SeqId) {
        (self.clients[&seq].priority, seq)
    }

    /// A client of this tenant is about to be there.
    pub(super) fn arrive(&mut self, tenant: u64) {
        if self.clients.is_empty() {
            self.served.clear();
        }
        if self.clients.values().any(|client| client.tenant == tenant) {
            return;
        }
        let served = |tenant: &u64| self.served.get(tenant).copied().unwrap_or(0);
        let present = self.clients.values().map(|client| served(&client.tenant));
        let lifted = served(&tenant).max(present.min().unwrap_or(0));
        self.served.insert(tenant, lifted);
    }

    pub(super) fn charge(&mut self, chunk: &Chunk, outcome: ChunkOutcome) {
        let client = self.clients.get_mut(&chunk.seq);
        let client = client.expect("plans were checked");
        let from = client.charged_len.max(chunk.start.len());
        let prompt = from.min(client.prompt_len)..chunk.end.len().min(client.prompt_len);
        client.charged_len = client.charged_len.max(chunk.end.len());
        let served = self.served.entry(client.tenant).or_default();
        *served += prompt.len() as u64 + u64::from(outcome.token_count().0);
    }

    /// Waiting sequences in the order in which they must be let in.
    pub(super) fn waiting_in_order(&self) -> Vec<SeqId> {
        let mut waiting: Vec<SeqId> = self.scheduler.waiting.iter().collect();
        waiting.sort_by_key(|seq| {
            let client = &self.clients[seq];
            let served = match self.scheduler.config().fairness {
                Fairness::Arrival => 0,
                Fairness::Tenants => self.served[&client.tenant],
            };
            (client.priority, served, *seq)
        });
        waiting
    }

    /// Running ones by rank, then those let in, in their order and without gaps.
    pub(super) fn check_order(&mut self, plan: &StepPlan, before: &Before) -> Result<(), Rule> {
        let planned: Vec<SeqId> = plan.chunks().iter().map(|chunk| chunk.seq).collect();
        let is_running = |seq: &&SeqId| before.running.contains(seq);
        let running_count = planned.iter().take_while(is_running).count();
        let (running, begun) = planned.split_at(running_count);
        if !running.is_sorted_by_key(|seq| self.rank(*seq)) {
            return Err(Rule::OutOfOrder { seq: running[0] });
        }
        let expected = before.waiting.iter().take(begun.len());
        if !begun.iter().eq(expected) {
            return Err(Rule::Overtaken { seq: begun[0] });
        }
        if let Some(seq) = begun.first()
            && !plan.preempted().is_empty()
        {
            return Err(Rule::AdmittedWhilePreempting { seq: *seq });
        }
        let first = before.running.iter().min_by_key(|seq| self.rank(**seq));
        if let Some(seq) = plan.preempted().iter().find(|seq| Some(*seq) == first) {
            return Err(Rule::FirstPreempted { seq: *seq });
        }
        let left = before.waiting.iter().skip(begun.len());
        let overtaken = left.filter(|seq| begun.first().is_some_and(|first| first > seq));
        for seq in overtaken {
            let is_urgent = self.clients[&begun[0]].priority < self.clients[seq].priority;
            self.report.overtook_by_priority += u64::from(is_urgent);
            self.report.overtook_by_tenant += u64::from(!is_urgent);
        }
        self.check_guarantee(plan)
    }

    /// Under guaranteed admission all that run fit at their longest, and nobody is preempted.
    fn check_guarantee(&mut self, plan: &StepPlan) -> Result<(), Rule> {
        let config = self.scheduler.config();
        if config.admission == Admission::Optimistic {
            return Ok(());
        }
        if self.has_shrunk {
            self.report.preempted_though_guaranteed += plan.preempted().len() as u64;
            return Ok(());
        }
        let longest = |seq| (self.clients[&seq].len_max - Tokens(1)).div_ceil(config.block_size);
        let longest: Blocks = self.scheduler.running.iter().map(longest).sum();
        if longest > self.scheduler.blocks_limit() || !plan.preempted().is_empty() {
            return Err(Rule::BrokenGuarantee);
        }
        self.report.guaranteed_steps += u64::from(self.scheduler.running_count() > 1);
        Ok(())
    }
}
