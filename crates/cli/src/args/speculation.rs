//! Whether tokens are guessed ahead.

use clap::{Args, ValueEnum};
use kvist_base::Tokens;
use kvist_engine::Speculation;
use serde::Deserialize;

/// Tokens of a draft where none are asked for by number.
const TOKENS_DEFAULT: u32 = 5;

/// Whether tokens are guessed ahead, and how.
#[derive(Args, Clone, Copy, Debug)]
pub struct SpeculationArgs {
    /// Guess tokens ahead by looking up what followed the last ones before: the output stays the
    /// same, texts that repeat themselves come faster.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "auto",
        hide_short_help = true
    )]
    pub speculative: SpeculativeArg,
    /// The same as vLLM spells it, as in
    /// {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}.
    #[arg(
        long,
        value_name = "JSON",
        value_parser = parse_config,
        conflicts_with = "speculative",
        hide_short_help = true
    )]
    pub speculative_config: Option<Speculation>,
}

/// How tokens are guessed ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpeculativeArg {
    /// As many as pay, as measured: none where guesses are wrong, or steps full.
    Auto,
    /// Up to 5 wherever the last two tokens occurred before.
    Ngram,
    /// None.
    Off,
}

/// vLLM's `--speculative-config`, as far as it has a meaning here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    method: String,
    num_speculative_tokens: Option<u32>,
    prompt_lookup_max: Option<u32>,
    prompt_lookup_min: Option<u32>,
}

impl SpeculationArgs {
    /// What the engine is told.
    pub fn speculation(self) -> Option<Speculation> {
        self.speculative_config.or(match self.speculative {
            SpeculativeArg::Auto => Some(Speculation::adaptive()),
            SpeculativeArg::Ngram => Speculation::fixed(TOKENS_DEFAULT, (None, None)).ok(),
            SpeculativeArg::Off => None,
        })
    }

    /// Most draft tokens of a step, as planned for.
    pub fn draft_max(self) -> Tokens {
        let speculation = self.speculation();
        speculation.map_or(Tokens::ZERO, |speculation| speculation.step_max)
    }
}

fn parse_config(text: &str) -> Result<Speculation, String> {
    let config: Config = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if config.method != "ngram" {
        let method = config.method;
        return Err(format!("method must be \"ngram\", not \"{method}\""));
    }
    let tokens = config.num_speculative_tokens.unwrap_or(TOKENS_DEFAULT);
    let lookup = (config.prompt_lookup_min, config.prompt_lookup_max);
    Speculation::fixed(tokens, lookup).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_vllm_is_understood_or_refused_by_name() {
        let both = r#"{"method": "ngram", "num_speculative_tokens": 7, "prompt_lookup_max": 4}"#;
        assert_eq!(
            parse_config(both),
            Ok(Speculation::fixed(7, (None, Some(4))).unwrap())
        );
        let short = parse_config(r#"{"method": "ngram"}"#);
        assert_eq!(short, Ok(Speculation::fixed(5, (None, None)).unwrap()));
        for (text, reason) in [
            (r#"{"method": "eagle"}"#, "method must be \"ngram\""),
            (
                r#"{"method": "ngram", "model": "x"}"#,
                "unknown field `model`",
            ),
            (
                r#"{"method": "ngram", "num_speculative_tokens": 0}"#,
                "num_speculative_tokens must be between 1 and 64, not 0",
            ),
            (
                r#"{"method": "ngram", "prompt_lookup_max": 1}"#,
                "prompt_lookup_max must be between 2 and 64, not 1",
            ),
            ("ngram", "expected"),
            ("{}", "missing field `method`"),
        ] {
            let error = parse_config(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn every_method_says_how_many_rows_it_needs() {
        let rows = |speculative| {
            let args = SpeculationArgs {
                speculative,
                speculative_config: None,
            };
            args.draft_max().0
        };
        assert_eq!(rows(SpeculativeArg::Off), 0);
        assert_eq!(rows(SpeculativeArg::Auto), 16);
        assert_eq!(rows(SpeculativeArg::Ngram), 16);
    }
}
