//! Several models under one budget.
//!
//! A fleet holds the budget of the process; each model is loaded when a request asks for it, and
//! gives way when it is idle and others need the room. `books` decides what happens, purely; this
//! file does it with engines. One change is under way at a time; requests for models that are in
//! memory do not wait for it.

mod books;
mod error;
mod member;
mod report;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvist_base::{Blocks, Bytes};
use kvist_plan::{Machine, PROCESS_BYTES};

use self::books::{Books, Goal, NoRoom, Outcome, Place, Step};
use self::error::Halt;
use self::member::plan_members;
use crate::handle::{EngineHandle, EngineStatus};
use crate::load::{Engine, EngineOptions, LoadError, ShutdownReport};
use crate::memory::BudgetError;

pub use self::error::{FleetError, FleetPlanError};
pub use self::member::{FleetMember, FleetModel};
pub use self::report::{FleetLine, FleetMemory, FleetModelMemory, ModelState};

/// Several models under one budget. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    members: Vec<FleetMember>,
    machine: Machine,
    options: EngineOptions,
    began: Instant,
    state: Mutex<State>,
    /// The change under way has ended.
    settled: Condvar,
}

struct State {
    books: Books,
    /// The engine of each model that is in memory.
    engines: Vec<Option<Engine>>,
    is_changing: bool,
    is_draining: bool,
    /// Of the engines that are gone.
    past: ShutdownReport,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.0.members.iter().map(FleetMember::name);
        f.debug_list().entries(names).finish()
    }
}

/// A model that is in memory and stays there until this is dropped.
#[derive(Debug)]
pub struct Lease {
    fleet: Fleet,
    model: usize,
    engine: EngineHandle,
}

impl Lease {
    /// The model's engine.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.fleet.now();
        self.fleet.lock().books.release(self.model, now);
    }
}

/// The right to change the fleet, of which there is one.
struct Change<'a>(&'a Fleet);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.lock().is_changing = false;
        self.0.0.settled.notify_all();
    }
}

impl Fleet {
    /// Plans the models; loads none. `options.limits.memory` is for all of them together, the other
    /// limits are for each.
    ///
    /// # Errors
    /// A model that cannot be planned or does not fit alone, or a name that is not unique.
    ///
    /// # Panics
    /// Without any model.
    pub fn plan(
        models: Vec<FleetModel>,
        machine: &Machine,
        options: &EngineOptions,
    ) -> Result<Self, FleetPlanError> {
        assert!(!models.is_empty(), "a fleet has a model to serve");
        if options.draft.is_some() {
            return Err(FleetPlanError::DraftModel);
        }
        let (budget, members) = plan_members(models, machine, &options.plan_limits())?;
        let needs: Vec<_> = members.iter().map(FleetMember::needs).collect();
        let state = State {
            books: Books::new(budget, PROCESS_BYTES, &needs),
            engines: members.iter().map(|_| None).collect(),
            is_changing: false,
            is_draining: false,
            past: ShutdownReport {
                blocks_free: Blocks::ZERO,
                blocks_total: Blocks::ZERO,
                draft_blocks_free: Blocks::ZERO,
                draft_blocks_total: Blocks::ZERO,
                accepted: 0,
                failed: 0,
            },
        };
        Ok(Self(Arc::new(Shared {
            members,
            machine: *machine,
            options: options.clone(),
            began: Instant::now(),
            state: Mutex::new(state),
            settled: Condvar::new(),
        })))
    }

    /// Every model, loaded or not.
    pub fn members(&self) -> &[FleetMember] {
        &self.0.members
    }

    /// What the process may hold.
    pub fn budget(&self) -> Bytes {
        self.lock().books.budget()
    }

