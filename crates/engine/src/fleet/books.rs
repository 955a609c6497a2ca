//! Who may hold how much: the pure half of the fleet.
//!
//! ```text
//! budget = process + Σ over loaded models (fixed + kv) + unused
//! ```
//!
//! A change is a row of [`Step`]s. [`Books::decide`] names the next one, [`Books::start`] books what
//! it will take, whoever does it does it, and [`Books::finish`] books what it gave. Memory is
//! charged before it is taken and credited after it is back, so the sum of what may be held is
//! within the budget at every moment.

use std::time::Duration;

use kvist_base::Bytes;

/// What a model needs of the budget when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Everything but KV blocks and what the process needs once.
    pub(crate) fixed: Bytes,
    /// Least KV it can be served with.
    pub(crate) kv_min: Bytes,
    /// KV beyond which more brings nothing.
    pub(crate) kv_max: Bytes,
}

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Only on the disk.
    Out,
    /// On its way in; takes no requests.
    Arriving { kv: Bytes },
    /// Serving, or ready to.
    In { kv: Bytes },
    /// On its way out; takes no requests.
    Leaving { kv: Bytes },
}

impl Place {
    fn kv(self) -> Option<Bytes> {
        match self {
            Self::Out => None,
            Self::Arriving { kv } | Self::In { kv } | Self::Leaving { kv } => Some(kv),
        }
    }
}

/// One model of the fleet.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    needs: Needs,
    place: Place,
    /// Requests that use it now. Above 0 it is busy.
    leases: u32,
    /// When it was last used, since the fleet began.
    last_used: Duration,
    /// Least KV its live requests can be finished with, as far as the change under way has learnt.
    floor: Bytes,
}

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Share out what there is.
    Balance,
    /// Have this model loaded.
    Load(usize),
    /// Have this model out, unless it has become busy.
    Unload(usize),
    /// Hold no more than this from now on, or be allowed to hold this much.
    Budget(Bytes),
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Let the model's pool have `kv`, which is less than it has.
    Shrink { model: usize, kv: Bytes },
    /// Take the model out of memory.
    Unload { model: usize },
    /// Load the model, with a pool of `kv`.
    Load { model: usize, kv: Bytes },
    /// Let the model's pool have `kv`, which is more than it has.
    Grow { model: usize, kv: Bytes },
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As asked.
    Done,
    /// Nothing changed: live requests need a pool of `kv` to be finished. Of a shrink only.
    Held { kv: Bytes },
    /// Nothing changed, or nothing is left of it. Of a load or a growth only.
    Failed,
}

/// The goal cannot be had while the busy models are busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// What the goal and the busy models need together, at least.
    pub(crate) needed: Bytes,
    /// The budget.
    pub(crate) budget: Bytes,
}

/// Every model of a fleet and what it may hold.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    budget: Bytes,
    /// What the process needs once, however many models it serves.
    process: Bytes,
    entries: Vec<Entry>,
}

impl Books {
    /// Nothing is loaded yet. Each model fits into the budget alone: the caller has checked.
    pub(crate) fn new(budget: Bytes, process: Bytes, needs: &[Needs]) -> Self {
        let entry = |&needs: &Needs| Entry {
            needs,
            place: Place::Out,
            leases: 0,
            last_used: Duration::ZERO,
            floor: Bytes::ZERO,
        };
        let books = Self {
            budget,
            process,
            entries: needs.iter().map(entry).collect(),
        };
        assert!(books.budget_min() <= budget);
        books
    }

    pub(crate) fn budget(&self) -> Bytes {
        self.budget
    }

    /// The least budget under which every model can be loaded, if need be alone.
    pub(crate) fn budget_min(&self) -> Bytes {
        let alone = |entry: &Entry| entry.needs.fixed + entry.needs.kv_min;
        self.process + self.entries.iter().map(alone).max().unwrap_or_default()
    }

    pub(crate) fn place(&self, model: usize) -> Place {
        self.entries[model].place
    }

    pub(crate) fn is_busy(&self, model: usize) -> bool {
        self.entries[model].leases > 0
    }

    /// The most that may be held now.
    pub(crate) fn granted(&self) -> Bytes {
        let grant = |entry: &Entry| entry.place.kv().map(|kv| entry.needs.fixed + kv);
        self.process + self.entries.iter().filter_map(grant).sum()
    }

