//! Every small case, then long random histories against engines that keep their own accounts.

use kvist_base::mix64;

use super::*;

const PROCESS: Bytes = Bytes(3);

fn needs(fixed: u64, kv_min: u64, kv_max: u64) -> Needs {
    Needs {
        fixed: Bytes(fixed),
        kv_min: Bytes(kv_min),
        kv_max: Bytes(kv_max),
    }
}

/// Engines as the books do not see them: what each holds, and what its live requests need.
struct World {
    books: Books,
    needs: Vec<Needs>,
    /// KV that may be in use, of models in memory.
    pools: Vec<Option<u64>>,
    /// KV that live requests cannot do without, by lease.
    live: Vec<Vec<u64>>,
    now: u64,
}

impl World {
    fn new(budget: u64, needs: Vec<Needs>) -> Self {
        Self {
            books: Books::new(Bytes(budget), PROCESS, &needs),
            pools: vec![None; needs.len()],
            live: vec![Vec::new(); needs.len()],
            needs,
            now: 0,
        }
    }

    fn tick(&mut self) -> Duration {
        self.now += 1;
        Duration::from_secs(self.now)
    }

    /// What the process really holds.
    fn held(&self) -> u64 {
        let models = self.needs.iter().zip(&self.pools);
        let held = models.filter_map(|(needs, pool)| pool.map(|kv| needs.fixed.0 + kv));
        PROCESS.0 + held.sum::<u64>()
    }

    fn live_need(&self, model: usize) -> u64 {
        self.live[model].iter().copied().max().unwrap_or(0)
    }

    fn check(&self) {
        assert!(self.held() <= self.books.budget().0, "over budget");
        for (model, leases) in self.live.iter().enumerate() {
            assert_eq!(self.books.is_busy(model), !leases.is_empty());
            assert!(
                leases.is_empty() || self.pools[model] >= Some(self.live_need(model)),
                "a live request was lost"
            );
        }
    }

    /// A request for `model` that needs part of its pool. Whether it is taken.
    fn request(&mut self, model: usize, share: u64) -> bool {
        let now = self.tick();
        if self.books.lease(model, now).is_none() {
            return false;
        }
        let pool = self.pools[model].expect("a model that takes requests is in memory");
        self.live[model].push(share % (pool + 1));
        true
    }

    fn end_request(&mut self, model: usize) {
        if self.live[model].pop().is_some() {
            let now = self.tick();
            self.books.release(model, now);
        }
    }

    /// Does what an engine would. `Failed` only where `fails`.
    fn act(&mut self, step: Step, fails: bool) -> Outcome {
        match step {
            Step::Shrink { model, kv } => {
                let need = self.live_need(model);
                if need > kv.0 {
                    return Outcome::Held { kv: Bytes(need) };
                }
                self.pools[model] = Some(kv.0);
            }
            Step::Unload { model } => {
                assert!(self.live[model].is_empty(), "a busy model was unloaded");
                self.pools[model] = None;
            }
            Step::Load { model, kv } => {
                // Memory is taken while loading, whether it succeeds or not.
                self.pools[model] = Some(kv.0);
                self.check();
                if fails {
                    self.pools[model] = None;
                    return Outcome::Failed;
                }
            }
            Step::Grow { model, kv } => self.pools[model] = Some(kv.0),
        }
        Outcome::Done
    }

    /// Follows the books until `goal` is reached or refused; `meanwhile` runs inside each step.
    fn pursue(&mut self, goal: Goal, mut meanwhile: impl FnMut(&mut Self)) -> Result<(), NoRoom> {
        self.books.begin();
        for _ in 0..100 {
            let Some(step) = self.books.decide(goal)? else {
                return Ok(());
            };
            self.books.start(step);
            meanwhile(self);
            let outcome = self.act(step, false);
            self.check();
            let now = self.tick();
            self.books.finish(step, outcome, now);
            meanwhile(self);
            self.check();
        }
        panic!("{goal:?} does not come to an end: {:?}", self.books);
    }

    /// The least that a load of `wanted` beside the busy models needs, from the world's own numbers.
    fn needed_for(&self, wanted: Option<usize>) -> u64 {
        let each = |model: usize| {
            let needs = self.needs[model];
            let is_needed = wanted == Some(model) || !self.live[model].is_empty();
            is_needed.then(|| needs.fixed.0 + needs.kv_min.0.max(self.live_need(model)))
        };
        PROCESS.0 + (0..self.needs.len()).filter_map(each).sum::<u64>()
    }
}

#[test]
fn shares_are_even_within_bounds_and_nothing_more_could_be_given() {
    let values = [0, 1, 2, 5];
    let bounds = values
        .iter()
        .flat_map(|&least| values.iter().map(move |&most| (Bytes(least), Bytes(most))))
        .filter(|(least, most)| least <= most);
    let bounds: Vec<(Bytes, Bytes)> = bounds.collect();
    for a in &bounds {
        for b in &bounds {
            for c in &bounds {
                let three = [*a, *b, *c];
                let least: u64 = three.iter().map(|(least, _)| least.0).sum();
                for total in least..least + 18 {
                    check_shares(total, &three);
                }
            }
        }
    }
    assert_eq!(share_out(Bytes(7), &[]), []);
}