    /// Loads, in order, every model that fits beside those before it.
    ///
    /// # Errors
    /// [`FleetError::Load`] for a model that fits but cannot be loaded.
    pub fn load_what_fits(&self) -> Result<(), FleetError> {
        for model in 0..self.0.members.len() {
            let change = self.begin()?;
            // Models of this loop are leased meanwhile, so that none makes room for the next.
            let loaded: Vec<usize> = (0..model).filter(|&each| self.is_in(each)).collect();
            let leases: Vec<Option<Lease>> = loaded.iter().map(|&each| self.lease(each)).collect();
            let result = self.load(&change, model);
            drop(leases);
            match result {
                Ok(_) | Err(FleetError::NoRoom { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The model, if it is in memory. Does not wait.
    pub fn lease(&self, model: usize) -> Option<Lease> {
        let mut state = self.lock();
        state.books.lease(model, self.now())?;
        let engine = state.engines[model].as_ref();
        let engine = engine
            .expect("a model that takes requests has an engine")
            .handle();
        drop(state);
        let fleet = self.clone();
        Some(Lease {
            fleet,
            model,
            engine,
        })
    }

    /// The model, loaded first if it is not in memory; several callers wait for one load. Takes as
    /// long as that: not for async code.
    ///
    /// # Errors
    /// [`FleetError`]; what was loaded before is still.
    pub fn acquire(&self, model: usize) -> Result<Lease, FleetError> {
        if let Some(lease) = self.lease(model) {
            return Ok(lease);
        }
        let change = self.begin()?;
        // Somebody else may have loaded it while this thread waited for its turn.
        match self.lease(model) {
            Some(lease) => Ok(lease),
            None => self.load(&change, model),
        }
    }

    /// Changes the budget of the process. A smaller one is in force when this returns: pools shrink,
    /// then idle models are unloaded. Waits for the steps that run: not for async code.
    ///
    /// # Errors
    /// [`BudgetError::TooSmall`] below what the largest model needs alone, `Busy` when live requests
    /// need more; the old budget then stays in force.
    pub fn set_budget(&self, budget: Bytes) -> Result<(), BudgetError> {
        let change = self.begin().map_err(|_| BudgetError::Stopped)?;
        let needed = self.lock().books.budget_min();
        if budget < needed {
            let given = budget;
            return Err(BudgetError::TooSmall { needed, given });
        }
        if budget < self.budget()
            && let Err(halt) = self.pursue(&change, Goal::Budget(budget))
        {
            self.balance(&change);
            return Err(match halt {
                Halt::NoRoom(NoRoom { needed, .. }) => BudgetError::Busy {
                    needed,
                    given: budget,
                },
                Halt::Load(..) | Halt::Stopped(_) => BudgetError::Stopped,
            });
        }
        self.lock().books.set_budget(budget);
        self.balance(&change);
        Ok(())
    }

    /// Drops what is only cached and gives back the memory of blocks not in use, in all models.
    /// Returns how much that was.
    pub fn release_kv(&self) -> Bytes {
        let engines = self.engines();
        engines.iter().map(|(_, engine)| engine.release_kv()).sum()
    }

    /// Unloads what no request has used for `idle_max` or longer. Not for async code.
    pub fn unload_idle(&self, idle_max: Duration) {
        let Some(before) = self.now().checked_sub(idle_max) else {
            return;
        };
        // Without a change under way, so that it need not be waited for when there is nothing to do.
        while self.lock().books.idle_since(before).is_some() {
            let Ok(change) = self.begin() else { return };
            let Some(model) = self.lock().books.idle_since(before) else {
                return;
            };
            if self.pursue(&change, Goal::Unload(model)).is_err() {
                return;
            }
        }
    }

    /// Engines of the models that are in memory.
    pub fn engines(&self) -> Vec<(usize, EngineHandle)> {
        let state = self.lock();
        let engines = state.engines.iter().enumerate();
        engines
            .filter_map(|(model, engine)| Some((model, engine.as_ref()?.handle())))
            .collect()
    }

    /// Whether requests can be taken: the worst of what the engines say.
    pub fn status(&self) -> EngineStatus {
        let failed = self
            .engines()
            .into_iter()
            .map(|(_, engine)| engine.status());
        let failed = { failed }.find(|status| matches!(status, EngineStatus::Failed(_)));
        match failed {
            Some(failed) => failed,
            None if self.lock().is_draining => EngineStatus::Draining,
            None => EngineStatus::Ready,
        }
    }

    /// Takes nothing new from now on; what was accepted is finished.
    pub fn drain(&self) {
        self.lock().is_draining = true;
        for (_, engine) in self.engines() {
            engine.drain();
        }
    }

    /// Drains, waits for what runs, and stops all engines. Blocks are summed over all models there
    /// were.
    pub fn shutdown(&self) -> ShutdownReport {
        self.drain();
        let mut state = self.lock();
        while state.is_changing {
            state = self.wait(state);
        }
        let engines: Vec<Engine> = state.engines.iter_mut().filter_map(Option::take).collect();
        drop(state);
        let reports: Vec<ShutdownReport> = engines.into_iter().map(Engine::shutdown).collect();
        let mut state = self.lock();
        reports
            .into_iter()
            .for_each(|report| state.remember(report));
        state.past
    }

    /// Waits until no change is under way, and begins one.
    fn begin(&self) -> Result<Change<'_>, FleetError> {
        let mut state = self.lock();
        while state.is_changing && !state.is_draining {
            state = self.wait(state);
        }
        if state.is_draining {
            return Err(FleetError::Draining);
        }
        state.is_changing = true;
        Ok(Change(self))
    }

    /// Loads the model and takes it before anybody could send it away again.
    fn load(&self, change: &Change<'_>, model: usize) -> Result<Lease, FleetError> {
        let result = self.pursue(change, Goal::Load(model));
        if result.is_err() {
            // What was taken from the others for nothing.
            self.balance(change);
        }
        let name = |model: usize| self.0.members[model].name().to_owned();
        result.map_err(|halt| match halt {
            Halt::NoRoom(NoRoom { needed, budget }) => FleetError::NoRoom {
                model: name(model),
                needed,
                budget,
            },
            Halt::Load(model, source) => FleetError::Load {
                model: name(model),
                source,
            },
            Halt::Stopped(model) => FleetError::Stopped { model: name(model) },
        })?;
        let lease = self.lease(model);
        Ok(lease.expect("within a change, nobody else unloads what it has loaded"))
    }

    /// Shares out what is left. That cannot be refused; an engine that has failed is not its
    /// business: [`Fleet::status`] tells.
    fn balance(&self, change: &Change<'_>) {
        if let Err(halt) = self.pursue(change, Goal::Balance) {
            tracing::error!(?halt, "memory cannot be shared out");
        }
    }

    /// Decide, do, commit, until the goal is reached.
    fn pursue(&self, _change: &Change<'_>, goal: Goal) -> Result<(), Halt> {
        self.lock().books.begin();
        loop {
            let mut state = self.lock();
            let Some(step) = state.books.decide(goal)? else {
                return Ok(());
            };
            state.books.start(step);
            drop(state);
            tracing::info!(?step, "memory of the fleet");
            let (outcome, halt) = self.act(step);
            self.lock().books.finish(step, outcome, self.now());
            if let Some(halt) = halt {
                return Err(halt);
            }
        }
    }

    fn act(&self, step: Step) -> (Outcome, Option<Halt>) {
        match step {
            Step::Shrink { model, kv } | Step::Grow { model, kv } => self.resize(model, kv),
            Step::Unload { model } => {
                let engine = self.lock().engines[model].take();
                if let Some(engine) = engine {
                    let report = engine.shutdown();
                    self.lock().remember(report);
                }
                (Outcome::Done, None)
            }
            Step::Load { model, kv } => match self.load_engine(model, kv) {
                Ok(()) => (Outcome::Done, None),
                Err(halt) => (Outcome::Failed, Some(halt)),
            },
        }
    }

    fn resize(&self, model: usize, kv: Bytes) -> (Outcome, Option<Halt>) {
        let engine = self.lock().engines[model].as_ref().map(Engine::handle);
        let engine = engine.expect("a model in memory has an engine");
        let fixed = self.0.members[model].plan.fixed();
        match engine.set_budget(fixed + kv) {
            Ok(_) => (Outcome::Done, None),
            Err(BudgetError::Busy { needed, .. } | BudgetError::TooSmall { needed, .. }) => {
                let kv = needed.saturating_sub(fixed);
                (Outcome::Held { kv }, None)
            }
            Err(BudgetError::Stopped) => (Outcome::Failed, Some(Halt::Stopped(model))),
        }
    }

    /// Loads under the limits the model was planned with, so that the plan is the same, and sets the
    /// pool before anybody can use it: until then it holds nothing.
    fn load_engine(&self, model: usize, kv: Bytes) -> Result<(), Halt> {
        let member = &self.0.members[model];
        let options = EngineOptions {
            limits: member.basis.limits.clone(),
            ..self.0.options.clone()
        };
        let loaded = Engine::load(&member.path, &self.0.machine, &options);
        let engine = loaded.map_err(|error: LoadError| Halt::Load(model, Box::new(error)))?;
        let sized = engine.handle().set_budget(member.plan.fixed() + kv);
        sized.map_err(|_| Halt::Stopped(model))?;
        let mut state = self.lock();
        if state.is_draining {
            engine.handle().drain();
        }
        state.engines[model] = Some(engine);
        Ok(())
    }

    fn is_in(&self, model: usize) -> bool {
        matches!(self.lock().books.place(model), Place::In { .. })
    }

    fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Holders only change values; a panic there is the end of a change, and leaves a model in
    /// between at worst.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.0
            .settled
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, report: ShutdownReport) {
        let past = &mut self.past;
        past.blocks_free += report.blocks_free;
        past.blocks_total += report.blocks_total;
        past.draft_blocks_free += report.draft_blocks_free;
        past.draft_blocks_total += report.draft_blocks_total;
        past.accepted += report.accepted;
        past.failed += report.failed;
    }
}
