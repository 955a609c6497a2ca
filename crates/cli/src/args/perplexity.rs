//! `kvist perplexity`.

use std::path::PathBuf;

use clap::Args;

use super::limits::KvCacheDtype;
use super::{ComputeArgs, ModelArgs};

/// Measure how well a model predicts a text: lower is better.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist perplexity model.gguf -f text.txt
  kvist perplexity model.gguf -f text.txt -c 1024 --json | jq .perplexity

Comparable with llama-perplexity on the same file, text and context.")]
pub struct PerplexityArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// The text, in UTF-8; at least two windows long.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Tokens of a window. Each window's second half is scored, given all before it in the window.
    #[arg(short, long, value_name = "TOKENS", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(4..))]
    pub ctx_size: u32,
    /// How the KV cache stores values.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = KvCacheDtype::Auto)]
    pub kv_cache_dtype: KvCacheDtype,
    /// Compute threads [default: as many as the process may use cores].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub compute: ComputeArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
