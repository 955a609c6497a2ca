//! From a file to a running engine: read the header, plan every byte, then load.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvist_base::{Blocks, Tokens};
use kvist_device::{Device, DeviceError};
use kvist_kernels::Isa;
use kvist_model::ModelError;
use kvist_plan::{Limits, Machine, ModelShape, OverPlan, Plan, PlanError};
use kvist_sched::{Admission, ConfigError, Fairness};
use kvist_text::TextError;
use kvist_weights::hf::HfError;
use kvist_weights::{GgufFile, WeightsError};
use thiserror::Error;

use crate::assemble::Loaded;
use crate::draft::{DraftError, DraftFile, draft_shape};
use crate::handle::EngineHandle;
use crate::plan_change::{PlanBasis, PlanChange};
use crate::run::{Remains, run};
use crate::shape::model_shape;
use crate::shared::Shared;
use crate::speculation::Speculation;
use crate::tier::{TierError, TierOptions};
use crate::what_if::{WhatIfError, refuse_hf};

/// How to serve a model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory, context, batch and thread limits.
    pub limits: Limits,
    /// Requests that may wait beyond those that run.
    pub waiting_max: usize,
    /// Tokens of prompts that may wait for their turn; one prompt may always.
    pub waiting_tokens_max: u64,
    /// Whether full KV blocks are kept and shared by content.
    pub prefix_caching: bool,
    /// Most tokens one sequence gets in a step while others are alive.
    pub chunk_max: Option<Tokens>,
    /// When a waiting request is let in.
    pub admission: Admission,
    /// Who is let in next.
    pub fairness: Fairness,
    /// Most blocks of the KV pool, where the plan would give it more: for tests and experiments.
    pub kv_blocks_max: Option<Blocks>,
    /// How long after the last request cached and free KV memory goes back to the system; `None`:
    /// it is kept.
    pub kv_idle_release: Option<Duration>,
    /// Where KV blocks go that the pool has no room for. Its size overrides `limits.spill`.
    pub tier: Option<TierOptions>,
    /// The instruction tier; `None` for the best there is.
    pub isa: Option<Isa>,
    /// How tokens are guessed ahead; `None`: one token a step. Overrides `limits.draft_max`.
    pub speculation: Option<Speculation>,
    /// The file of a second, smaller model with the same vocabulary: guesses what will be said where
    /// that pays. Needs speculation.
    pub draft: Option<PathBuf>,
}

impl EngineOptions {
    /// Most draft tokens of a step.
    pub(crate) fn draft_max(&self) -> Tokens {
        let speculation = self.speculation.as_ref();
        speculation.map_or(Tokens::ZERO, |speculation| speculation.step_max)
    }

    /// What to plan the model in the file `served` with: [`Self::plan_limits`], and the draft model.
    ///
    /// # Errors
    /// The draft model is none, or none for this model.
    pub fn limits_for(&self, served: &Path) -> Result<Limits, LoadError> {
        let draft_model = match &self.draft {
            Some(draft) => Some(Box::new(draft_shape(draft, served)?)),
            None => None,
        };
        self.with_draft_model(draft_model)
    }

    fn with_draft_model(&self, draft: Option<Box<ModelShape>>) -> Result<Limits, LoadError> {
        if draft.is_some() && self.speculation.is_none() {
            return Err(DraftError::SpeculationOff.into());
        }
        Ok(Limits {
            draft_model: draft,
            ..self.plan_limits()
        })
    }

