//! The models a server answers for, and which of them a request means.

use std::sync::Arc;
use std::time::Duration;

use kvist_base::Bytes;
use kvist_engine::plan::Plan;
use kvist_engine::{
    BlockMap, BudgetError, EngineHandle, EngineStatus, Fleet, FleetError, FleetMemory, KvReport,
    Lease, MetricsSnapshot, PlanChange, ResetError,
};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::error::ApiError;

/// The models a server answers for: one that is always there, or a fleet. The first is the one meant
/// by requests that name none.
#[derive(Debug)]
pub struct Models {
    source: Source,
    /// Never empty.
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
enum Source {
    One(EngineHandle),
    Fleet(Fleet),
}

/// One model, whether it is loaded or not.
#[derive(Debug)]
pub(crate) struct Member {
    /// Never empty; answers carry the first.
    names: Vec<String>,
    /// What the model calls itself.
    pub(crate) root: String,
    /// Largest prompt and output together, in tokens.
    pub(crate) model_len: u32,
    /// Requests wait here for a load, so that all of them together keep one thread.
    turn: Arc<Mutex<()>>,
    /// Requests wait here for a look at the pool, likewise.
    map_turn: Arc<Mutex<()>>,
}

/// A model that is ready to serve one request, and stays so until this and its clones are dropped.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The name answers carry.
    pub(crate) name: String,
    pub(crate) engine: EngineHandle,
    _lease: Option<Arc<Lease>>,
}

/// A model's KV pool at a moment.
#[derive(Debug)]
pub(crate) struct Mapped<'a> {
    /// The name answers carry.
    pub(crate) name: &'a str,
    pub(crate) map: Arc<BlockMap>,
    pub(crate) kv: KvReport,
    pub(crate) metrics: MetricsSnapshot,
}

impl Member {
    fn new(names: Vec<String>, root: String, model_len: u32) -> Self {
        Self {
            names,
            root,
            model_len,
            turn: Arc::default(),
            map_turn: Arc::default(),
        }
    }
}

impl From<EngineHandle> for Models {
    /// One model under its own name.
    fn from(engine: EngineHandle) -> Self {
        let info = engine.info();
        let names = vec![info.name.clone()];
        let members = vec![Member::new(names, info.name.clone(), info.model_len.0)];
        Self {
            source: Source::One(engine),
            members,
        }
    }
}

impl From<Fleet> for Models {
    fn from(fleet: Fleet) -> Self {
        let members = fleet.members().iter().map(|member| {
            let root = member.root.clone();
            Member::new(member.names.clone(), root, member.model_len().0)
        });
        Self {
            members: members.collect(),
            source: Source::Fleet(fleet),
        }
    }
}

impl Models {
    /// Lets the first model go by `names` instead of its own; none change nothing.
    pub(crate) fn name_first(&mut self, names: Vec<String>) {
        if !names.is_empty() {
            self.members[0].names = names;
        }
    }