    /// Takes the model for a request, if it is there.
    pub(crate) fn lease(&mut self, model: usize, now: Duration) -> Option<()> {
        let entry = &mut self.entries[model];
        matches!(entry.place, Place::In { .. }).then(|| {
            entry.leases += 1;
            entry.last_used = now;
        })
    }

    /// Gives a lease back.
    pub(crate) fn release(&mut self, model: usize, now: Duration) {
        let entry = &mut self.entries[model];
        assert!(entry.leases > 0, "a lease was given back twice");
        entry.leases -= 1;
        entry.last_used = now;
    }

    /// The model that has been idle longest, if that is since `before` or earlier.
    pub(crate) fn idle_since(&self, before: Duration) -> Option<usize> {
        let is_idle = |&model: &usize| self.can_leave(model);
        let oldest = (0..self.entries.len())
            .filter(is_idle)
            .min_by_key(|&model| self.entries[model].last_used)?;
        (self.entries[oldest].last_used <= before).then_some(oldest)
    }

    fn can_leave(&self, model: usize) -> bool {
        let entry = &self.entries[model];
        matches!(entry.place, Place::In { .. }) && entry.leases == 0
    }

    /// Forgets what an earlier change has learnt of live requests.
    pub(crate) fn begin(&mut self) {
        for entry in &mut self.entries {
            entry.floor = Bytes::ZERO;
        }
    }

    /// The next step towards `goal`; `None` when it is reached.
    ///
    /// Steps that give memory back come first. Shrinking comes before unloading, because loading
    /// again costs more than computing a prefix again, and because only a shrink can tell that there
    /// is no room after all.
    pub(crate) fn decide(&self, goal: Goal) -> Result<Option<Step>, NoRoom> {
        let target = self.target(goal)?;
        let now = |model: usize| match self.entries[model].place {
            Place::In { kv } => Some(kv),
            Place::Out | Place::Arriving { .. } | Place::Leaving { .. } => None,
        };
        let models = || (0..self.entries.len()).map(|model| (model, now(model), target[model]));
        let shrink = models().find_map(|(model, now, kv)| {
            let kv = kv.filter(|kv| now.is_some_and(|now| *kv < now))?;
            Some(Step::Shrink { model, kv })
        });
        let unload = || {
            let gone =
                |&(_, now, kv): &(_, Option<Bytes>, Option<Bytes>)| now.is_some() && kv.is_none();
            let (model, ..) = models().find(gone)?;
            Some(Step::Unload { model })
        };
        let load = || {
            models().find_map(|(model, now, kv)| match (now, kv) {
                (None, Some(kv)) => Some(Step::Load { model, kv }),
                _ => None,
            })
        };
        let grow = || {
            models().find_map(|(model, now, kv)| {
                let kv = kv.filter(|kv| now.is_some_and(|now| *kv > now))?;
                Some(Step::Grow { model, kv })
            })
        };
        Ok(shrink.or_else(unload).or_else(load).or_else(grow))
    }

    /// The KV each model is to have, `None` for those that are to be out.
    fn target(&self, goal: Goal) -> Result<Vec<Option<Bytes>>, NoRoom> {
        let budget = match goal {
            Goal::Budget(budget) => budget,
            Goal::Balance | Goal::Load(_) | Goal::Unload(_) => self.budget,
        };
        let is_in = |model: usize| matches!(self.entries[model].place, Place::In { .. });
        let mut stay: Vec<usize> = (0..self.entries.len())
            .filter(|&model| match goal {
                Goal::Load(wanted) if wanted == model => true,
                Goal::Unload(unwanted) if unwanted == model => {
                    is_in(model) && !self.can_leave(model)
                }
                _ => is_in(model),
            })
            .collect();
        while self.least(&stay) > budget {
            let victim = stay
                .iter()
                .copied()
                .filter(|&model| self.can_leave(model) && goal != Goal::Load(model))
                .min_by_key(|&model| self.entries[model].last_used);
            let Some(victim) = victim else {
                let needed = self.least(&stay);
                return Err(NoRoom { needed, budget });
            };
            stay.retain(|&model| model != victim);
        }
        let fixed: Bytes = stay
            .iter()
            .map(|&model| self.entries[model].needs.fixed)
            .sum();
        let bounds: Vec<(Bytes, Bytes)> = stay.iter().map(|&model| self.bounds(model)).collect();
        let shares = share_out(budget - self.process - fixed, &bounds);
        let mut target = vec![None; self.entries.len()];
        for (model, kv) in stay.into_iter().zip(shares) {
            target[model] = Some(kv);
        }
        Ok(target)
    }

