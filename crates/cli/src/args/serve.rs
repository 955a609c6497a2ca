//! `kvist serve`.

use clap::Args;

use super::{ApiKeyArgs, BatchArgs, MemoryArgs, ModelArgs};

/// Serve a model over the OpenAI API.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist serve
  kvist serve model.gguf --memory 6GiB --max-model-len 16k
  kvist serve model.gguf --host 0.0.0.0 --api-key-file keys.txt

Ctrl-C or SIGTERM finishes what runs and stops; a second one stops at once.")]
pub struct ServeArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 picks a free one.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Names clients may ask for; answers carry the first [default: the model's own].
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub served_model_name: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: ApiKeyArgs,
    /// Serve other machines without a key.
    #[arg(long)]
    pub insecure_no_auth: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub batch: BatchArgs,
    /// Most requests that wait for their turn; more are answered with 429.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 256,
        help_heading = "Batching"
    )]
    pub max_waiting: usize,
    /// What requests without a seed of their own draw theirs from [default: the time].
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub prefix_caching: PrefixCaching,
}

/// Whether prompts that begin alike share their KV blocks.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct PrefixCaching {
    /// Compute every prompt from its first token.
    #[arg(
        long,
        overrides_with = "enable_prefix_caching",
        help_heading = "Batching"
    )]
    pub no_prefix_caching: bool,
    /// Reuse what prompts have in common; this is the default.
    #[arg(long, overrides_with = "no_prefix_caching", help_heading = "Batching")]
    pub enable_prefix_caching: bool,
}

impl PrefixCaching {
    /// Whether it is on: of the two flags the last one counts.
    pub fn is_on(self) -> bool {
        !self.no_prefix_caching
    }
}
