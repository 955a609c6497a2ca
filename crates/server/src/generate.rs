//! Hands requests to the engine and gathers what comes back.

use std::time::Instant;

use kvist_base::{TokenId, Tokens};
use kvist_engine::{
    Delta, EngineHandle, Finished, Prompt, PromptOptions, RequestHandle, Scored, StreamEvent,
    SubmitError, TokenLogprobs,
};

use crate::error::{ApiError, FieldNames};
use crate::models::Served;
use crate::state::App;
use crate::validate::Call;
use crate::wire::common::Usage;

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
    let engine = served.engine.clone();
    let bytes = match constraint {
        None => prompt_bytes * call.choices,
        // It may have to be compiled, however short it is.
        Some(_) => usize::MAX,
    };
    let submitted = tokenising(app, bytes, move || submit_all(&engine, call)).await?;
    submitted.map_err(|error| ApiError::refused(error, fields, sequences))
}

/// Does work on prompts of so many bytes: here if it is little, on a thread of its own otherwise.
pub(crate) async fn tokenising<T: Send + 'static>(
    app: &App,
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(work());
    }
    let place = app.tokenising.clone().acquire_owned().await;
    let place = place.expect("this semaphore is never closed");
    let task = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    task.await.map_err(|panicked| {
        tracing::error!(%panicked, "tokenising a prompt failed");
        ApiError::EngineStopped
    })
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
pub(crate) fn prompt_bytes(prompt: &Prompt) -> usize {
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
    let engine = served.engine.clone();
    let tokens = tokenising(app, prompt_bytes(&prompt), move || {
        engine.prompt_tokens(prompt, &PromptOptions::default(), None)
    });
    let fields = FieldNames {
        prompt: prompt_field,
        constraint: "constraint",
    };
    let tokens = tokens.await?;
    let tokens = tokens.map_err(|source| ApiError::refused(source.into(), fields, 1))?;
    Ok(Tokens(u32::try_from(tokens.len()).unwrap_or(u32::MAX)))
}

/// One finished alternative.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenId>,
    /// For each token, bytes of the text that became certain with it.
    pub(crate) text_lens: Vec<usize>,
    pub(crate) prompt_logprobs: Vec<Scored>,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// When the first of it came.
    pub(crate) first_at: Option<Instant>,
    pub(crate) finished: Finished,
}

/// Waits for all of an alternative. Dropping the future cancels the request.
pub(crate) async fn collect(mut handle: RequestHandle, id: &str) -> Result<Output, ApiError> {
    let mut all = Delta::default();
    let mut first_at = None;
    loop {
        match handle.next().await {
            Some(StreamEvent::Delta(more)) => {
                if more.prompt_logprobs.is_empty() {
                    first_at.get_or_insert_with(Instant::now);
                }
                all.text.push_str(&more.text);
                all.tokens.extend(more.tokens);
                all.text_lens.extend(more.text_lens);
                all.logprobs.extend(more.logprobs);
                all.prompt_logprobs.extend(more.prompt_logprobs);
            }
            Some(StreamEvent::Finished(finished)) => {
                return Ok(Output {
                    text: all.text,
                    tokens: all.tokens,
                    text_lens: all.text_lens,
                    prompt_logprobs: all.prompt_logprobs,
                    logprobs: all.logprobs,
                    first_at,
                    finished,
                });
            }
            Some(StreamEvent::Failed(fault)) => return Err(ApiError::failed(id, Some(&fault))),
            None => return Err(ApiError::failed(id, None)),
        }
    }
}

/// Of the alternatives of each prompt, which are `choices`, the `kept` likeliest: those with the
/// highest log-probability a token, first among equals.
pub(crate) fn likeliest(outputs: Vec<Output>, (choices, kept): (usize, usize)) -> Vec<Output> {
    if kept == choices {
        return outputs;
    }
    let mut best = Vec::with_capacity(outputs.len() / choices * kept);
    let mut outputs = outputs.into_iter();
    loop {
        let mut group: Vec<Output> = outputs.by_ref().take(choices).collect();
        if group.is_empty() {
            return best;
        }
        group.sort_by(|a, b| mean_logprob(b).total_cmp(&mean_logprob(a)));
        best.extend(group.into_iter().take(kept));
    }
}

fn mean_logprob(output: &Output) -> f64 {
    let sum: f64 = output
        .logprobs
        .iter()
        .map(|entry| f64::from(entry.chosen.logprob))
        .sum();
    #[allow(clippy::cast_precision_loss)] // outputs are shorter than 2^52 tokens
    let count = output.logprobs.len().max(1) as f64;
    sum / count
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
            let details = usage.prompt_tokens_details.get_or_insert_default();
            details.cached_tokens += u64::from(finished.usage.prefix_hit.0);
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
                usage.prompt_tokens_details.unwrap().cached_tokens
            ),
            (22, 4)
        );
    }
}
