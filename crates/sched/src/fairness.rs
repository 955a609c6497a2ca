//! Which waiting sequence is next, and what each tenant has been served.
//!
//! The virtual token counter of Sheng et al., *Fairness in Serving Large Language Models* (OSDI 2024):
//! the tenant that was served least goes next, and a tenant that was away comes back at the level
//! of the least served one present, so that nobody saves up by being idle.

use std::collections::BTreeMap;

use kvist_base::{SeqId, Tokens};

use crate::config::Fairness;
use crate::plan::Chunk;
use crate::scheduler::Scheduler;

/// Most absent tenants whose counts are kept. Of more, those served least are forgotten: they come
/// back at the level of those present.
const ABSENT_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Tenant {
    served: u64,
    /// Live sequences.
    live_count: usize,
}

/// What each tenant was served.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    by_id: BTreeMap<u64, Tenant>,
}

impl Tenants {
    /// Tokens served to the present tenant that was served least.
    fn floor(&self) -> Option<u64> {
        let present = self.by_id.values().filter(|tenant| tenant.live_count > 0);
        present.map(|tenant| tenant.served).min()
    }

    /// One more live sequence of a tenant.
    pub(crate) fn arrive(&mut self, id: u64) {
        let floor = self.floor().unwrap_or(0);
        let tenant = self.by_id.entry(id).or_default();
        if tenant.live_count == 0 {
            tenant.served = tenant.served.max(floor);
        }
        tenant.live_count += 1;
    }

    /// One live sequence less.
    pub(crate) fn leave(&mut self, id: u64) {
        let tenant = self.by_id.get_mut(&id).expect("a live tenant is known");
        tenant.live_count -= 1;
        if tenant.live_count > 0 {
            return;
        }
        let Some(floor) = self.floor() else {
            // With nobody there, nobody is ahead of anybody.
            self.by_id.clear();
            return;
        };
        // At the floor or below it, a count says no more than that the tenant was here.
        let is_told = |tenant: &Tenant| tenant.live_count > 0 || tenant.served > floor;
        self.by_id.retain(|_, tenant| is_told(tenant));
        let absent = self.by_id.iter().filter(|(_, t)| t.live_count == 0);
        if absent.clone().count() > ABSENT_MAX {
            let least = absent.min_by_key(|(_, tenant)| tenant.served);
            let least = *least.expect("there are some").0;
            self.by_id.remove(&least);
        }
    }

    pub(crate) fn charge(&mut self, id: u64, tokens: Tokens) {
        let tenant = self.by_id.get_mut(&id).expect("a live tenant is known");
        tenant.served += u64::from(tokens.0);
    }

    pub(crate) fn served(&self, id: u64) -> u64 {
        self.by_id.get(&id).map_or(0, |tenant| tenant.served)
    }
}

impl Scheduler {
    /// The waiting sequence to be let in next: of those with the lowest priority number, the first to
    /// arrive, or the first of the tenant served least.
    pub(crate) fn next_waiting(&self) -> Option<SeqId> {
        match self.config.fairness {
            Fairness::Arrival => self.waiting.first(),
            Fairness::Tenants => {
                let urgent = self.waiting.most_urgent();
                urgent.min_by_key(|id| self.tenants.served(self.live(*id).tenant))
            }
        }
    }

    /// Charges a sequence's tenant for what a step computed of its prompt the first time, and for
    /// each output token. Hits cost nothing, nor does what a preemption made the engine compute again,
    /// nor what of a draft was not accepted.
    pub(crate) fn charge(&mut self, chunk: &Chunk, output: Tokens) {
        let sequence = self.live_mut(chunk.seq);
        let from = sequence.charged_len.max(chunk.start);
        sequence.charged_len = sequence.charged_len.max(chunk.end);
        let prompt = chunk.end.min(sequence.prompt_len).saturating_sub(from);
        let tenant = sequence.tenant;
        self.tenants.charge(tenant, prompt + output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_tenants_are_remembered_only_while_ahead_and_up_to_a_bound() {
        let mut tenants = Tenants::default();
        tenants.arrive(0);
        for id in 1..=10 {
            tenants.arrive(id);
            tenants.charge(id, Tokens(u32::try_from(id).unwrap()));
            tenants.leave(id);
        }
        assert_eq!(tenants.by_id.len(), 11);
        tenants.charge(0, Tokens(5));
        tenants.arrive(3);
        assert_eq!(tenants.served(3), 5, "lifted to those present");
        tenants.arrive(8);
        assert_eq!(tenants.served(8), 8, "not lowered");
        tenants.leave(3);
        assert_eq!(
            tenants.by_id.len(),
            6,
            "0, 8, and those ahead: 6, 7, 9, 10; not 3"
        );
        for id in 100..110 + ABSENT_MAX as u64 {
            tenants.arrive(id);
            tenants.charge(id, Tokens(50));
            tenants.leave(id);
        }
        assert_eq!(tenants.by_id.len(), ABSENT_MAX + 2);
        tenants.leave(8);
        tenants.leave(0);
        assert!(tenants.by_id.is_empty());
    }
}
