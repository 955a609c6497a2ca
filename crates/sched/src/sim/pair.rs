//! Two schedulers that share one budget of memory: blocks go from one to the other while both run.

use std::cell::Cell;

use kvist_base::Blocks;

use super::report::{Rule, SimReport};
use super::scenario::{Rng, Scenario};
use super::world::{Event, World};

/// Two models in one process. Their blocks need not be of one size.
struct Pair {
    worlds: [World; 2],
    /// Size of a block of each, in units of the budget.
    block_units: [u32; 2],
    budget: u32,
    transfers: u64,
    transfers_refused: u64,
}

/// One history of a pair.
pub(super) fn run(rng: &mut Rng, step: &Cell<u64>) -> Result<SimReport, Rule> {
    let scenarios = [Scenario::draw(rng), Scenario::draw(rng)];
    let worlds = [&scenarios[0], &scenarios[1]].map(|scenario| World::new(scenario, None));
    let block_units = [rng.between(1, 3), rng.between(1, 3)];
    let mut pair = Pair {
        budget: 0,
        worlds,
        block_units,
        transfers: 0,
        transfers_refused: 0,
    };
    pair.budget = pair.used() + rng.between(0, 2);
    for _ in 0..scenarios[0].event_count {
        step.set(step.get() + 1);
        let idx = rng.between(0, 1) as usize;
        if rng.one_in(10) {
            pair.transfer(idx, rng.between(1, 4))?;
        } else {
            let event = scenarios[idx].draw_event(rng, pair.worlds[idx].live());
            pair.apply(idx, event)?;
        }
    }
    pair.drain(step)
}

impl Pair {
    /// What the blocks of both come to.
    fn used(&self) -> u32 {
        let limits = self
            .worlds
            .iter()
            .map(|world| world.scheduler.blocks_limit());
        let sizes = limits.zip(self.block_units);
        sizes.map(|(limit, units)| limit.0 * units).sum()
    }

    fn check_budget(&self) -> Result<(), Rule> {
        let (limit, given) = (self.budget, self.used());
        if given > limit {
            return Err(Rule::OverShared { limit, given });
        }
        Ok(())
    }

    fn apply(&mut self, idx: usize, event: Event) -> Result<(), Rule> {
        let event = match event {
            Event::Resize(limit) => Event::Resize(limit.min(self.reach(idx))),
            event => event,
        };
        self.worlds[idx].apply(event)?;
        self.check_budget()
    }

    /// The largest pool that what is left of the budget allows.
    fn reach(&self, idx: usize) -> Blocks {
        let spare = self.budget - self.used();
        self.worlds[idx].scheduler.blocks_limit() + Blocks(spare / self.block_units[idx])
    }

    /// Takes blocks from one and gives the other what they make room for: the smaller pool first, so
    /// that the sum is kept at every moment.
    fn transfer(&mut self, from: usize, blocks: u32) -> Result<(), Rule> {
        let limit = self.worlds[from].scheduler.blocks_limit();
        let smaller = limit.saturating_sub(Blocks(blocks));
        self.apply(from, Event::Resize(smaller))?;
        if self.worlds[from].scheduler.blocks_limit() != smaller {
            self.transfers_refused += 1;
            return Ok(());
        }
        let to = 1 - from;
        let before = self.worlds[to].scheduler.blocks_limit();
        let blocks_max = self.worlds[to].scheduler.config().blocks_max;
        self.apply(to, Event::Resize(self.reach(to).min(blocks_max)))?;
        let after = self.worlds[to].scheduler.blocks_limit();
        self.transfers += u64::from(after > before);
        Ok(())
    }

    /// Lets both finish in turns.
    fn drain(self, step: &Cell<u64>) -> Result<SimReport, Rule> {
        let mut report = SimReport::default();
        for world in self.worlds {
            report.merge(&world.drain(|| step.set(step.get() + 1))?);
        }
        report.histories = 1;
        report.paired_histories = 1;
        report.transfers = self.transfers;
        report.transfers_refused = self.transfers_refused;
        Ok(report)
    }
}
