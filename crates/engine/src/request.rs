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
    /// Texts at which the output ends; they are not part of it. At most [`Self::STOPS_MAX`].
    pub stop: Vec<String>,
    /// Further tokens that end the output, beside the model's own end tokens.
    pub stop_tokens: Vec<TokenId>,
    /// Most tokens to produce. A request whose prompt leaves no room for so many is refused.
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
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            output_max: None,
            output_default: None,
            constraint: None,
            end_tokens: EndTokens::Stop,
            special_tokens: SpecialTokens::Hide,
            marks: Vec::new(),
            cache_salt: None,
            priority: 0,
            tenant: None,
        }
    }
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
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: StopMatcher,
    pub(crate) stop_texts: Vec<String>,
    /// Tokens that end the output.
    pub(crate) ends: Vec<TokenId>,
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
