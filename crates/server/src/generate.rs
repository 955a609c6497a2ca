//! Hands requests to the engine and gathers what comes back.

use std::time::Instant;

use kvist_base::Tokens;
use kvist_engine::{
    Delta, EngineHandle, Finished, Prompt, RequestHandle, StreamEvent, SubmitError, TokenLogprobs,
};

use crate::error::{ApiError, FieldNames};
use crate::models::Served;
use crate::state::App;
use crate::validate::Call;
use crate::wire::common::{PromptTokensDetails, Usage};

/// Prompts up to this many bytes are tokenised where they are: it takes less time than a thread
/// switch is worth. A constraint may have to be compiled, which takes longer.
const INLINE_BYTES_MAX: usize = 16 << 10;

/// Submits every alternative of every prompt, in order: `prompt * choices + choice`.
///
/// All or none: when one is refused, those already taken are cancelled. So they are when the client
/// goes away meanwhile.
pub(crate) async fn submit(
    app: &App,
    (served, call): (&Served, Call),
    prompt_field: &'static str,
) -> Result<Vec<RequestHandle>, ApiError> {
    let sequences = call.prompts.len() * call.choices;
    let constraint = call.settings.constraint.as_ref();
    let fields = FieldNames {
        prompt: prompt_field,
        constraint: constraint.map_or("constraint", |asked| asked.field),
    };
    let prompt_bytes: usize = call.prompts.iter().map(prompt_bytes).sum();
    let is_quick = constraint.is_none() && prompt_bytes * call.choices <= INLINE_BYTES_MAX;
    let submitted = if is_quick {
        submit_all(&served.engine, call)
    } else {
        let engine = served.engine.clone();
        let place = app.tokenising.clone().acquire_owned().await;
        let place = place.expect("this semaphore is never closed");
        let task = tokio::task::spawn_blocking(move || {
            let _place = place;
            submit_all(&engine, call)
        });
        match task.await {
            Ok(submitted) => submitted,
            Err(panicked) => {
                tracing::error!(%panicked, "tokenising a prompt failed");
                return Err(ApiError::EngineStopped);
            }
        }
    };
    submitted.map_err(|error| ApiError::refused(error, fields, sequences))
}

fn submit_all(engine: &EngineHandle, call: Call) -> Result<Vec<RequestHandle>, SubmitError> {
    let mut handles = Vec::with_capacity(call.prompts.len() * call.choices);
    for prompt in call.prompts {
        for choice in 1..call.choices {
            handles.push(engine.submit(call.settings.request(prompt.clone(), choice - 1))?);
        }
        handles.push(engine.submit(call.settings.request(prompt, call.choices - 1))?);
    }
    Ok(handles)
}

/// Bytes that have to be tokenised; ids need not be.
fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Chat(input) => input.bytes(),
        Prompt::Tokens(_) => 0,
    }
}

/// Tokens a prompt has for the model.
pub(crate) async fn count_tokens(
    app: &App,
    served: &Served,
    prompt: Prompt,
    prompt_field: &'static str,
) -> Result<Tokens, ApiError> {
    let counted = if prompt_bytes(&prompt) <= INLINE_BYTES_MAX {
        served.engine.prompt_len(prompt)
    } else {
        let engine = served.engine.clone();
        let place = app.tokenising.clone().acquire_owned().await;
        let place = place.expect("this semaphore is never closed");
        let task = tokio::task::spawn_blocking(move || {
            let _place = place;
            engine.prompt_len(prompt)
        });
        task.await.map_err(|panicked| {
            tracing::error!(%panicked, "tokenising a prompt failed");
            ApiError::EngineStopped
        })?
    };
    let fields = FieldNames {
        prompt: prompt_field,
        constraint: "constraint",
    };
    counted.map_err(|source| ApiError::refused(source.into(), fields, 1))
}

/// One finished alternative.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) text: String,
    /// For each token, bytes of the text that became certain with it.
    pub(crate) text_lens: Vec<usize>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// When the first of it came.
    pub(crate) first_at: Option<Instant>,
    pub(crate) finished: Finished,
}

/// Waits for all of an alternative. Dropping the future cancels the request.
pub(crate) async fn collect(mut handle: RequestHandle, id: &str) -> Result<Output, ApiError> {
    let mut text = String::new();
    let mut text_lens = Vec::new();
    let mut logprobs = Vec::new();
    let mut first_at = None;
    loop {
        match handle.next().await {
            Some(StreamEvent::Delta(Delta {
                text: more,
                text_lens: lens,
                logprobs: entries,
                ..
            })) => {
                first_at.get_or_insert_with(Instant::now);
                text.push_str(&more);
                text_lens.extend(lens);
                logprobs.extend(entries);
            }
            Some(StreamEvent::Finished(finished)) => {
                return Ok(Output {
                    text,
                    text_lens,
                    logprobs,
                    first_at,
                    finished,
                });
            }
            Some(StreamEvent::Failed(fault)) => return Err(ApiError::failed(id, Some(&fault))),
            None => return Err(ApiError::failed(id, None)),
        }
    }
}

/// Adds up what the alternatives of all prompts took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    choices: usize,
    usage: Usage,
}

impl Tally {
    /// `choices` alternatives of each prompt.
    pub(crate) fn new(choices: usize) -> Self {
        Self {
            choices,
            usage: Usage::default(),
        }
    }

    /// Adds alternative `index`. A prompt counts once, as its first alternative found it: the
    /// others share its KV blocks.
    pub(crate) fn add(&mut self, index: usize, finished: &Finished) {
        let usage = &mut self.usage;
        if index.is_multiple_of(self.choices) {
            usage.prompt_tokens += u64::from(finished.usage.prompt.0);
            let PromptTokensDetails { cached_tokens } = &mut usage.prompt_tokens_details;
            *cached_tokens += u64::from(finished.usage.prefix_hit.0);
        }
        usage.completion_tokens += u64::from(finished.usage.output.0);
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    }

    /// The sum.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }
}

#[cfg(test)]
mod tests {
    use kvist_base::{FinishReason, Tokens};

    use super::*;

    #[test]
    fn a_prompt_counts_once_and_every_output_counts() {
        let finished = |prompt, output, hit| Finished {
            reason: FinishReason::Stop,
            stopped_by: None,
            usage: kvist_engine::Usage {
                prompt: Tokens(prompt),
                output: Tokens(output),
                prefix_hit: Tokens(hit),
            },
        };
        let mut tally = Tally::new(2);
        // Two prompts of two alternatives each, ending in any order.
        for (index, each) in [
            (3, finished(7, 1, 7)),
            (0, finished(5, 2, 0)),
            (2, finished(7, 3, 4)),
            (1, finished(5, 4, 5)),
        ] {
            tally.add(index, &each);
        }
        let usage = tally.usage();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (12, 10));
        assert_eq!(
            (
                usage.total_tokens,
                usage.prompt_tokens_details.cached_tokens
            ),
            (22, 4)
        );
    }
}
