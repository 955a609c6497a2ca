//! Whether tokens are guessed ahead.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kvist_base::Tokens;
use kvist_engine::Speculation;
use serde::Deserialize;

use super::NetworkArgs;
use crate::environment::Environment;
use crate::error::CliError;
use crate::model_ref;

/// Tokens of a draft where none are asked for by number.
const TOKENS_DEFAULT: u32 = 5;

/// Whether tokens are guessed ahead, and how.
#[derive(Args, Clone, Debug)]
pub struct SpeculationArgs {
    /// Guess tokens ahead by looking up what followed the last ones before: the output stays the
    /// same, texts that repeat themselves come faster. With --draft also by asking that model.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "auto",
        hide_short_help = true
    )]
    pub speculative: SpeculativeArg,
    /// A second, smaller model with the same vocabulary: guesses what nothing can be looked up for.
    /// A file, a folder, hf:OWNER/NAME[:FILE] or a name, as for the model itself.
    #[arg(
        long,
        value_name = "MODEL",
        conflicts_with = "speculative_config",
        hide_short_help = true
    )]
    pub draft: Option<String>,
    /// The same as vLLM spells it, as in
    /// {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4} or
    /// {"method": "draft_model", "model": "small.gguf", "num_speculative_tokens": 5}.
    #[arg(
        long,
        value_name = "JSON",
        value_parser = parse_config,
        conflicts_with = "speculative",
        hide_short_help = true
    )]
    pub speculative_config: Option<SpeculativeConfig>,
}

/// What `--speculative-config` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeculativeConfig {
    speculation: Speculation,
    draft: Option<String>,
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
    method: Option<String>,
    model: Option<String>,
    num_speculative_tokens: Option<u32>,
    prompt_lookup_max: Option<u32>,
    prompt_lookup_min: Option<u32>,
}

impl SpeculationArgs {
    /// What the engine is told.
    pub fn speculation(&self) -> Option<Speculation> {
        let config = self.speculative_config.as_ref();
        config
            .map(|config| config.speculation)
            .or(match self.speculative {
                SpeculativeArg::Auto => Some(Speculation::adaptive()),
                SpeculativeArg::Ngram => Speculation::fixed(TOKENS_DEFAULT, (None, None)).ok(),
                SpeculativeArg::Off => None,
            })
    }

    /// The file of the model that drafts.
    pub(crate) fn draft(
        &self,
        network: NetworkArgs,
        environment: &Environment,
    ) -> Result<Option<PathBuf>, CliError> {
        let config = self.speculative_config.as_ref();
        let named = self
            .draft
            .as_ref()
            .or(config.and_then(|config| config.draft.as_ref()));
        named
            .map(|name| model_ref::resolve_text(Some(name.as_str()), network, environment))
            .transpose()
    }

    /// Most draft tokens of a step, as planned for.
    pub fn draft_max(&self) -> Tokens {
        let speculation = self.speculation();
        speculation.map_or(Tokens::ZERO, |speculation| speculation.step_max)
    }
}

fn parse_config(text: &str) -> Result<SpeculativeConfig, String> {
    let config: Config = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let tokens = config.num_speculative_tokens.unwrap_or(TOKENS_DEFAULT);
    let lookup = (config.prompt_lookup_min, config.prompt_lookup_max);
    // As vLLM does, a model without a method is one that drafts.
    let method = match (config.method, &config.model) {
        (Some(method), _) => method,
        (None, Some(_)) => "draft_model".to_owned(),
        (None, None) => return Err("missing field `method`".to_owned()),
    };
    match (&*method, &config.model) {
        ("ngram", None) | ("draft_model", Some(_)) => {}
        ("ngram", Some(_)) => return Err("method \"ngram\" takes no model".to_owned()),
        ("draft_model", None) => return Err("method \"draft_model\" needs a model".to_owned()),
        _ => {
            let known = "\"ngram\" or \"draft_model\"";
            return Err(format!("method must be {known}, not \"{method}\""));
        }
    }
    if method == "draft_model" && lookup != (None, None) {
        return Err("prompt_lookup_min and prompt_lookup_max are for method \"ngram\"".to_owned());
    }
    let speculation = Speculation::fixed(tokens, lookup).map_err(|error| error.to_string())?;
    let draft = config.model;
    Ok(SpeculativeConfig { speculation, draft })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_vllm_is_understood_or_refused_by_name() {
        let of = |tokens, lookup_max, draft: Option<&str>| {
            Ok(SpeculativeConfig {
                speculation: Speculation::fixed(tokens, (None, lookup_max)).unwrap(),
                draft: draft.map(str::to_owned),
            })
        };
        let both = r#"{"method": "ngram", "num_speculative_tokens": 7, "prompt_lookup_max": 4}"#;
        assert_eq!(parse_config(both), of(7, Some(4), None));
        assert_eq!(parse_config(r#"{"method": "ngram"}"#), of(5, None, None));
        for method in [r#""method": "draft_model", "#, ""] {
            let text = format!(r#"{{{method}"model": "x", "num_speculative_tokens": 3}}"#);
            assert_eq!(parse_config(&text), of(3, None, Some("x")));
        }
        for (text, reason) in [
            (
                r#"{"method": "eagle"}"#,
                "method must be \"ngram\" or \"draft_model\", not \"eagle\"",
            ),
            (
                r#"{"method": "ngram", "model": "x"}"#,
                "method \"ngram\" takes no model",
            ),
            (
                r#"{"method": "draft_model"}"#,
                "method \"draft_model\" needs a model",
            ),
            (
                r#"{"model": "x", "prompt_lookup_max": 4}"#,
                "are for method \"ngram\"",
            ),
            (
                r#"{"model": "x", "draft_tensor_parallel_size": 1}"#,
                "unknown field `draft_tensor_parallel_size`",
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
                draft: None,
                speculative_config: None,
            };
            args.draft_max().0
        };
        assert_eq!(rows(SpeculativeArg::Off), 0);
        assert_eq!(rows(SpeculativeArg::Auto), 16);
        assert_eq!(rows(SpeculativeArg::Ngram), 16);
    }
}
