//! Flags that bound memory and work. Their names are vLLM's where the meaning is.

use clap::{Args, ValueEnum};
use kvist_base::{Bytes, KvDtype, Tokens};
use kvist_plan::{Limits, Machine, MemoryLimit, Offload};

use super::tokens::ContextLen;
use crate::error::CliError;
use crate::exit::Exit;

/// What bounds memory, whatever the command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// Most memory the process may hold, such as 6GiB [default: 0.9 of what there is].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// The same as a share of the machine's memory, or of the container's. The name is vLLM's.
    #[arg(long, value_name = "SHARE")]
    pub gpu_memory_utilization: Option<f64>,
    /// Longest sequence, prompt and output: tokens, 16k for 16384, or auto for what fits.
    #[arg(
        long,
        visible_alias = "ctx",
        value_name = "TOKENS",
        default_value = "auto"
    )]
    pub max_model_len: ContextLen,
    /// Exact size of the KV pool, such as 512MiB [default: what the budget leaves].
    #[arg(long, value_name = "SIZE")]
    pub kv_cache_memory_bytes: Option<Bytes>,
    /// How the KV cache stores values.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = KvCacheDtype::Auto)]
    pub kv_cache_dtype: KvCacheDtype,
    /// Keep only the layers in memory that fit, and stream the others from the file in every step.
    #[arg(long)]
    pub offload_weights: bool,
    /// Stream at least this much of the weights, in GiB. The name is vLLM's.
    #[arg(long, value_name = "GIB", value_parser = parse_gib, hide_short_help = true)]
    pub cpu_offload_gb: Option<Bytes>,
    /// Where the weights are while the model is served.
    #[arg(long, value_enum, value_name = "MODE", default_value_t = LoadMode::Copy,
          hide_short_help = true)]
    pub load: LoadMode,
    /// Compute threads [default: one for each core that affinity and control groups allow, of one
    /// memory node].
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<u32>,
}

/// What bounds the work done at once.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Batching")]
pub struct BatchArgs {
    /// Most sequences that run at once.
    #[arg(long, visible_alias = "max-batch-size", value_name = "COUNT",
          default_value_t = Limits::default().running_max)]
    pub max_num_seqs: u32,
    /// Most tokens one step computes.
    #[arg(long, value_name = "TOKENS", default_value_t = Limits::default().step_tokens_max.0)]
    pub max_num_batched_tokens: u32,
    /// Tokens of a KV block.
    #[arg(long, value_name = "TOKENS", default_value_t = Limits::default().block_size.0)]
    pub block_size: u32,
}

/// How the KV cache stores values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvCacheDtype {
    /// The best there is for the model: f16.
    Auto,
    /// Half precision.
    #[value(alias = "fp16")]
    F16,
    /// Half precision with the range of single precision.
    #[value(alias = "bfloat16")]
    Bf16,
    /// 8 bits and a scale for 32 values: about half of f16's memory.
    #[value(name = "q8_0", aliases = ["q8", "int8"])]
    Q8_0,
    /// Single precision, for comparisons with references.
    #[value(alias = "fp32")]
    F32,
}

/// Where weights are while a model is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// In memory, in the layout that computes fastest.
    Copy,
    /// In the file: every step reads all layers from it.
    Mmap,
}

/// Gibibytes, such as 1.5.
fn parse_gib(text: &str) -> Result<Bytes, String> {
    let gib: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    // Beyond any address space; below it the product is exact enough and fits.
    if !(0.0..=1e9).contains(&gib) {
        return Err("must be between 0 and 1000000000".to_owned());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked above
    let bytes = (gib * Bytes::GIB.0 as f64) as u64;
    Ok(Bytes(bytes))
}

impl KvCacheDtype {
    pub(crate) fn dtype(self) -> KvDtype {
        match self {
            Self::Auto => KvDtype::default(),
            Self::F16 => KvDtype::F16,
            Self::Bf16 => KvDtype::BF16,
            Self::Q8_0 => KvDtype::Q8_0,
            Self::F32 => KvDtype::F32,
        }
    }
}

impl MemoryArgs {
    /// The limits of a command that runs one sequence at a time.
    ///
    /// # Errors
    /// When two flags contradict each other.
    pub fn limits_for_one(&self, machine: &Machine) -> Result<Limits, CliError> {
        Ok(Limits {
            running_max: 1,
            ..self.with_defaults(machine)?
        })
    }

    /// The limits of a command that runs batches.
    ///
    /// # Errors
    /// When two flags contradict each other.
    pub fn limits(&self, batch: &BatchArgs, machine: &Machine) -> Result<Limits, CliError> {
        Ok(Limits {
            running_max: batch.max_num_seqs,
            step_tokens_max: Tokens(batch.max_num_batched_tokens),
            block_size: Tokens(batch.block_size),
            ..self.with_defaults(machine)?
        })
    }

    fn offload(&self) -> Offload {
        let least = self.cpu_offload_gb.filter(|bytes| *bytes > Bytes::ZERO);
        match (self.load, least) {
            (LoadMode::Mmap, _) => Offload::All,
            (LoadMode::Copy, Some(least)) => Offload::AtLeast(least),
            (LoadMode::Copy, None) if self.offload_weights => Offload::Auto,
            (LoadMode::Copy, None) => Offload::Off,
        }
    }

    fn with_defaults(&self, machine: &Machine) -> Result<Limits, CliError> {
        let defaults = Limits::default();
        let model_len = match self.max_model_len {
            ContextLen::Auto => None,
            ContextLen::Tokens(len) => Some(len),
        };
        Ok(Limits {
            memory: self.memory_limit()?.unwrap_or(defaults.memory),
            model_len,
            kv_cache: self.kv_cache_memory_bytes,
            offload: self.offload(),
            kv_dtype: self.kv_cache_dtype.dtype(),
            threads: self.threads.unwrap_or(machine.cores),
            ..defaults
        })
    }

    /// The one flag that sets the budget.
    fn memory_limit(&self) -> Result<Option<MemoryLimit>, CliError> {
        match (self.memory, self.gpu_memory_utilization) {
            (Some(bytes), Some(share)) => {
                let what = format!(
                    "--memory {bytes} and --gpu-memory-utilization {share} both set the budget"
                );
                Err(CliError::new(Exit::Usage, what)
                    .because("the first is a size, the second a share of the memory there is")
                    .fix("give one of them"))
            }
            (Some(bytes), None) => Ok(Some(MemoryLimit::Absolute(bytes))),
            (None, share) => Ok(share.map(MemoryLimit::Fraction)),
        }
    }
}
