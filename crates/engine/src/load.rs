//! From a file to a running engine: read the header, plan every byte, then load.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use kvist_base::{Blocks, Tokens};
use kvist_device::{CpuDevice, CpuOptions, Device, DeviceError, KvReaders, KvSpec};
use kvist_kernels::Isa;
use kvist_model::{DecoderConfig, ModelError, Placement, StepShape};
use kvist_plan::{Limits, Machine, ModelShape, Plan, PlanError};
use kvist_sample::Sampler;
use kvist_sched::{ConfigError, PoolCounts, Scheduler, SchedulerConfig};
use kvist_text::TextError;
use kvist_weights::{GgufFile, WeightsError};
use thiserror::Error;

use crate::handle::{EngineHandle, ModelInfo};
use crate::pack::{BatchLimits, BatchScratch};
use crate::run::run;
use crate::shape::model_shape;
use crate::shared::{PoolShape, Shared, SharedParts};
use crate::step::Core;
use crate::vocab::{chat_template, vocab_spec};

/// How to serve a model.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory, context, batch and thread limits.
    pub limits: Limits,
    /// Requests that may wait beyond those that run.
    pub waiting_max: usize,
    /// Whether full KV blocks are kept and shared by content.
    pub prefix_caching: bool,
    /// Most tokens one sequence gets in a step while others are alive.
    pub chunk_max: Option<Tokens>,
    /// Most blocks of the KV pool, where the plan would give it more: for tests and experiments.
    pub kv_blocks_max: Option<Blocks>,
    /// The instruction tier; `None` for the best there is.
    pub isa: Option<Isa>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            waiting_max: 256,
            prefix_caching: true,
            chunk_max: None,
            kv_blocks_max: None,
            isa: None,
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
    /// The scheduler cannot work under the configuration.
    #[error(transparent)]
    Scheduler(#[from] ConfigError),
    /// It does not fit; the plan says what would.
    #[error("{0}")]
    DoesNotFit(Box<Plan>),
    /// The system refused memory or threads that the plan counted on.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
            Self::Limits(_) | Self::Scheduler(_) => ErrorClass::Config,
            Self::DoesNotFit(_) => ErrorClass::DoesNotFit,
            Self::Device(_) | Self::Thread(_) => ErrorClass::Machine,
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
    thread: Option<JoinHandle<PoolCounts>>,
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
        let file = GgufFile::open(path)?;
        let config = kvist_model::open(&file)?;
        for note in &config.notes {
            tracing::warn!("{note}");
        }
        let shape = model_shape(&file, &config)?;
        let plan = kvist_plan::plan(&shape, machine, &options.limits)?;
        if !plan.fits() {
            return Err(LoadError::DoesNotFit(Box::new(plan)));
        }
        let in_flight_max = options.limits.running_max as usize + options.waiting_max;
        let mut loaded = Loaded::new(&file, &config, (&plan, options))?;
        let parts = loaded.shared_parts(&file, (shape, plan), in_flight_max)?;
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
        let pool = self.stop();
        let metrics = self.handle.metrics();
        let (free, total) = pool.map_or((Blocks::ZERO, Blocks(metrics.blocks_total)), |pool| {
            (pool.free + pool.cached, pool.total)
        });
        ShutdownReport {
            blocks_free: free,
            blocks_total: total,
            accepted: metrics.accepted,
            failed: metrics.finished.failed,
        }
    }

    fn stop(&mut self) -> Option<PoolCounts> {
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

/// Everything the engine thread will own, before it starts.
struct Loaded {
    device: CpuDevice,
    model: Box<dyn kvist_model::Model>,
    kv: kvist_device::KvCache,
    scheduler: Scheduler,
    batch: BatchLimits,
    pool: PoolShape,
}

impl Loaded {
    fn new(
        file: &GgufFile,
        config: &DecoderConfig,
        (plan, options): (&Plan, &EngineOptions),
    ) -> Result<Self, LoadError> {
        let Limits {
            block_size,
            running_max,
            step_tokens_max,
            kv_dtype,
            threads,
            ..
        } = options.limits;
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let threads = NonZeroUsize::new(threads as usize).unwrap_or(NonZeroUsize::MIN);
        let mut device = CpuDevice::new(CpuOptions { threads, isa })?;
        let running_max = running_max as usize;
        let blocks_total = options
            .kv_blocks_max
            .map_or(plan.kv.blocks, |max| plan.kv.blocks.min(max));
        let batch = BatchLimits {
            block_size,
            tokens_max: step_tokens_max.len(),
            sequences_max: running_max,
            tables_max: tables_max(plan, running_max, block_size),
        };
        let scheduler = Scheduler::new(SchedulerConfig {
            block_size,
            blocks_limit: blocks_total,
            blocks_max: blocks_total,
            running_max,
            waiting_max: running_max + options.waiting_max,
            step_tokens_max,
            chunk_max: options.chunk_max,
            model_len_max: plan.model_len,
            prefix_caching: options.prefix_caching,
            partial_hits: false,
            watermark: Blocks(blocks_total.0 / 100),
        })?;
        let kv = device.alloc_kv(KvSpec {
            blocks: blocks_total.len(),
            block_size: block_size.len(),
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            dtype: kv_dtype,
            readers: KvReaders {
                heads: config.heads,
                tokens_max: batch.tokens_max,
                context_max: plan.model_len.len(),
            },
        })?;
        let shape = StepShape {
            tokens_max: batch.tokens_max,
            sequences_max: batch.sequences_max,
            tables_max: batch.tables_max,
        };
        let model = kvist_model::load(file, &mut device, shape, &Placement::default())?;
        let pool = PoolShape {
            block_size,
            blocks_total,
        };
        Ok(Self {
            device,
            model,
            kv,
            scheduler,
            batch,
            pool,
        })
    }

    fn shared_parts(
        &mut self,
        file: &GgufFile,
        (shape, plan): (ModelShape, Plan),
        in_flight_max: usize,
    ) -> Result<SharedParts, LoadError> {
        let spec = vocab_spec(file.metadata())?;
        let template = chat_template(file.metadata(), &spec)?;
        let tokenizer = kvist_text::from_vocab(spec)?;
        let caps = self.device.caps();
        let info = ModelInfo {
            name: shape.name,
            architecture: shape.architecture,
            vocab_len: tokenizer.vocab_len(),
            model_len: plan.model_len,
            has_chat_template: template.is_some(),
            isa: caps.isa,
            threads: caps.threads,
            plan,
        };
        Ok(SharedParts {
            info,
            tokenizer,
            template,
            pool: self.pool,
            in_flight_max,
        })
    }

    fn into_core(self, shared: Arc<Shared>) -> Core {
        Core {
            scheduler: self.scheduler,
            device: Box::new(self.device),
            model: self.model,
            kv: self.kv,
            sampler: Sampler::new(shared.tokenizer.vocab_len()),
            tokenizer: Arc::clone(&shared.tokenizer),
            live: std::collections::BTreeMap::new(),
            batch: BatchScratch::new(self.batch),
            shared,
        }
    }
}

/// Entries all block tables of a step can have: no more than each running sequence at full length.
/// Tables may share blocks, so the pool alone is no bound.
fn tables_max(plan: &Plan, running_max: usize, block_size: Tokens) -> usize {
    plan.model_len
        .div_ceil(block_size)
        .len()
        .saturating_mul(running_max)
}
