//! The rules for fields both completion endpoints take.

use kvist_base::{TokenId, Tokens, mix64};
use kvist_engine::{
    EndTokens, GenerateSpec, Prompt, PromptOptions, SamplingSpec, SpecialTokens, StopText,
};

use super::constraint::{Asked, constraint};
use super::{Circumstances, Delivery, StreamUsage, bounded, extras, out_of_range};
use crate::config::FairShare;
use crate::error::ApiError;
use crate::wire::common::{GenerationFields, Integer, LogitBias, OneOrMany, StreamOptions};

/// Longest `cache_salt`, in bytes.
pub(crate) const CACHE_SALT_BYTES_MAX: usize = 256;
/// Stop tokens a request may carry.
pub(crate) const STOP_TOKENS_MAX: usize = 128;

/// A request to the engine, but for its prompt.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) sampling: SamplingSpec,
    pub(crate) prompt_options: PromptOptions,
    pub(crate) bad_words: Vec<String>,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_text: StopText,
    pub(crate) stop_tokens: Vec<TokenId>,
    pub(crate) output_max: Option<Tokens>,
    /// Instead of it where it is `None`; less where there is less room.
    pub(crate) output_default: Option<Tokens>,
    pub(crate) constraint: Option<Asked>,
    pub(crate) end_tokens: EndTokens,
    pub(crate) special_tokens: SpecialTokens,
    /// What the output is told apart by.
    pub(crate) marks: Vec<&'static str>,
    pub(crate) cache_salt: Option<String>,
    pub(crate) priority: i32,
    /// Of each prompt, for the metrics.
    pub(crate) alternatives: u32,
    pub(crate) tenant: Option<String>,
}

impl Settings {
    /// The request for one alternative. The first uses the seed as given, so asking for more
    /// alternatives does not change it; the others use seeds derived from it.
    pub(crate) fn request(&self, prompt: Prompt, choice: usize) -> GenerateSpec {
        let mut sampling = self.sampling.clone();
        if choice > 0 {
            sampling.seed = mix64(sampling.seed ^ mix64(choice as u64));
        }
        GenerateSpec {
            prompt,
            sampling,
            prompt_options: self.prompt_options.clone(),
            bad_words: self.bad_words.clone(),
            stop: self.stop.clone(),
            stop_text: self.stop_text,
            stop_tokens: self.stop_tokens.clone(),
            output_max: self.output_max,
            output_default: self.output_default,
            constraint: self
                .constraint
                .as_ref()
                .map(|asked| asked.constraint.clone()),
            end_tokens: self.end_tokens,
            special_tokens: self.special_tokens,
            marks: self.marks.clone(),
            cache_salt: self.cache_salt.clone(),
            priority: self.priority,
            alternatives: if choice == 0 { self.alternatives } else { 0 },
            tenant: self.tenant.clone(),
        }
    }
}

/// Everything in `fields` but `model`, `n` and the stream; log-probabilities are each endpoint's
/// own.
pub(super) fn settings(
    fields: &mut GenerationFields,
    around: Circumstances<'_>,
) -> Result<Settings, ApiError> {
    let output_max = match fields.max_tokens {
        Some(Integer(given)) => Some(output_max("max_tokens", given)?),
        None => None,
    };
    Ok(Settings {
        sampling: sampling(fields, around)?,
        prompt_options: extras::prompt_options(&fields.extras)?,
        bad_words: extras::bad_words(&fields.extras)?,
        stop: stops(fields.stop.as_ref())?,
        stop_text: match fields.extras.include_stop_str_in_output {
            Some(true) => StopText::Include,
            Some(false) | None => StopText::Omit,
        },
        stop_tokens: match &fields.stop_token_ids {
            Some(ids) => extras::tokens(("stop_token_ids", STOP_TOKENS_MAX), &ids.0, around)?,
            None => Vec::new(),
        },
        output_max,
        output_default: around.output_default,
        constraint: constraint(fields)?,
        end_tokens: match fields.ignore_eos {
            Some(true) => EndTokens::Ignore,
            Some(false) | None => EndTokens::Stop,
        },
        special_tokens: match fields.skip_special_tokens {
            Some(false) => SpecialTokens::Show,
            Some(true) | None => SpecialTokens::Hide,
        },
        marks: Vec::new(),
        cache_salt: cache_salt(fields.cache_salt.as_deref())?,
        priority: match fields.priority {
            None => 0,
            Some(Integer(given)) => bounded("priority", given, i32::MIN..=i32::MAX)?,
        },
        alternatives: choices(fields.n, around).map(|n| u32::try_from(n).unwrap_or(u32::MAX))?,
        tenant: tenant(fields.user.as_deref(), around),
    })
}

/// vLLM's field: requests share prefixes only with those of the same salt.
fn cache_salt(given: Option<&str>) -> Result<Option<String>, ApiError> {
    match given {
        None => Ok(None),
        Some(salt) if (1..=CACHE_SALT_BYTES_MAX).contains(&salt.len()) => Ok(Some(salt.to_owned())),
        Some(salt) => {
            let limit = format!("1 to {CACHE_SALT_BYTES_MAX} bytes long");
            Err(out_of_range("cache_salt", limit, &salt.len()))
        }
    }
}

