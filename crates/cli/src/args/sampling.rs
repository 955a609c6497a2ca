//! Flags that say how tokens are chosen.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use kvist_base::mix64;
use kvist_engine::SamplingSpec;

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token; up to 2 is ever more varied.
    #[arg(long, value_name = "NUMBER", default_value_t = 0.7)]
    pub temperature: f32,
    /// Keep the likeliest tokens whose probabilities reach this sum.
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep so many of the likeliest tokens; 0 keeps all.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub top_k: u32,
    /// Keep tokens at least this many times as likely as the likeliest.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub min_p: f32,
    /// Make tokens of the prompt and the output less likely; 1 is off.
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Make tokens that occur in the output less likely.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub presence_penalty: f32,
    /// The same, once for each occurrence.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub frequency_penalty: f32,
    /// The same seed gives the same output [default: another one each time].
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// A text at which the output ends; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// The flags as the engine takes them. Without `--seed` the clock picks one, which the report
    /// names, so that any answer can be had again.
    pub fn spec(&self) -> SamplingSpec {
        SamplingSpec {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed.unwrap_or_else(seed_of_clock),
            ..SamplingSpec::default()
        }
    }
}

/// A seed of at most ten digits: people copy it from the screen.
fn seed_of_clock() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    #[allow(clippy::cast_possible_truncation)] // any bits of the clock will do
    let nanos = now.as_nanos() as u64;
    mix64(nanos) % 10_000_000_000
}