    /// The least that these models can be served with together.
    fn least(&self, models: &[usize]) -> Bytes {
        let least = |&model: &usize| self.entries[model].needs.fixed + self.bounds(model).0;
        self.process + models.iter().map(least).sum()
    }

    /// Least and most KV of a model.
    fn bounds(&self, model: usize) -> (Bytes, Bytes) {
        let Entry { needs, floor, .. } = self.entries[model];
        let least = needs.kv_min.max(floor);
        (least, needs.kv_max.max(least))
    }

    /// Books what a step will take before it is done, and closes the door of a model that leaves.
    pub(crate) fn start(&mut self, step: Step) {
        match step {
            Step::Shrink { .. } => {}
            Step::Unload { model } => {
                assert!(self.can_leave(model), "a busy model is not unloaded");
                let kv = self.kv_of(model);
                self.entries[model].place = Place::Leaving { kv };
            }
            Step::Load { model, kv } => {
                assert_eq!(self.entries[model].place, Place::Out);
                self.entries[model].place = Place::Arriving { kv };
            }
            Step::Grow { model, kv } => self.entries[model].place = Place::In { kv },
        }
        assert!(
            self.granted() <= self.budget,
            "more is granted than there is"
        );
    }

    /// Books how a step went. A growth that failed stays charged: too much, but on the safe side.
    pub(crate) fn finish(&mut self, step: Step, outcome: Outcome, now: Duration) {
        match (step, outcome) {
            (Step::Shrink { model, kv }, Outcome::Done) => {
                self.entries[model].place = Place::In { kv };
            }
            (Step::Shrink { model, kv: asked }, Outcome::Held { kv }) => {
                // What live requests need moves while they run. A model that has said no twice keeps
                // what it has for the rest of the change, so that every change ends.
                let has = self.kv_of(model);
                let entry = &mut self.entries[model];
                let is_second = entry.floor > Bytes::ZERO;
                entry.floor = if is_second {
                    has
                } else {
                    kv.clamp(asked + Bytes(1), has)
                };
            }
            (Step::Load { model, kv }, Outcome::Done) => {
                self.entries[model].place = Place::In { kv };
                self.entries[model].last_used = now;
            }
            (Step::Unload { model }, _) | (Step::Load { model, .. }, _) => {
                self.entries[model].place = Place::Out;
            }
            (Step::Grow { .. }, _) | (Step::Shrink { .. }, Outcome::Failed) => {}
        }
    }

    /// Makes a new budget the one in force, once all steps towards it are done.
    pub(crate) fn set_budget(&mut self, budget: Bytes) {
        assert!(self.granted() <= budget && self.budget_min() <= budget);
        self.budget = budget;
    }

    fn kv_of(&self, model: usize) -> Bytes {
        self.entries[model].place.kv().unwrap_or_default()
    }
}

/// Shares `total` out evenly between models that need at least and use at most their bounds: all get
/// the same but for those bounds. The minima together are within `total`.
fn share_out(total: Bytes, bounds: &[(Bytes, Bytes)]) -> Vec<Bytes> {
    let at = |level: u64| {
        bounds
            .iter()
            .map(move |(least, most)| Bytes(level).clamp(*least, *most))
    };
    // At level 0 everybody has the minimum, which fits. Doubling would overshoot: halve the
    // interval in which the answer is, `fits <= answer < fails`.
    let most = bounds.iter().map(|(_, most)| most.0).max().unwrap_or(0);
    let (mut fits, mut fails) = (0, most.saturating_add(1));
    while fits + 1 < fails {
        let middle = fits + (fails - fits) / 2;
        if at(middle).map(|bytes| u128::from(bytes.0)).sum::<u128>() <= u128::from(total.0) {
            fits = middle;
        } else {
            fails = middle;
        }
    }
    at(fits).collect()
}

#[cfg(test)]
mod tests;