    /// Every name a request may use, with the model it stands for.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().flat_map(|member| {
            let names = member.names.iter();
            names.map(move |name| (name.as_str(), member))
        })
    }

    /// The model that is meant when none is named, and its name.
    pub(crate) fn first(&self) -> (&str, &Member) {
        (&self.members[0].names[0], &self.members[0])
    }

    /// The model that goes by a name.
    pub(crate) fn find(&self, name: &str) -> Result<&Member, ApiError> {
        Ok(&self.members[self.index(Some(name))?])
    }

    /// The place of the model a request means: the first if it names none.
    fn index(&self, given: Option<&str>) -> Result<usize, ApiError> {
        let Some(given) = given else { return Ok(0) };
        let goes_by = |member: &Member| member.names.iter().any(|name| name == given);
        let index = self.members.iter().position(goes_by);
        index.ok_or_else(|| ApiError::UnknownModel {
            given: given.to_owned(),
            served: self.names().map(|(name, _)| name.to_owned()).collect(),
        })
    }

    /// The model a request means, ready to serve it. Loads it if need be.
    pub(crate) async fn serve(&self, given: Option<&str>) -> Result<Served, ApiError> {
        let index = self.index(given)?;
        let fleet = match &self.source {
            Source::One(engine) => return Ok(self.served(index, engine.clone(), None)),
            Source::Fleet(fleet) => fleet,
        };
        if let Some(lease) = fleet.lease(index) {
            return Ok(self.leased(index, lease));
        }
        let turn = self.members[index].turn.clone().lock_owned().await;
        let fleet = fleet.clone();
        let task = spawn_blocking(move || {
            // Goes with the work: a client that leaves does not make room for a second thread.
            let _turn = turn;
            fleet.acquire(index)
        });
        let lease = match task.await {
            Ok(acquired) => acquired.map_err(unavailable)?,
            Err(panicked) => {
                tracing::error!(%panicked, "loading a model failed");
                return Err(ApiError::EngineStopped);
            }
        };
        Ok(self.leased(index, lease))
    }

    fn leased(&self, index: usize, lease: Lease) -> Served {
        let engine = lease.engine().clone();
        self.served(index, engine, Some(Arc::new(lease)))
    }

    fn served(&self, index: usize, engine: EngineHandle, lease: Option<Arc<Lease>>) -> Served {
        Served {
            name: self.members[index].names[0].clone(),
            engine,
            _lease: lease,
        }
    }

    /// Name and engine of every model that can be asked for its numbers now.
    pub(crate) fn loaded(&self) -> Vec<(&str, EngineHandle)> {
        let engines = match &self.source {
            Source::One(engine) => vec![(0, engine.clone())],
            Source::Fleet(fleet) => fleet.engines(),
        };
        let named = |(index, engine): (usize, _)| (self.members[index].names[0].as_str(), engine);
        engines.into_iter().map(named).collect()
    }

    /// Where the bytes are, under the names this server uses.
    pub(crate) fn memory(&self) -> FleetMemory {
        match &self.source {
            Source::One(engine) => {
                let now = engine.metrics();
                let is_busy = now.running + now.waiting > 0;
                FleetMemory::of_one(&self.members[0].names[0], is_busy, engine.memory())
            }
            Source::Fleet(fleet) => {
                let mut memory = fleet.memory();
                let own = fleet.members()[0].name();
                let first = &self.members[0].names[0];
                for line in &mut memory.lines {
                    if line.model.as_deref() == Some(own) {
                        line.model = Some(first.clone());
                    }
                }
                memory.models[0].name.clone_from(first);
                memory
            }
        }
    }

    /// The KV pool of the model a request means, under the name answers carry, with its counters. Waits
    /// for the step that runs.
    pub(crate) async fn block_map(&self, given: Option<&str>) -> Result<Mapped<'_>, ApiError> {
        let index = self.index(given)?;
        let member = &self.members[index];
        let name = &*member.names[0];
        let engine = match &self.source {
            Source::One(engine) => Some(engine.clone()),
            Source::Fleet(fleet) => {
                let mut engines = fleet.engines().into_iter();
                engines.find_map(|(model, engine)| (model == index).then_some(engine))
            }
        };
        let engine = engine.ok_or_else(|| ApiError::NotInMemory {
            model: name.to_owned(),
        })?;
        let turn = member.map_turn.clone().lock_owned().await;
        let task = spawn_blocking(move || {
            let _turn = turn;
            let map = engine.block_map()?;
            Some((map, engine.memory().kv, engine.metrics()))
        });
        let looked = task.await.ok().flatten();
        let (map, kv, metrics) = looked.ok_or(ApiError::EngineStopped)?;
        Ok(Mapped {
            name,
            map,
            kv,
            metrics,
        })
    }

    /// Where every byte of the model a request means would go under other limits.
    pub(crate) fn plan_with(
        &self,
        given: Option<&str>,
        change: PlanChange,
    ) -> Result<Plan, ApiError> {
        let index = self.index(given)?;
        let plan = match &self.source {
            Source::One(engine) => engine.plan_with(change),
            Source::Fleet(fleet) => fleet.members()[index].plan_with(change),
        };
        plan.map_err(ApiError::from)
    }

    /// Changes what the process may hold. Waits for the step that runs.
    pub(crate) async fn set_budget(&self, budget: Bytes) -> Result<(), ApiError> {
        let source = self.source.clone();
        let task = spawn_blocking(move || match source {
            Source::One(engine) => engine.set_budget(budget).map(drop),
            Source::Fleet(fleet) => fleet.set_budget(budget),
        });
        let changed = task.await.unwrap_or(Err(BudgetError::Stopped));
        changed.map_err(ApiError::from)
    }

    /// Forgets all cached prefixes. Waits for the step that runs.
    pub(crate) async fn reset_prefix_cache(&self) -> Result<(), ApiError> {
        let engines: Vec<EngineHandle> = self
            .loaded()
            .into_iter()
            .map(|(_, engine)| engine)
            .collect();
        let task = spawn_blocking(move || {
            let mut results = engines.iter().map(EngineHandle::reset_prefix_cache);
            // Every engine is asked, whatever the one before it said.
            { results.by_ref() }.fold(Ok(()), Result::and)
        });
        let reset = task.await.unwrap_or(Err(ResetError::Stopped));
        reset.map_err(ApiError::from)
    }

    /// Unloads models that no request has used for `idle_max`, again and again. Ends at once where
    /// nothing is ever unloaded.
    pub(crate) fn keep_unloading(
        &self,
        idle_max: Option<Duration>,
    ) -> impl Future<Output = ()> + Send + 'static {
        /// Fewer looks at the clock would be late, more would be work for nothing.
        const LOOKS: u32 = 8;
        let source = self.source.clone();
        async move {
            let (Source::Fleet(fleet), Some(idle_max)) = (source, idle_max) else {
                return;
            };
            loop {
                sleep(idle_max / LOOKS).await;
                let fleet = fleet.clone();
                let looked = spawn_blocking(move || fleet.unload_idle(idle_max)).await;
                if let Err(panicked) = looked {
                    tracing::error!(%panicked, "unloading idle models failed");
                    return;
                }
            }
        }
    }

    /// Whether requests can be taken.
    pub(crate) fn status(&self) -> EngineStatus {
        match &self.source {
            Source::One(engine) => engine.status(),
            Source::Fleet(fleet) => fleet.status(),
        }
    }

    /// How long the engine that is longest at its step is at it; `None`: all wait for work.
    pub(crate) fn stalled(&self) -> Option<Duration> {
        let engines = self.loaded().into_iter();
        engines.filter_map(|(_, engine)| engine.stalled()).max()
    }

    /// Takes nothing new from now on; what was accepted is finished.
    pub(crate) fn drain(&self) {
        match &self.source {
            Source::One(engine) => engine.drain(),
            Source::Fleet(fleet) => fleet.drain(),
        }
    }
}

fn unavailable(error: FleetError) -> ApiError {
    match error {
        FleetError::NoRoom { .. } => ApiError::NoRoom(error),
        FleetError::Load { ref model, .. } => {
            tracing::error!(%error, "a model cannot be loaded");
            ApiError::NotLoaded {
                model: model.clone(),
            }
        }
        FleetError::Stopped { .. } => ApiError::EngineStopped,
        FleetError::Draining => ApiError::Draining,
    }
}