/// One more for everybody who could take it and has no more than the others would be too much.
fn check_shares(total: u64, bounds: &[(Bytes, Bytes)]) {
    let shares = share_out(Bytes(total), bounds);
    let given: u64 = shares.iter().map(|share| share.0).sum();
    assert!(given <= total, "{bounds:?} of {total}: {shares:?}");
    for (share, (least, most)) in shares.iter().zip(bounds) {
        assert!(
            least <= share && share <= most,
            "{bounds:?} of {total}: {shares:?}"
        );
    }
    // Whoever has more than another has it as a minimum, or the other one is full.
    for (a, (least, _)) in shares.iter().zip(bounds) {
        for (b, (_, most)) in shares.iter().zip(bounds) {
            assert!(
                a <= b || a == least || b == most,
                "{bounds:?} of {total}: {shares:?}"
            );
        }
    }
    let takers = shares
        .iter()
        .zip(bounds)
        .filter(|(share, (_, most))| *share < most);
    let lowest = takers.map(|(share, _)| *share).min();
    let raised: u64 = shares
        .iter()
        .zip(bounds)
        .map(|(share, (_, most))| share.0 + u64::from(Some(*share) == lowest && share < most))
        .sum();
    assert!(
        lowest.is_none() || raised > total,
        "{bounds:?} of {total}: {shares:?}"
    );
}

/// Three models in every combination of out, idle and busy, in every order of use, under every
/// budget that each model alone fits in, and every goal.
#[test]
fn every_small_case_ends_where_it_should() {
    let sizes = [needs(4, 1, 3), needs(2, 2, 6), needs(5, 1, 1)];
    for budget in 9..26 {
        for states in 0..3_u32.pow(3) {
            for first in 0..3 {
                for goal in goals() {
                    small_case(budget, sizes, (states, first), goal);
                }
            }
        }
    }
}

fn goals() -> Vec<Goal> {
    let mut goals = vec![Goal::Balance];
    goals.extend((0..3).flat_map(|model| [Goal::Load(model), Goal::Unload(model)]));
    goals.extend((9..25).map(|budget| Goal::Budget(Bytes(budget))));
    goals
}

fn small_case(budget: u64, sizes: [Needs; 3], (states, first): (u32, usize), goal: Goal) {
    let mut world = World::new(budget, sizes.to_vec());
    for nth in 0..3 {
        let model = (first + nth) % 3;
        let state = states / 3_u32.pow(u32::try_from(model).unwrap()) % 3;
        if state > 0 && world.pursue(Goal::Load(model), |_| {}).is_err() {
            return; // the busy ones leave no room for it: no such state
        }
        if state == 2 {
            world.request(model, u64::MAX / 2);
        }
    }
    let lower = matches!(goal, Goal::Budget(wanted) if wanted.0 < budget);
    if matches!(goal, Goal::Budget(_)) && !lower {
        return;
    }
    let before: Vec<bool> = world.pools.iter().map(Option::is_some).collect();
    let (wanted, limit) = match goal {
        Goal::Load(model) => (Some(model), budget),
        Goal::Budget(limit) => (None, limit.0),
        _ => (None, budget),
    };
    let needed = world.needed_for(wanted);
    let reached = world.pursue(goal, |_| {});
    // Refused exactly when what is busy and what is wanted do not fit together.
    assert_eq!(
        reached.is_ok(),
        needed <= limit,
        "{goal:?} of {:?}",
        world.books
    );
    match (reached, goal) {
        (Ok(()), Goal::Load(model)) => assert!(world.pools[model].is_some()),
        (Ok(()), Goal::Unload(model)) => {
            assert_eq!(
                world.pools[model].is_some(),
                before[model] && world.books.is_busy(model)
            );
        }
        (Ok(()), Goal::Budget(limit)) => {
            world.books.set_budget(limit);
            assert!(world.held() <= limit.0);
        }
        (Ok(()), Goal::Balance) => {
            let after: Vec<bool> = world.pools.iter().map(Option::is_some).collect();
            assert_eq!(before, after, "sharing out loads and unloads nothing");
        }
        (Err(refusal), _) => assert_eq!(refusal.budget.0, limit),
    }
}

