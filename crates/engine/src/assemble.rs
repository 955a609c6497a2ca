//! A plan made real: threads, arena, weights, scheduler and tokenizer, before the engine starts.

use std::num::NonZeroUsize;
use std::sync::Arc;

use kvist_base::{Blocks, Tokens};
use kvist_device::{CpuDevice, CpuOptions, Device, DeviceMemory, KvReaders, KvSpec};
use kvist_kernels::Isa;
use kvist_model::{DecoderConfig, Placement, StepShape};
use kvist_plan::{Ledger, Limits, Plan};
use kvist_sample::Sampler;
use kvist_sched::{Scheduler, SchedulerConfig};
use kvist_weights::GgufFile;

use crate::draft::{DraftFile, Drafter};
use crate::handle::ModelInfo;
use crate::identity::identity;
use crate::idle::IdleRelease;
use crate::keeper::{Memory, charge, charge_draft};
use crate::load::{EngineOptions, LoadError};
use crate::memory::KvReport;
use crate::pack::{BatchLimits, BatchScratch};
use crate::plan_change::PlanBasis;
use crate::shared::{MemoryView, PoolShape, Shared, SharedParts};
use crate::speculation::{Speculation, Speculator};
use crate::step::Core;
use crate::tier;
use crate::tier::Identity;
use crate::transfer::Costs;
use crate::vocab::{chat_template, vocab_spec};

/// Everything the engine thread will own, before it starts.
pub(crate) struct Loaded {
    device: CpuDevice,
    model: Box<dyn kvist_model::Model>,
    kv: kvist_device::KvCache,
    scheduler: Scheduler,
    batch: BatchLimits,
    pool: PoolShape,
    memory: Memory,
    speculator: Option<Speculator>,
    draft_memory: Option<DeviceMemory>,
    identity: Identity,
}

impl Loaded {
    pub(crate) fn new(
        file: &GgufFile,
        config: &DecoderConfig,
        (plan, options): (&Plan, &EngineOptions),
    ) -> Result<Self, LoadError> {
        let Limits {
            block_size,
            running_max,
            step_tokens_max,
            threads,
            ..
        } = options.limits;
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let threads = NonZeroUsize::new(threads as usize).unwrap_or(NonZeroUsize::MIN);
        let mut device = CpuDevice::new(CpuOptions { threads, isa })?;
        let running_max = running_max as usize;
        let batch = BatchLimits {
            block_size,
            tokens_max: step_tokens_max.len(),
            sequences_max: running_max,
            logit_rows_max: logit_rows_max(options),
            tables_max: tables_max(plan, running_max, block_size),
        };
        let blocks_max = at_most(plan.kv.blocks_max, options.kv_blocks_max);
        let blocks_limit = plan.kv.blocks.min(blocks_max);
        let mut scheduler = scheduler(plan, options, (blocks_limit, blocks_max))?;
        let kv = device.alloc_kv(kv_spec(config, (plan, options), blocks_max))?;
        let block_bytes = device.kv_block_bytes(kv);
        let identity = identity(file, config, (options.limits.kv_dtype, block_size))?;
        let tier = match &options.tier {
            Some(tier) => Some(tier::open(tier, identity, block_bytes, &mut scheduler)?),
            None => None,
        };
        let shape = StepShape {
            tokens_max: batch.tokens_max,
            sequences_max: batch.sequences_max,
            logit_rows_max: batch.logit_rows_max,
            tables_max: batch.tables_max,
        };
        let model = kvist_model::load(file, &mut device, shape, &placement(plan))?;
        let pool = PoolShape {
            block_size,
            blocks_limit,
        };
        let memory = Memory {
            plan: plan.clone(),
            blocks_max,
            block: vec![0; if tier.is_some() { block_bytes } else { 0 }],
            manifest: tier.as_ref().and_then(|opened| opened.manifest.clone()),
            tier: tier.map(|opened| opened.store),
            congested: Vec::new(),
            costs: Costs::default(),
            idle: IdleRelease::new(options.kv_idle_release),
        };
        Ok(Self {
            device,
            model,
            kv,
            scheduler,
            batch,
            pool,
            memory,
            speculator: None,
            draft_memory: None,
            identity,
        })
    }

    /// Sets up speculation, and loads the model that drafts if there is one.
    pub(crate) fn speculate(
        &mut self,
        file: &GgufFile,
        draft: Option<&DraftFile>,
        (speculation, limits): (Option<Speculation>, &Limits),
    ) -> Result<(), LoadError> {
        let Some(speculation) = speculation else {
            return Ok(());
        };
        let sizes = limits.draft_sizes(self.model.config().context_max);
        let drafter = match (draft, sizes) {
            (Some(draft), Some(sizes)) => {
                let tokens = file.metadata().require_strings("tokenizer.ggml.tokens")?;
                let served = (&self.device, tokens.len());
                let drafter = Drafter::load(draft, served, (sizes, limits))?;
                draft.file.release()?;
                self.draft_memory = Some(drafter.memory());
                Some(drafter)
            }
            _ => None,
        };
        self.speculator = Some(Speculator::new(speculation, &self.memory.plan, drafter));
        Ok(())
    }

