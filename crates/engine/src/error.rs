//! What can go wrong, sorted by who must act.

use kvist_base::{Blocks, Bytes, Tokens};
use kvist_text::TextError;
use thiserror::Error;

/// The request is at fault: tell the client which field, the limit and what was given.
#[derive(Debug, Error)]
pub enum RequestError {
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] kvist_sample::ParamError),
    /// The prompt has no tokens.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// A prompt token id is not in the vocabulary.
    #[error("prompt token id {given} is not in the vocabulary of {limit} tokens")]
    TokenOutOfRange {
        /// Vocabulary size.
        limit: usize,
        /// The offending id.
        given: u32,
    },
    /// Prompt and requested output do not fit into the context.
    #[error(
        "the prompt has {prompt} and max_tokens asks for {output} more, but the context is {limit}; \
         shorten the prompt or lower max_tokens"
    )]
    ContextExceeded {
        /// Largest sequence the engine serves.
        limit: Tokens,
        /// Prompt length.
        prompt: Tokens,
        /// Output asked for.
        output: Tokens,
    },
    /// The sequence could never fit into the KV pool, however idle the engine is.
    #[error(
        "the request needs {needed} of KV cache but the pool has {total}; \
         shorten it or start the engine with more memory"
    )]
    PoolExceeded {
        /// Blocks the whole sequence needs.
        needed: Blocks,
        /// Blocks there are.
        total: Blocks,
    },
    /// `max_tokens` is zero.
    #[error("max_tokens is 0: ask for at least 1 token")]
    NoOutput,
    /// More stop strings than a request may carry.
    #[error("stop has {given} strings, at most {limit} are allowed")]
    TooManyStops {
        /// The bound.
        limit: usize,
        /// How many were given.
        given: usize,
    },
    /// Unusable stop strings, or the text cannot be tokenised or rendered.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The constraint is not valid, or beyond a bound.
    #[error(transparent)]
    Constraint(#[from] kvist_grammar::ConstraintError),
    /// The model has no chat template.
    #[error("this model has no chat template; use the completions endpoint with a plain prompt")]
    NoChatTemplate,
    /// The prompt is larger than any prompt that could fit, judged before tokenising it.
    #[error("the prompt has {given} bytes; a context of {limit} cannot hold that many")]
    PromptTooLarge {
        /// Context length.
        limit: Tokens,
        /// Size of the prompt text.
        given: Bytes,
    },
}

impl RequestError {
    /// The request field at fault, in the wire's words.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Sampling(error) => error.field,
            Self::EmptyPrompt
            | Self::TokenOutOfRange { .. }
            | Self::PromptTooLarge { .. }
            | Self::ContextExceeded { .. }
            | Self::PoolExceeded { .. } => "prompt",
            Self::NoOutput => "max_tokens",
            Self::TooManyStops { .. } => "stop",
            Self::Text(error) => text_field(error),
            Self::Constraint(_) => "constraint",
            Self::NoChatTemplate => "messages",
        }
    }
}

fn text_field(error: &TextError) -> &'static str {
    match error {
        TextError::EmptyStop { .. } | TextError::StopsTooLong { .. } => "stop",
        TextError::TemplateRaised { .. }
        | TextError::TemplateFailed { .. }
        | TextError::TemplateWorkLimit { .. }
        | TextError::NothingToContinue => "messages",
        TextError::ReservedTemplateArgument { .. } => "chat_template_kwargs",
        _ => "prompt",
    }
}

/// Why a request was not accepted.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// The client must change the request.
    #[error(transparent)]
    Invalid(#[from] RequestError),
    /// The queue is full: try again later.
    #[error("the engine is full: {in_flight} requests in flight, {in_flight_max} allowed")]
    Overloaded {
        /// Requests accepted and not finished.
        in_flight: usize,
        /// The bound.
        in_flight_max: usize,
    },
    /// The prompts that wait have too many tokens: try again later.
    #[error("requests of {waiting} tokens are waiting, {limit} may")]
    TooManyTokensWaiting {
        /// Tokens of prompts that have not had their turn.
        waiting: u64,
        /// The bound.
        limit: u64,
    },
    /// The engine is finishing what it has and takes nothing new.
    #[error("the engine is shutting down")]
    Draining,
    /// The engine has failed and serves nothing any more.
    #[error("the engine has stopped: {0}")]
    Stopped(EngineFault),
}

/// Our bug, or the machine failing under us. The requests it hit get this; they are not retried.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum EngineFault {
    /// The model produced a logit that is not a number.
    #[error("numeric fault: {0}")]
    Numeric(#[from] kvist_sample::SampleFault),
    /// The output cannot go on under the request's constraint. No bug of ours: the constraint asks
    /// for what the vocabulary cannot spell, or for too much work on one token.
    #[error("the output cannot go on: {0}")]
    Grammar(#[from] kvist_grammar::GrammarFault),
    /// The device failed to run a step.
    #[error("device fault: {0}")]
    Device(String),
    /// The pool was made smaller while the request was on its way, and cannot hold it any more. The
    /// one fault that is nobody's: the client may ask for less.
    #[error("the request needs {needed} of KV cache but the pool now has {total}")]
    PoolShrunk {
        /// Blocks the whole sequence needs.
        needed: Blocks,
        /// Blocks there are.
        total: Blocks,
    },
    /// The engine thread panicked.
    #[error("engine fault: {0}")]
    Panic(String),
}
