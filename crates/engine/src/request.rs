//! What a caller asks for, before and after checking.

use kvist_base::{TokenId, Tokens};
use kvist_grammar::Constraint;
use kvist_sample::{SamplingParams, SamplingSpec};
use kvist_text::{ChatInput, StopMatcher};

use crate::constrain::Constrained;

/// The prompt, in whichever form the caller has it.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Plain text: special-token spellings in it stay plain text; BOS is added where the model wants it.
    Text(String),
    /// A conversation, rendered through the model's chat template.
    Chat(Box<ChatInput>),
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
}

/// A request as a caller states it. [`EngineHandle::submit`](crate::EngineHandle::submit) checks it.
#[derive(Clone, Debug)]
pub struct GenerateSpec {
    /// The prompt.
    pub prompt: Prompt,
    /// How tokens are chosen. `sampling.end_tokens` is filled in by the engine.
    pub sampling: SamplingSpec,
    /// How the prompt becomes tokens, and what is told of them.
    pub prompt_options: PromptOptions,
    /// Texts that may not come to be in the output, as the tokenizer spells them alone and after a
    /// space.
    pub bad_words: Vec<String>,
    /// Texts at which the output ends. At most [`Self::STOPS_MAX`].
    pub stop: Vec<String>,
    /// Whether the text or token that ended the output is part of its text.
    pub stop_text: StopText,
    /// Further tokens that end the output, beside the model's own end tokens.
    pub stop_tokens: Vec<TokenId>,
    /// Most tokens to produce. A request whose prompt leaves no room for so many is refused. 0 only
    /// where [`PromptOptions::logprobs`] leaves something to tell.
    pub output_max: Option<Tokens>,
    /// The same for a request without `output_max`, but where there is less room, less is produced.
    /// Without both: as many as the context and the KV pool hold.
    pub output_default: Option<Tokens>,
    /// What the output must look like. It ends where the constraint is fulfilled and nothing can
    /// follow; the model's end tokens are drawn only where it may end, and then end it even with
    /// [`EndTokens::Ignore`]. `sampling.min_tokens` counts as far as the constraint lets it.
    pub constraint: Option<Constraint>,
    /// What the model's own end tokens do.
    pub end_tokens: EndTokens,
    /// Whether special tokens appear in the text.
    pub special_tokens: SpecialTokens,
    /// Texts that appear in the output even where they are hidden special tokens: what the caller
    /// tells its parts by.
    pub marks: Vec<&'static str>,
    /// Requests share KV blocks only with those of the same salt.
    pub cache_salt: Option<String>,
    /// Lower is served earlier, and later preempted; 0 is usual.
    pub priority: i32,
    /// How many alternatives of its prompt were asked for, said by the first of them; 0 in the others.
    /// Only counted.
    pub alternatives: u32,
    /// On whose account it runs, where shares are to be fair.
    pub tenant: Option<String>,
}

impl GenerateSpec {
    /// Stop strings a request may carry.
    pub const STOPS_MAX: usize = 16;
    /// Bytes of all of them together.
    pub const STOPS_BYTES_MAX: usize = kvist_text::STOPS_BYTES_MAX;
    /// Entries of `sampling.logit_bias`.
    pub const LOGIT_BIAS_MAX: usize = kvist_sample::LOGIT_BIAS_COUNT_MAX;

    /// A greedy request for `prompt` with no limits of its own.
    pub fn greedy(prompt: Prompt) -> Self {
        Self {
            prompt,
            sampling: SamplingSpec {
                temperature: 0.0,
                ..SamplingSpec::default()
            },
            prompt_options: PromptOptions::default(),
            bad_words: Vec::new(),
            stop: Vec::new(),
            stop_text: StopText::Omit,
            stop_tokens: Vec::new(),
            output_max: None,
            output_default: None,
            constraint: None,
            end_tokens: EndTokens::Stop,
            special_tokens: SpecialTokens::Hide,
            marks: Vec::new(),
            cache_salt: None,
            priority: 0,
            alternatives: 1,
            tenant: None,
        }
    }
}

/// How a prompt becomes tokens, and what is told of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptOptions {
    /// Whether text begins with the model's begin token.
    pub begin_token: BeginToken,
    /// What becomes of a prompt that is longer.
    pub truncation: Option<Truncation>,
    /// `Some(n)`: report the log-probability of each token but the first, and the `n` most likely ones
    /// in its place. Such a prompt is computed from its first token, whatever is cached.
    pub logprobs: Option<u32>,
    /// Whether [`RequestHandle::prompt_tokens`](crate::RequestHandle::prompt_tokens) has the tokens.
    pub tokens: PromptTokens,
}

/// Whether text begins with the model's begin token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BeginToken {
    /// Where the model wants one, and the text has none of its own.
    #[default]
    IfWanted,
    /// Only where the text spells one.
    Never,
}

/// Whether a prompt's tokens are kept for whoever sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptTokens {
    /// They are the engine's alone.
    #[default]
    Forget,
    /// The request's handle has them.
    Keep,
}

/// Makes a prompt shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Most tokens that are used; `None`: as many as leave room for the output.
    pub limit: Option<Tokens>,
    /// Where tokens are dropped.
    pub side: TruncationSide,
}

/// Where a prompt loses tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TruncationSide {
    /// At its beginning: the end is what the output follows.
    #[default]
    Left,
    /// At its end.
    Right,
}

impl Truncation {
    /// Drops what is too much, where `room` is what leaves space for the output.
    pub(crate) fn apply(self, tokens: &mut Vec<TokenId>, room: Tokens) {
        let limit = self.limit.unwrap_or(room).len();
        match self.side {
            TruncationSide::Left => drop(tokens.drain(..tokens.len().saturating_sub(limit))),
            TruncationSide::Right => tokens.truncate(limit),
        }
    }
}

/// Whether what ended an output is part of its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopText {
    /// The text ends before it.
    #[default]
    Omit,
    /// The text ends with it. A special token still has a text only where those are shown.
    Include,
}

/// What happens when the model produces one of its end tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndTokens {
    /// The output ends there.
    #[default]
    Stop,
    /// It is a token like any other (`ignore_eos`, for benchmarks).
    Ignore,
}

/// Whether special tokens the model produces appear in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They count and have ids, but no text.
    #[default]
    Hide,
    /// They appear as spelled in the vocabulary.
    Show,
}

/// A request that has passed every check: the only thing the engine thread accepts.
pub(crate) struct GenerateRequest {
    pub(crate) prompt: Vec<TokenId>,
    /// How many of the likeliest tokens are told for each of the prompt's, if any are.
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: StopMatcher,
    pub(crate) stop_texts: Vec<String>,
    pub(crate) stop_text: StopText,
    pub(crate) alternatives: u32,
    /// Tokens that end the output.
    pub(crate) ends: Vec<TokenId>,
    /// 0: the prompt's log-probabilities are all that is asked for.
    pub(crate) output_max: Tokens,
    pub(crate) constrained: Option<Constrained>,
    pub(crate) special_tokens: SpecialTokens,
    /// Special tokens that appear in the text even so.
    pub(crate) marks: Vec<TokenId>,
    /// Root of the prefixes it may share.
    pub(crate) cache_root: u64,
    pub(crate) priority: i32,
    /// 0 for all that name none.
    pub(crate) tenant: u64,
}