    pub(crate) fn shared_parts(
        &mut self,
        file: &GgufFile,
        basis: PlanBasis,
        (in_flight_max, waiting_tokens_max): (usize, u64),
    ) -> Result<SharedParts, LoadError> {
        let spec = vocab_spec(file.metadata())?;
        let template = chat_template(file.metadata(), &spec)?;
        let tokenizer = kvist_text::from_vocab(spec)?;
        let plan = self.memory.plan.clone();
        let caps = self.device.caps();
        let info = ModelInfo {
            name: basis.shape.name.clone(),
            architecture: basis.shape.architecture.clone(),
            vocab_len: tokenizer.vocab_len(),
            model_len: plan.model_len,
            has_chat_template: template.is_some(),
            fingerprint: self.identity.fingerprint(),
            isa: caps.isa,
            threads: caps.threads,
            plan: plan.clone(),
        };
        let mut ledger = Ledger::new(&plan);
        charge(&mut ledger, &self.device.memory())?;
        if let Some(memory) = &self.draft_memory {
            charge_draft(&mut ledger, memory)?;
        }
        let kv = KvReport {
            block_size: self.pool.block_size.0,
            ..KvReport::default()
        };
        Ok(SharedParts {
            info,
            basis,
            tokenizer,
            template,
            pool: self.pool,
            memory: MemoryView { plan, ledger, kv },
            in_flight_max,
            waiting_tokens_max,
        })
    }

    pub(crate) fn into_core(self, shared: Arc<Shared>) -> Core {
        Core {
            scheduler: self.scheduler,
            device: Box::new(self.device),
            model: self.model,
            kv: self.kv,
            sampler: Sampler::new(shared.tokenizer.vocab_len()),
            tokenizer: Arc::clone(&shared.tokenizer),
            live: std::collections::BTreeMap::new(),
            batch: BatchScratch::new(self.batch),
            speculator: self.speculator,
            memory: self.memory,
            faults_in_a_row: 0,
            shared,
        }
    }
}

/// Rows of a step that have logits, at most: as many as the plan counts.
fn logit_rows_max(options: &EngineOptions) -> usize {
    usize::try_from(options.plan_limits().logit_rows()).unwrap_or(usize::MAX)
}

fn scheduler(
    plan: &Plan,
    options: &EngineOptions,
    (blocks_limit, blocks_max): (Blocks, Blocks),
) -> Result<Scheduler, LoadError> {
    let running_max = options.limits.running_max as usize;
    Ok(Scheduler::new(SchedulerConfig {
        block_size: options.limits.block_size,
        blocks_limit,
        blocks_max,
        running_max,
        waiting_max: running_max + options.waiting_max,
        step_tokens_max: options.limits.step_tokens_max,
        chunk_max: options.chunk_max,
        draft_max: options.draft_max(),
        model_len_max: plan.model_len,
        prefix_caching: options.prefix_caching,
        partial_hits: options.prefix_caching,
        tier_slots: plan.kv.tier_slots.0,
        admission: options.admission,
        fairness: options.fairness,
        watermark: Blocks(blocks_limit.0 / 100),
    })?)
}

/// The layers that the plan streams.
fn placement(plan: &Plan) -> Placement {
    Placement {
        streamed_layers: plan.offload.layers.clone(),
    }
}

fn kv_spec(
    config: &DecoderConfig,
    (plan, options): (&Plan, &EngineOptions),
    blocks_max: Blocks,
) -> KvSpec {
    KvSpec {
        blocks: blocks_max.len(),
        block_size: options.limits.block_size.len(),
        layers: config.layers,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        dtype: options.limits.kv_dtype,
        readers: KvReaders {
            heads: config.heads,
            tokens_max: options.limits.step_tokens_max.len(),
            context_max: plan.model_len.len(),
        },
    }
}

fn at_most(blocks: Blocks, max: Option<Blocks>) -> Blocks {
    max.map_or(blocks, |max| blocks.min(max))
}

/// Entries all block tables of a step can have: no more than each running sequence at full length.
/// Tables may share blocks, so the pool alone is no bound.
fn tables_max(plan: &Plan, running_max: usize, block_size: Tokens) -> usize {
    plan.model_len
        .div_ceil(block_size)
        .len()
        .saturating_mul(running_max)
}