    /// What to plan with: the limits, and the sizes of tier and drafts among them.
    pub fn plan_limits(&self) -> Limits {
        Limits {
            waiting_max: u32::try_from(self.waiting_max).unwrap_or(u32::MAX),
            draft_max: self.draft_max(),
            spill: self.tier.as_ref().map(|tier| tier.bytes),
            ..self.limits.clone()
        }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            waiting_max: 256,
            waiting_tokens_max: 1 << 20,
            prefix_caching: true,
            chunk_max: None,
            admission: Admission::default(),
            fairness: Fairness::default(),
            kv_blocks_max: None,
            kv_idle_release: Some(Duration::from_secs(10)),
            tier: None,
            isa: None,
            speculation: None,
            draft: None,
        }
    }
}

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file is missing, damaged or of a kind not understood.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The architecture or its tensors are not understood.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The vocabulary or chat template is not understood.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The embedding table has fewer rows than the vocabulary has tokens.
    #[error("the vocabulary has {vocab_len} tokens but the embedding table {table_rows} rows")]
    VocabMismatch {
        /// Tokens.
        vocab_len: usize,
        /// Rows.
        table_rows: usize,
    },
    /// A limit makes no sense.
    #[error(transparent)]
    Limits(#[from] PlanError),
    /// The draft model is none, or none for this model.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// It can be planned only, or not even that.
    #[error(transparent)]
    WhatIf(#[from] WhatIfError),
    /// The scheduler cannot work under the configuration.
    #[error(transparent)]
    Scheduler(#[from] ConfigError),
    /// It does not fit; the plan says what would.
    #[error("{0}")]
    DoesNotFit(Box<Plan>),
    /// The system refused memory or threads that the plan counted on.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The second tier of the KV cache cannot be set up.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// Loading took more than the plan said: our bug, and better known before serving than after.
    #[error("the plan is wrong: {0}")]
    OverPlan(#[from] OverPlan),
    /// The engine thread cannot be started.
    #[error("the engine thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

/// Who must act on a [`LoadError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// There is no such file, or it cannot be read.
    ModelMissing,
    /// The file is not a model kvist can serve.
    ModelBad,
    /// The limits are wrong.
    Config,
    /// More memory, or other limits.
    DoesNotFit,
    /// The system refused something.
    Machine,
}

impl LoadError {
    /// Who must act.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Weights(WeightsError::Io { .. }) => ErrorClass::ModelMissing,
            Self::Weights(_) | Self::Text(_) | Self::VocabMismatch { .. } => ErrorClass::ModelBad,
            Self::Model(ModelError::Device(DeviceError::OutOfMemory { .. })) => ErrorClass::Machine,
            Self::Model(_) => ErrorClass::ModelBad,
            Self::WhatIf(WhatIfError::Folder(HfError::Io { .. })) => ErrorClass::ModelMissing,
            Self::WhatIf(WhatIfError::AlreadyQuantised { .. }) => ErrorClass::Config,
            Self::WhatIf(_) => ErrorClass::ModelBad,
            Self::Draft(error) => error.class(),
            Self::Limits(_) | Self::Scheduler(_) => ErrorClass::Config,
            Self::DoesNotFit(_) => ErrorClass::DoesNotFit,
            Self::Device(_) | Self::Thread(_) | Self::OverPlan(_) | Self::Tier(_) => {
                ErrorClass::Machine
            }
        }
    }
}

/// A plan with the model it is for: what `kvist plan` shows.
#[derive(Clone, Debug)]
pub struct PlannedModel {
    /// The model's numbers.
    pub shape: ModelShape,
    /// Where every byte would go.
    pub plan: Plan,
    /// Whether the file holds all the bytes its header speaks of.
    pub is_complete: bool,
    /// What the file left open and how it was read.
    pub notes: Vec<String>,
}

/// Plans a model from its file's header alone.
///
/// # Errors
/// When the file is not a model kvist can serve, or a limit makes no sense. A model that does not
/// fit is not an error here: the plan says so.
pub fn plan_file(
    path: &Path,
    machine: &Machine,
    limits: &Limits,
) -> Result<PlannedModel, LoadError> {
    refuse_hf(path)?;
    let file = GgufFile::open_header(path)?;
    let config = kvist_model::open(&file)?;
    let shape = model_shape(&file, &config)?;
    let plan = kvist_plan::plan(&shape, machine, limits)?;
    Ok(PlannedModel {
        shape,
        plan,
        is_complete: file.is_complete(),
        notes: config.notes,
    })
}

/// A running engine. Dropping it drains it.
pub struct Engine {
    handle: EngineHandle,
    thread: Option<JoinHandle<Remains>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.handle.info().name)
            .finish_non_exhaustive()
    }
}

/// What an engine leaves behind: all blocks free is the proof that nothing leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Blocks no sequence holds, cached ones included.
    pub blocks_free: Blocks,
    /// Blocks in the pool.
    pub blocks_total: Blocks,
    /// Blocks of the draft model's pool in no table.
    pub draft_blocks_free: Blocks,
    /// Blocks in that pool; none without a draft model.
    pub draft_blocks_total: Blocks,
    /// Requests accepted.
    pub accepted: u64,
    /// Requests that a fault ended.
    pub failed: u64,
}