/// On whose account a request runs. Requests that do not say all run on one.
fn tenant(user: Option<&str>, around: Circumstances<'_>) -> Option<String> {
    match around.fair_share {
        FairShare::Off => None,
        FairShare::User => user.map(str::to_owned),
        FairShare::Key => around.caller.key.map(|key| format!("key {key}")),
    }
}

/// A bound on the output. Whether it fits the context is for the engine to say.
pub(super) fn output_max(field: &'static str, given: i64) -> Result<Tokens, ApiError> {
    bounded(field, given, 1..=u32::MAX).map(Tokens)
}

fn sampling(
    fields: &GenerationFields,
    around: Circumstances<'_>,
) -> Result<SamplingSpec, ApiError> {
    let default = SamplingSpec::default();
    // -1 is how vLLM's clients spell "off".
    let top_k = match fields.top_k {
        None | Some(Integer(-1)) => default.top_k,
        Some(Integer(given)) => bounded("top_k", given, 0..=u32::MAX)?,
    };
    let min_tokens = match fields.min_tokens {
        None => default.min_tokens,
        Some(Integer(given)) => bounded("min_tokens", given, 0..=u32::MAX)?,
    };
    Ok(SamplingSpec {
        temperature: fields.temperature.unwrap_or(default.temperature),
        top_k,
        top_p: fields.top_p.unwrap_or(default.top_p),
        min_p: fields.min_p.unwrap_or(default.min_p),
        repetition_penalty: fields
            .repetition_penalty
            .unwrap_or(default.repetition_penalty),
        presence_penalty: fields.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: fields
            .frequency_penalty
            .unwrap_or(default.frequency_penalty),
        seed: fields
            .seed
            .map_or(around.seed, |Integer(seed)| seed.cast_unsigned()),
        logit_bias: logit_bias(fields.logit_bias.as_ref())?,
        allowed_tokens: extras::allowed_tokens(&fields.extras, around)?,
        bad_words: default.bad_words,
        logprobs: None,
        logprob_tokens: extras::logprob_tokens(&fields.extras, around)?,
        min_tokens,
        end_tokens: default.end_tokens,
    })
}

fn stops(stop: Option<&OneOrMany>) -> Result<Vec<String>, ApiError> {
    let Some(OneOrMany(stops)) = stop else {
        return Ok(Vec::new());
    };
    let limit = GenerateSpec::STOPS_MAX;
    if stops.len() > limit {
        return Err(out_of_range(
            "stop",
            format!("at most {limit} strings"),
            &stops.len(),
        ));
    }
    if stops.iter().any(String::is_empty) {
        return Err(out_of_range("stop", "made of non-empty strings", &"\"\""));
    }
    Ok(stops.clone())
}

fn logit_bias(given: Option<&LogitBias>) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let Some(LogitBias(entries)) = given else {
        return Ok(Vec::new());
    };
    let entry = |(key, bias): &(String, f32)| match key.parse() {
        Ok(id) => Ok((TokenId(id), *bias)),
        Err(_) => Err(out_of_range(
            "logit_bias",
            "keyed by token ids",
            &format_args!("{key:?}"),
        )),
    };
    entries.iter().map(entry).collect()
}

/// How many alternatives of each prompt.
pub(super) fn choices(n: Option<Integer>, around: Circumstances<'_>) -> Result<usize, ApiError> {
    n.map_or(Ok(1), |Integer(given)| {
        bounded("n", given, 1..=around.limits.choices_max)
    })
}

/// How the answer is sent.
pub(super) fn delivery(
    stream: Option<bool>,
    options: Option<&StreamOptions>,
) -> Result<Delivery, ApiError> {
    match (stream, options) {
        (Some(true), None) => Ok(Delivery::Stream(StreamUsage::Omit)),
        (Some(true), Some(options)) => {
            let continuous = options.continuous_usage_stats == Some(true);
            Ok(Delivery::Stream(match options.include_usage {
                Some(true) if continuous => StreamUsage::Continuous,
                Some(true) => StreamUsage::Include,
                // As in vLLM, continuous alone asks for nothing.
                Some(false) | None => StreamUsage::Omit,
            }))
        }
        (Some(false) | None, None) => Ok(Delivery::Whole),
        (Some(false) | None, Some(_)) => Err(ApiError::Conflict {
            field: "stream_options",
            reason: "without stream: true",
        }),
    }
}

/// Refuses what would ask for log-probabilities that are not told, or cannot be told in pieces.
pub(super) fn check_logprobs(settings: &Settings, delivery: Delivery) -> Result<(), ApiError> {
    let sampling = &settings.sampling;
    if sampling.logprobs.is_none() && !sampling.logprob_tokens.is_empty() {
        return Err(ApiError::Conflict {
            field: "logprob_token_ids",
            reason: "without logprobs",
        });
    }
    if settings.prompt_options.logprobs.is_some() && delivery != Delivery::Whole {
        return Err(ApiError::Conflict {
            field: "prompt_logprobs",
            reason: "with stream: true",
        });
    }
    Ok(())
}

/// Refuses a request that must produce more than it may.
pub(super) fn check_output_bounds(settings: &Settings) -> Result<(), ApiError> {
    match settings.output_max {
        Some(Tokens(max)) if settings.sampling.min_tokens > max => {
            let limit = format!("at most max_tokens, {max}");
            Err(out_of_range(
                "min_tokens",
                limit,
                &settings.sampling.min_tokens,
            ))
        }
        _ => Ok(()),
    }
}