/// Loads, requests, idle unloads and budget changes in any order, with requests coming and going
/// inside every step.
#[test]
fn random_histories_stay_within_the_budget_and_lose_nothing() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let needs: Vec<Needs> = (0..2 + random.below(3))
            .map(|_| {
                let kv_min = 1 + random.below(20);
                needs(1 + random.below(60), kv_min, kv_min + random.below(80))
            })
            .collect();
        let least = Books::new(Bytes(u64::MAX), PROCESS, &needs).budget_min().0;
        let mut world = World::new(least + random.below(150), needs);
        for _ in 0..120 {
            one_event(&mut world, &mut random, least);
        }
        // In the end everything comes back.
        for model in 0..world.needs.len() {
            while !world.live[model].is_empty() {
                world.end_request(model);
            }
            assert_eq!(
                world.pursue(Goal::Unload(model), |_| {}),
                Ok(()),
                "seed {seed}"
            );
        }
        assert_eq!(
            (world.held(), world.books.granted()),
            (PROCESS.0, PROCESS),
            "seed {seed}"
        );
    }
}

fn one_event(world: &mut World, random: &mut Random, least: u64) {
    let model = usize::try_from(random.below(world.needs.len() as u64)).unwrap();
    match random.below(8) {
        0..=2 => {
            let mut inner = Random(random.next());
            let loaded = world.pursue(Goal::Load(model), |world| traffic(world, &mut inner));
            if loaded.is_ok() {
                assert!(
                    world.request(model, random.next()),
                    "a loaded model takes requests"
                );
            } else {
                world.pursue(Goal::Balance, |_| {}).unwrap();
            }
        }
        3 => world.end_request(model),
        4 => {
            let before = Duration::from_secs(world.now.saturating_sub(random.below(10)));
            if let Some(idle) = world.books.idle_since(before) {
                assert!(!world.books.is_busy(idle));
                let mut inner = Random(random.next());
                let gone = world.pursue(Goal::Unload(idle), |world| traffic(world, &mut inner));
                gone.unwrap();
            }
        }
        5 => {
            let wanted = Bytes(least + random.below(200));
            let is_had = wanted >= world.books.budget()
                || world.pursue(Goal::Budget(wanted), |_| {}).is_ok();
            if is_had {
                world.books.set_budget(wanted);
            }
            world.pursue(Goal::Balance, |_| {}).unwrap();
        }
        _ => traffic(world, random),
    }
    world.check();
}

/// Requests that come and go at any model while something else happens.
fn traffic(world: &mut World, random: &mut Random) {
    let model = usize::try_from(random.below(world.needs.len() as u64)).unwrap();
    match random.below(4) {
        // A pool being shrunk admits nothing beyond what it will hold: here, nothing at all.
        0 => {
            world.request(model, 0);
        }
        1 | 2 => world.end_request(model),
        _ => {}
    }
}

#[test]
fn a_load_that_fails_leaves_the_books_as_they_were() {
    let mut world = World::new(20, vec![needs(4, 1, 9), needs(4, 1, 9)]);
    world.pursue(Goal::Load(0), |_| {}).unwrap();
    world.books.begin();
    let shrink = world.books.decide(Goal::Load(1)).unwrap().unwrap();
    assert_eq!(
        shrink,
        Step::Shrink {
            model: 0,
            kv: Bytes(4)
        }
    );
    world.act(shrink, false);
    world.books.finish(shrink, Outcome::Done, Duration::ZERO);
    let load = world.books.decide(Goal::Load(1)).unwrap().unwrap();
    assert_eq!(
        load,
        Step::Load {
            model: 1,
            kv: Bytes(4)
        }
    );
    world.books.start(load);
    assert!(
        world.books.lease(1, Duration::ZERO).is_none(),
        "not there yet"
    );
    let outcome = world.act(load, true);
    world.books.finish(load, outcome, Duration::ZERO);
    assert_eq!(world.books.place(1), Place::Out);
    world.pursue(Goal::Balance, |_| {}).unwrap();
    assert_eq!(world.books.place(0), Place::In { kv: Bytes(9) });
}

#[test]
fn the_least_recently_used_idle_model_gives_way() {
    let mut world = World::new(20, vec![needs(5, 2, 2); 3]);
    for model in [1, 0] {
        world.pursue(Goal::Load(model), |_| {}).unwrap();
        world.request(model, 0);
        world.end_request(model);
    }
    world.request(1, 0);
    world.end_request(1);
    world.pursue(Goal::Load(2), |_| {}).unwrap();
    let out: Vec<usize> = (0..3)
        .filter(|&model| world.pools[model].is_none())
        .collect();
    assert_eq!(out, [0], "model 1 was loaded first, but used last");
}

#[test]
fn a_refusal_says_how_much_would_have_been_needed() {
    let mut world = World::new(20, vec![needs(5, 2, 9), needs(5, 2, 9)]);
    world.pursue(Goal::Load(0), |_| {}).unwrap();
    assert!(world.request(0, 9));
    let refused = world.pursue(Goal::Load(1), |_| {}).unwrap_err();
    let (needed, budget) = (PROCESS + Bytes(5 + 9 + 5 + 2), Bytes(20));
    assert_eq!(refused, NoRoom { needed, budget });
    world.end_request(0);
    world.pursue(Goal::Load(1), |_| {}).unwrap();
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = mix64(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
