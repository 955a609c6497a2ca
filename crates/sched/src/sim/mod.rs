//! A deterministic simulator: the whole scheduler, a fake device that remembers what is in every
//! slot, and random events. One seed is one history; a violation names the seed that repeats it.
//!
//! Each seed draws its own limits and its own odds for each kind of event, so that different seeds
//! press on different corners: tiny pools, blocks of one token, colliding hashes, storms of
//! cancellations. The vocabulary has two tokens, so that prefixes coincide all the time.
//!
//! Some histories are of two schedulers that share one budget and give each other blocks.
//!
//! What must hold after every event is in `invariants` and `device`; what must hold at the end is
//! that every request was answered once, with the output it would have had alone, and that no
//! block is held.

mod device;
mod draft;
mod invariants;
mod model;
mod order;
mod pair;
mod prefix;
mod report;
mod resize;
pub(crate) mod scenario;
#[cfg(test)]
mod tests;
mod tier;
mod world;

use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use report::{Rule, SimReport, Violation};

use crate::kv::PlantedBug;
use scenario::{Rng, Scenario};
use world::World;

/// Simulates one history for each seed.
///
/// # Errors
/// The first history in which a rule was broken.
pub fn run(seeds: Range<u64>) -> Result<SimReport, Violation> {
    run_planted(seeds, None)
}

/// As `run`, with a bug that it should find.
fn run_planted(seeds: Range<u64>, bug: Option<PlantedBug>) -> Result<SimReport, Violation> {
    let mut report = SimReport::default();
    for seed in seeds {
        let step = Cell::new(0);
        let history = catch_unwind(AssertUnwindSafe(|| run_seed(seed, bug, &step)));
        let result = history.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            Err(Rule::Panicked {
                message: text.unwrap_or("no message").to_owned(),
            })
        });
        let history = result.map_err(|what| Violation {
            seed,
            step: step.get(),
            what,
        })?;
        report.merge(&history);
    }
    Ok(report)
}

fn run_seed(seed: u64, bug: Option<PlantedBug>, step: &Cell<u64>) -> Result<SimReport, Rule> {
    let mut rng = Rng::new(seed);
    if bug.is_none() && rng.one_in(8) {
        return pair::run(&mut rng, step);
    }
    let scenario = Scenario::draw(&mut rng);
    let mut world = World::new(&scenario, bug);
    for _ in 0..scenario.event_count {
        step.set(step.get() + 1);
        let event = scenario.draw_event(&mut rng, world.live());
        world.apply(event)?;
    }
    world.drain(|| step.set(step.get() + 1))
}
