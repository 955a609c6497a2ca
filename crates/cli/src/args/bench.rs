//! `kvist bench`.

use clap::Args;

use super::{ComputeArgs, MemoryArgs, ModelArgs};

/// Measure how fast a model runs on this machine.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  kvist bench
  kvist bench model.gguf -p 128,512 -n 128 --batch 1,4,16
  kvist bench model.gguf -p 512 -n 64 --batch 1 --depth 0,4096
  kvist bench model.gguf --json > result.json

Each test runs at each depth. A prompt's test is ppN, one of output tgN, of B sequences tgN @ B,
and behind D tokens of context ... dD.")]
pub struct BenchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub model: ModelArgs,
    /// Lengths of prompts that are computed; 0 skips this test.
    #[arg(
        short = 'p',
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "512"
    )]
    pub prompt_tokens: Vec<u32>,
    /// Tokens produced; 0 skips this test.
    #[arg(
        short = 'n',
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "128"
    )]
    pub output_tokens: Vec<u32>,
    /// Sequences that produce tokens at once, one test for each number.
    #[arg(
        long,
        value_name = "COUNT",
        value_delimiter = ',',
        default_value = "1,4,16"
    )]
    pub batch: Vec<u32>,
    /// Tokens of each sequence that are computed beforehand and not timed.
    #[arg(
        short = 'd',
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "0"
    )]
    pub depth: Vec<u32>,
    /// How often each test is run; the median counts.
    #[arg(short, long, value_name = "COUNT", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,
    /// Count the first run of each test, too: for large models, whose runs take long.
    #[arg(long)]
    pub no_warmup: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub compute: ComputeArgs,
}
