//! A row of logits and per-sequence state to one token and its log-probabilities.
//!
//! The order of work is fixed, and is the one vLLM documents:
//!
//! 1. log-probabilities, from the row as the model wrote it;
//! 2. tokens that a grammar or the request does not allow, and those that would complete a bad word,
//!    are masked, then end tokens until `min_tokens`, unless the grammar allows nothing else; then
//!    `logit_bias` is added;
//! 3. repetition, frequency and presence penalties;
//! 4. temperature 0: the largest logit, the lowest id among equals. Otherwise temperature,
//!    `min_p`, `top_k`, `top_p`, and a draw.
//!
//! Pure: no clock, no thread, no I/O. The draw for output token `i` depends on the row, the
//! parameters, the sequence's own tokens, `seed` and `i` alone, so neither batch neighbours nor
//! preemption can change it.

mod error;
mod filter;
mod logprob;
mod mask;
mod params;
mod row;
mod sampler;
mod state;
mod uniform;

pub use error::{Given, ParamError, ParamLimit, SampleFault};
pub use logprob::TokenLogprob;
pub use params::{
    ALLOWED_TOKENS_MAX, BAD_WORD_TOKENS_MAX, BAD_WORDS_MAX, LOGIT_BIAS_COUNT_MAX,
    LOGPROB_TOKENS_MAX, LOGPROBS_MAX, SamplingParams, SamplingSpec,
};
pub use sampler::{Guess, Sampled, Sampler, Scored};
pub use state::SamplerState;
