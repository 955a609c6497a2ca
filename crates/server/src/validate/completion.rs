//! The rules of `POST /v1/completions`.

use kvist_base::{TokenId, Tokens};
use kvist_engine::{OutputSpec, Prompt};

use super::settings::{check_output_bounds, choices, delivery, settings};
use super::unsupported::{self, refuse_unsupported};
use super::{Call, Circumstances, Echo, Reasoning, bounded, out_of_range};
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
    let ignored = refuse_unsupported(&received, unsupported::COMPLETION)?;
    let mut body = received.body;
    let mut settings = settings(&mut body.generation, around)?;
    if settings.output_default.is_none() {
        settings.output_max.get_or_insert(OUTPUT_MAX_DEFAULT);
    }
    settings.sampling.logprobs = match body.logprobs {
        None => None,
        Some(Integer(given)) => Some(bounded("logprobs", given, 0..=LOGPROBS_MAX)?),
    };
    check_output_bounds(&settings)?;
    let echo = match body.echo {
        Some(true) if settings.sampling.logprobs.is_some() => {
            let hint = " together with logprobs";
            return Err(ApiError::Unsupported {
                field: "echo".to_owned(),
                hint,
            });
        }
        Some(true) => Echo::PromptFirst,
        Some(false) | None => Echo::OutputOnly,
    };
    Ok(Call {
        prompts: prompts(body.prompt, around)?,
        choices: choices(body.generation.n, around)?,
        settings,
        delivery: delivery(
            body.generation.stream,
            body.generation.stream_options.as_ref(),
        )?,
        echo,
        output: OutputSpec::default(),
        reasoning: Reasoning::default(),
        ignored,
    })
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
