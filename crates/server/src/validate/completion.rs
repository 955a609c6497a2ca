//! The rules of `POST /v1/completions`.

use kvist_base::{TokenId, Tokens};
use kvist_engine::{OutputSpec, Prompt, PromptTokens};

use super::extras::told;
use super::settings::{Settings, check_logprobs, check_output_bounds, choices, delivery, settings};
use super::unsupported::{self, refuse_unsupported};
use super::{Call, Circumstances, Delivery, Echo, Reasoning, bounded, out_of_range};
use crate::error::ApiError;
use crate::wire::common::Integer;
use crate::wire::completion::{CompletionRequest, Prompts};
use crate::wire::read::Received;

/// OpenAI's default of `max_tokens` on this endpoint, where the server has none of its own.
const OUTPUT_MAX_DEFAULT: Tokens = Tokens(16);
/// OpenAI's bound on `logprobs` on this endpoint.
pub(crate) const LOGPROBS_MAX: u32 = 5;

/// Checks a request.
pub(crate) fn completion(
    received: Received<CompletionRequest>,
    around: Circumstances<'_>,
) -> Result<Call, ApiError> {
    let ignored = refuse_unsupported(&received, unsupported::COMPLETION, around.unknown_fields)?;
    let mut body = received.body;
    let echo = match body.echo {
        Some(true) => Echo::PromptFirst,
        Some(false) | None => Echo::OutputOnly,
    };
    let mut told = told(&body.generation.extras)?;
    // The prompt alone can be all that is asked for.
    let is_prompt_only = body.generation.max_tokens == Some(Integer(0))
        && (echo == Echo::PromptFirst || told.prompt_logprobs);
    if is_prompt_only {
        body.generation.max_tokens = None;
    }
    let mut settings = settings(&mut body.generation, around)?;
    if is_prompt_only {
        settings.output_max = Some(Tokens::ZERO);
    } else if settings.output_default.is_none() {
        settings.output_max.get_or_insert(OUTPUT_MAX_DEFAULT);
    }
    settings.sampling.logprobs = match body.logprobs {
        None => None,
        Some(Integer(given)) => Some(bounded("logprobs", given, 0..=LOGPROBS_MAX)?),
    };
    check_output_bounds(&settings)?;
    let delivery = delivery(
        body.generation.stream,
        body.generation.stream_options.as_ref(),
    )?;
    check_logprobs(&settings, delivery)?;
    told.logprobs = settings.sampling.logprobs.is_some();
    echo_options(&mut settings, echo);
    let kept = choices(body.generation.n, around)?;
    let choices = candidates(body.best_of, (kept, delivery), around)?;
    if choices > kept {
        // To tell the likeliest.
        settings.sampling.logprobs.get_or_insert(0);
    }
    Ok(Call {
        prompts: prompts(body.prompt, around)?,
        choices,
        kept,
        settings,
        delivery,
        echo,
        output: OutputSpec::default(),
        reasoning: Reasoning::default(),
        told,
        ignored,
    })
}

/// What an echo needs of the prompt: its tokens where they are told with log-probabilities, or where
/// they are not those of all its text.
fn echo_options(settings: &mut Settings, echo: Echo) {
    if echo == Echo::OutputOnly {
        return;
    }
    let logprobs = settings.sampling.logprobs;
    let options = &mut settings.prompt_options;
    options.logprobs = options.logprobs.max(logprobs);
    if settings.output_max == Some(Tokens::ZERO) {
        // The engine has nothing to do otherwise.
        options.logprobs.get_or_insert(0);
    }
    if logprobs.is_some() || options.truncation.is_some() {
        options.tokens = PromptTokens::Keep;
    }
}

/// How many alternatives are computed for those that are kept.
fn candidates(
    best_of: Option<Integer>,
    (kept, delivery): (usize, Delivery),
    around: Circumstances<'_>,
) -> Result<usize, ApiError> {
    let Some(Integer(given)) = best_of else {
        return Ok(kept);
    };
    let candidates = bounded("best_of", given, kept..=around.limits.choices_max)?;
    if candidates > kept && delivery != Delivery::Whole {
        return Err(ApiError::Conflict {
            field: "best_of",
            reason: "above n with stream: true: the likeliest are known at the end",
        });
    }
    Ok(candidates)
}

fn prompts(given: Option<Prompts>, around: Circumstances<'_>) -> Result<Vec<Prompt>, ApiError> {
    let hint = "give a string, a list of strings, or token ids";
    let prompts: Vec<Prompt> = match given.ok_or(ApiError::Missing {
        field: "prompt",
        hint,
    })? {
        Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        Prompts::Tokens(lists) => lists
            .into_iter()
            .map(|ids| Prompt::Tokens(ids.into_iter().map(TokenId).collect()))
            .collect(),
    };
    let limit = around.limits.prompts_max;
    if prompts.is_empty() || prompts.len() > limit {
        return Err(out_of_range(
            "prompt",
            format!("1 to {limit} prompts"),
            &prompts.len(),
        ));
    }
    Ok(prompts)
}
