//! `kvist serve`.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use kvist_base::Tokens;
use kvist_engine::{Admission, Fairness, ReasoningFormat, TierOptions, ToolFormat, UnknownFormat};
use kvist_server::{FairShare, ParserChoice, Parsers};

use super::{
    After, ApiKeyArgs, BatchArgs, ComputeArgs, DirSize, HttpArgs, MemoryArgs, NetworkArgs,
    SpeculationArgs, StructuredArgs, model_help, parse_tokens,
};

/// Serve one or more models over the OpenAI API.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist serve
  kvist serve model.gguf --memory 6GiB --max-model-len 16k
  kvist serve model.gguf --host 0.0.0.0 --api-key-file keys.txt
  kvist serve small.gguf large.gguf --memory 4GiB --idle-unload 5m

Ctrl-C or SIGTERM finishes what runs and stops; a second one stops at once.")]
pub struct ServeArgs {
    #[doc = "Which models; requests choose by name, and get the first if they name none."]
    #[arg(value_name = "MODEL", help = models_help())]
    pub models: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub network: NetworkArgs,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 picks a free one.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Names clients may ask for the first model by; answers carry the first [default: its own].
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub served_model_name: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: ApiKeyArgs,
    /// Refuse requests with fields that kvist does not know, instead of naming them in a response header.
    #[arg(long, hide_short_help = true)]
    pub strict: bool,
    /// Serve other machines without a key.
    #[arg(long, hide_short_help = true)]
    pub insecure_no_auth: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub batch: BatchArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub speculation: SpeculationArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub structured: StructuredArgs,
    /// Most requests that wait for their turn; more are answered with 429.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 256,
        help_heading = "Batching",
        hide_short_help = true
    )]
    pub max_waiting: usize,
    /// Most prompt tokens that wait for their turn; requests beyond are answered with 429.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 1 << 20,
        help_heading = "Batching",
        hide_short_help = true
    )]
    pub max_waiting_tokens: u64,
    /// When a waiting request is let in.
    #[arg(
        long,
        value_enum,
        default_value_t = AdmissionArg::Optimistic,
        help_heading = "Batching",
        hide_short_help = true
    )]
    pub admission: AdmissionArg,
    /// Between whom the work is shared fairly.
    #[arg(
        long,
        value_enum,
        default_value_t = FairShareArg::Off,
        help_heading = "Batching",
        hide_short_help = true
    )]
    pub fair_share: FairShareArg,
    /// Output of a request that does not say how much it wants [default: what fits; 16 for plain
    /// completions].
    #[arg(
        long,
        value_name = "TOKENS",
        value_parser = parse_tokens,
        help_heading = "Batching",
        hide_short_help = true
    )]
    pub max_tokens: Option<Tokens>,
    /// Give cached and free KV memory back to the system after so long without a request, or off.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        help_heading = "Memory",
        hide_short_help = true
    )]
    pub kv_idle_release: After,
    /// Put KV blocks that the pool has no room for into a file in DIR, of each model at most SIZE,
    /// and read them back when that is quicker than computing them. The file ends with the process.
    #[arg(
        long,
        value_name = "DIR:SIZE",
        help_heading = "Memory",
        hide_short_help = true
    )]
    pub kv_spill: Option<DirSize>,
    /// The same, and keep the file: prefixes are still known after a restart.
    #[arg(
        long,
        value_name = "DIR:SIZE",
        help_heading = "Memory",
        conflicts_with = "kv_spill",
        hide_short_help = true
    )]
    pub prefix_cache_dir: Option<DirSize>,
    /// With several models: unload one that no request has used for so long, or off.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "off",
        help_heading = "Memory"
    )]
    pub idle_unload: After,
    /// How models write tool calls: auto by what their chat template shows, none, hermes,
    /// llama3_json, mistral, deepseek, glm, kimi, qwen3_coder, json.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        value_parser = parse_format::<ToolFormat>,
        hide_short_help = true
    )]
    pub tool_call_parser: ParserChoice<ToolFormat>,
    /// How models mark their reasoning: auto by what their chat template shows, none, think,
    /// deepseek_r1, mistral, seed_oss.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "auto",
        value_parser = parse_format::<ReasoningFormat>,
        hide_short_help = true
    )]
    pub reasoning_parser: ParserChoice<ReasoningFormat>,
    /// What requests without a seed of their own draw theirs from [default: the time].
    #[arg(long, value_name = "SEED", hide_short_help = true)]
    pub seed: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub prefix_caching: PrefixCaching,
    // Last: its heading would go on over what follows.
    #[command(flatten)]
    #[allow(missing_docs)]
    pub http: HttpArgs,
}

/// When a waiting request is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AdmissionArg {
    /// When its prompt fits; the newest give way when memory runs out, and go on later.
    Optimistic,
    /// When it fits at its longest; nobody gives way.
    Guaranteed,
}

/// Between whom the work is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FairShareArg {
    /// Nobody: first come, first served.
    Off,
    /// The users that requests name in `user`.
    User,
    /// The API keys.
    Key,
}

impl AdmissionArg {
    /// The engine's word for it.
    pub fn admission(self) -> Admission {
        match self {
            Self::Optimistic => Admission::Optimistic,
            Self::Guaranteed => Admission::Guaranteed,
        }
    }
}

impl FairShareArg {
    /// The engine's word for it.
    pub fn fairness(self) -> Fairness {
        match self {
            Self::Off => Fairness::Arrival,
            Self::User | Self::Key => Fairness::Tenants,
        }
    }

    /// The server's word for it.
    pub fn fair_share(self) -> FairShare {
        match self {
            Self::Off => FairShare::Off,
            Self::User => FairShare::User,
            Self::Key => FairShare::Key,
        }
    }
}

/// A format by its name, or how it is found.
fn parse_format<F: FromStr<Err = UnknownFormat>>(
    name: &str,
) -> Result<ParserChoice<F>, UnknownFormat> {
    match name {
        "auto" => Ok(ParserChoice::Detect),
        "none" => Ok(ParserChoice::Off),
        name => name.parse().map(ParserChoice::Use),
    }
}

impl ServeArgs {
    /// How outputs are told apart.
    pub fn parsers(&self) -> Parsers {
        Parsers {
            tools: self.tool_call_parser,
            reasoning: self.reasoning_parser,
        }
    }

    /// The second tier of the KV cache, if there is to be one.
    pub fn tier(&self) -> Option<TierOptions> {
        let tier = |DirSize { dir, bytes }: &DirSize, keeps| TierOptions {
            dir: dir.clone(),
            bytes: *bytes,
            keeps,
        };
        let kept = self.prefix_cache_dir.as_ref().map(|dir| tier(dir, true));
        kept.or_else(|| self.kv_spill.as_ref().map(|dir| tier(dir, false)))
    }
}

fn models_help() -> String {
    let mut help = model_help();
    help.push_str(". Several share the memory, and are loaded when they are asked for");
    help
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
    #[arg(
        long,
        overrides_with = "no_prefix_caching",
        help_heading = "Batching",
        hide_short_help = true
    )]
    pub enable_prefix_caching: bool,
}

impl PrefixCaching {
    /// Whether it is on: of the two flags the last one counts.
    pub fn is_on(self) -> bool {
        !self.no_prefix_caching
    }
}
