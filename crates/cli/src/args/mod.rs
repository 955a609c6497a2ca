//! The command line. Every flag is parsed here and nowhere else; ranges are checked by the rooms
//! the values go to.

mod bench;
mod compute;
mod duration;
mod http;
mod limits;
mod memory;
mod perplexity;
mod sampling;
mod serve;
mod speculation;
mod structured;
mod tier;
mod tokens;
mod what_if;

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::catalogue::{CATALOGUE, DEFAULT_MODEL};
use crate::exit::Exit;
use crate::pull::Network;

pub use bench::BenchArgs;
pub use compute::ComputeArgs;
pub use duration::After;
pub use http::HttpArgs;
pub use limits::{BatchArgs, KvCacheDtype, LoadMode, MemoryArgs};
pub use memory::{MemoryChange, MemoryCommandArgs};
pub use perplexity::PerplexityArgs;
pub use sampling::SamplingArgs;
pub use serve::{AdmissionArg, FairShareArg, PrefixCaching, ServeArgs};
pub use speculation::{SpeculationArgs, SpeculativeArg, SpeculativeConfig};
pub use structured::StructuredArgs;
pub use tier::DirSize;
pub use tokens::{ContextLen, parse_tokens};
pub use what_if::{Scheme, WhatIfArgs};

const EXAMPLES: &str = "\
Examples:
  kvist serve                          serve the default model at http://127.0.0.1:8000/v1
  kvist serve model.gguf --port 9000   serve a file
  kvist memory set 3GiB                let a running server hold this much
  kvist run -p \"Why is the sky blue?\"  one answer
  kvist chat                           a conversation in the terminal
  kvist plan model.gguf --memory 6GiB  does it fit, and with how much context?";

/// Serve large language models in the memory you choose.
#[derive(Debug, Parser)]
#[command(
    name = "kvist",
    version,
    before_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true,
    propagate_version = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much of the log to print on standard error.
    #[arg(long, global = true, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Warn)]
    pub log: LogLevel,
    /// What its lines look like.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, hide_short_help = true)]
    pub log_format: LogFormat,
}

/// What lines of the log look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object each, for collectors.
    Json,
}

/// How much of the log to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one or more models over the OpenAI API.
    Serve(Box<ServeArgs>),
    /// Answer one prompt and end.
    Run(RunArgs),
    /// Talk with a model in the terminal.
    Chat(ChatArgs),
    /// Show where every byte would go, from the file's header alone.
    Plan(PlanArgs),
    /// Show what a model file holds.
    Inspect(InspectArgs),
    /// Show where the memory of a running server is, or change how much it may have.
    Memory(MemoryCommandArgs),
    /// Measure how fast a model runs on this machine.
    Bench(BenchArgs),
    /// Measure how well a model predicts a text.
    Perplexity(PerplexityArgs),
    /// Download a model and print its path.
    Pull(PullArgs),
    /// Print a completion script for a shell.
    #[command(before_help = "\
Examples:
  kvist completions bash > ~/.local/share/bash-completion/completions/kvist
  kvist completions zsh > ~/.zfunc/_kvist")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

impl Cli {
    /// The command line of this process. Ends the process with exit code 2 when it is wrong, and
    /// with 0 after printing help or version.
    pub fn of_process() -> Self {
        let matches = command().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

#[cfg(test)]
impl Cli {
    /// The command of a line that is known to be right.
    pub(crate) fn parse_for_test(line: &str) -> Command {
        Self::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
    }
}

/// The whole command line as clap sees it.
pub fn command() -> clap::Command {
    Cli::command().after_long_help(Exit::help_table())
}

fn model_help() -> String {
    let mut help = String::from(
        "A GGUF file, a folder with one, hf:OWNER/NAME[:FILE], or a name from the catalogue",
    );
    help.push_str(&format!(" [default: {}]", DEFAULT_MODEL.name));
    help
}

/// Which model.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelArgs {
    #[doc = "Which model."]
    #[arg(value_name = "MODEL", help = model_help())]
    pub model: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)] // its fields are documented
    pub network: NetworkArgs,
}

/// Whether to download.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct NetworkArgs {
    /// Download nothing: a model that is not on the disk is an error.
    #[arg(long)]
    pub offline: bool,
}

impl NetworkArgs {
    /// The same as a value that says what it means.
    pub fn network(self) -> Network {
        if self.offline {
            Network::Offline
        } else {
            Network::Allowed
        }
    }
}

/// Answer one prompt and end.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist run -p \"Why is the sky blue? One sentence.\"
  kvist run model.gguf -p \"Once upon a time\" --raw -n 100
  git diff | kvist run -p - --system \"Summarise this change.\"")]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// The prompt; `-` reads standard input, as does leaving it out when that is not a terminal.
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Instructions ahead of the prompt.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the prompt as it is, without the model's chat template.
    #[arg(long)]
    pub raw: bool,
    /// Most tokens to produce [default: as many as the context holds].
    #[arg(short = 'n', long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub max_tokens: Option<kvist_base::Tokens>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub speculation: SpeculationArgs,
}

/// Talk with a model in the terminal.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist chat
  kvist chat model.gguf --system \"Answer in French.\"

In the conversation: /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")]
pub struct ChatArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Instructions ahead of the conversation.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of one answer [default: as many as the context holds].
    #[arg(short = 'n', long, value_name = "TOKENS", value_parser = parse_tokens)]
    pub max_tokens: Option<kvist_base::Tokens>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub speculation: SpeculationArgs,
}

/// Show where every byte would go, from the file's header alone.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist plan model.gguf
  kvist plan model.gguf --memory 6GiB --max-model-len 16k
  kvist plan model.gguf --json | jq .plan.total
  kvist plan path/to/config.json --quantize gptq --device-memory 24GiB --devices 2

Plans GGUF files, and folders of the Hugging Face hub given by themselves or by their config.json.
Ends with exit code 78 when the model does not fit.")]
pub struct PlanArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub what_if: WhatIfArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub batch: BatchArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub speculation: SpeculationArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub structured: StructuredArgs,
}

/// Show what a model file holds.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist inspect model.gguf
  kvist inspect model.gguf --tensors
  kvist inspect model.gguf --json --tensors | jq '.tensors[0]'")]
pub struct InspectArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn pull_help() -> String {
    let names: Vec<String> = CATALOGUE
        .iter()
        .map(|entry| format!("{} ({})", entry.name, entry.about))
        .collect();
    format!("hf:OWNER/NAME[:FILE], or one of: {}", names.join("; "))
}

/// Download a model and print its path.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist pull smollm2-135m
  kvist pull hf:OWNER/NAME-GGUF:Q4_K_M
  kvist serve \"$(kvist pull hf:OWNER/NAME-GGUF:file.gguf)\"")]
pub struct PullArgs {
    #[doc = "Which model."]
    #[arg(value_name = "NAME", help = pull_help())]
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub network: NetworkArgs,
}

/// Keys from flags and files together.
#[derive(Args, Clone, Default)]
pub struct ApiKeyArgs {
    /// A key clients must send; may be given several times. Other users of this machine can see
    /// it in the process list: prefer --api-key-file.
    #[arg(long, value_name = "KEY")]
    pub api_key: Vec<String>,
    /// A file with one key a line.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
}

impl std::fmt::Debug for ApiKeyArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys are secrets.
        f.debug_struct("ApiKeyArgs")
            .field("count", &self.api_key.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