impl Engine {
    /// Plans, loads and starts.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is left behind.
    pub fn load(
        path: &Path,
        machine: &Machine,
        options: &EngineOptions,
    ) -> Result<Self, LoadError> {
        Self::load_around(path, machine, options, |device| device)
    }

    /// [`Self::load`] with the device that `wrap` puts around the loaded one: tests make it fail.
    pub(crate) fn load_around(
        path: &Path,
        machine: &Machine,
        options: &EngineOptions,
        wrap: impl FnOnce(Box<dyn Device>) -> Box<dyn Device>,
    ) -> Result<Self, LoadError> {
        refuse_hf(path)?;
        let file = GgufFile::open(path)?;
        let config = kvist_model::open(&file)?;
        for note in &config.notes {
            tracing::warn!("{note}");
        }
        let shape = model_shape(&file, &config)?;
        let draft = options.draft.as_deref();
        let draft = draft.map(|path| DraftFile::open(path, file.metadata()));
        let draft = draft.transpose()?;
        let draft_shape = draft.as_ref().map(|draft| Box::new(draft.shape.clone()));
        let limits = options.with_draft_model(draft_shape)?;
        let basis = PlanBasis {
            shape,
            machine: *machine,
            limits,
        };
        let plan = basis.plan(PlanChange::default())?;
        if !plan.fits() {
            return Err(LoadError::DoesNotFit(Box::new(plan)));
        }
        log_offload(&plan);
        let in_flight_max = options.limits.running_max as usize + options.waiting_max;
        let mut loaded = Loaded::new(&file, &config, (&plan, options))?;
        loaded.speculate(&file, draft.as_ref(), (options.speculation, &basis.limits))?;
        let bounds = (in_flight_max, options.waiting_tokens_max);
        let parts = loaded.shared_parts(&file, basis, bounds)?;
        // What the header was read from need not count as ours any longer.
        file.release()?;
        if parts.tokenizer.vocab_len() > config.vocab_len {
            let (vocab_len, table_rows) = (parts.tokenizer.vocab_len(), config.vocab_len);
            return Err(LoadError::VocabMismatch {
                vocab_len,
                table_rows,
            });
        }
        // Requests in flight alone never fill it, so none that got a place is refused here.
        let (sender, commands) = sync_channel(in_flight_max + 1);
        let shared = Arc::new(Shared::new(parts, sender));
        let mut core = loaded.into_core(Arc::clone(&shared));
        core.device = wrap(core.device);
        // Before anyone can ask.
        core.report();
        let thread = thread::Builder::new()
            .name("kvist-engine".to_owned())
            .spawn(move || run(core, &commands))
            .map_err(LoadError::Thread)?;
        Ok(Self {
            handle: EngineHandle { shared },
            thread: Some(thread),
        })
    }

    /// A connection for callers.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Finishes what was accepted, takes nothing new, and stops.
    pub fn shutdown(mut self) -> ShutdownReport {
        let remains = self.stop();
        let metrics = self.handle.metrics();
        let lost = (Blocks::ZERO, Blocks(metrics.blocks_total));
        let (free, total) = remains.map_or(lost, |Remains { pool, .. }| {
            (pool.free + pool.cached, pool.total)
        });
        let (draft_free, draft_total) = remains.map(|remains| remains.draft).unwrap_or_default();
        ShutdownReport {
            blocks_free: free,
            blocks_total: total,
            draft_blocks_free: draft_free,
            draft_blocks_total: draft_total,
            accepted: metrics.accepted,
            failed: metrics.finished.failed,
        }
    }

    fn stop(&mut self) -> Option<Remains> {
        self.handle.drain();
        // The loop catches panics; a thread that still ends in one has no pool to report.
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn log_offload(plan: &Plan) {
    let offload = &plan.offload;
    if offload.is_empty() {
        return;
    }
    let (layers, bytes) = (offload.layers.len(), offload.bytes);
    if offload.is_idle {
        tracing::warn!("{layers} layers are streamed as asked, {bytes} a step; they would fit");
    } else {
        tracing::info!("{layers} layers are streamed, {bytes} a step: memory has no room for them");
    }
}
