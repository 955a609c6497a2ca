//! `/tokenize`, `/detokenize` and the render endpoints.

use serde::Serialize;
use serde_json::value::RawValue;

use super::chat::ChatCompletionRequest;
use super::common::TokenList;
use super::read::{ReadError, Reader, WireValue, wire_object};

wire_object! {
    /// What `/tokenize` takes: a text, or a conversation with what belongs to one.
    pub(crate) struct TokenizeRequest {
        ..chat: ChatCompletionRequest,
        prompt: String,
        return_token_strs: bool,
    }
}

wire_object! {
    /// What `/detokenize` takes.
    pub(crate) struct DetokenizeRequest {
        model: String,
        tokens: Ids,
    }
}

/// Token ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl WireValue for Ids {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        reader.plain(raw).map(|TokenList(ids)| Self(ids))
    }
}

/// What `/tokenize` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Tokenized {
    pub(crate) count: usize,
    pub(crate) max_model_len: u32,
    pub(crate) tokens: Vec<u32>,
    /// Their texts, when asked for.
    pub(crate) token_strs: Option<Vec<String>>,
}

/// What `/detokenize` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Detokenized {
    pub(crate) prompt: String,
}

/// A request as an engine takes it: what routers read to know prefixes. The shape is vLLM's.
#[derive(Debug, Serialize)]
pub(crate) struct RenderedRequest {
    pub(crate) request_id: String,
    pub(crate) token_ids: Vec<u32>,
    /// Always null: there are no images.
    pub(crate) features: Option<()>,
    pub(crate) sampling_params: RenderedSampling,
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) cache_salt: Option<String>,
    pub(crate) priority: i32,
    /// Always null: nothing is fetched from elsewhere.
    pub(crate) kv_transfer_params: Option<()>,
}

/// How it would be sampled, as checked.
#[derive(Debug, Serialize)]
pub(crate) struct RenderedSampling {
    pub(crate) n: usize,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) top_k: u32,
    pub(crate) min_p: f32,
    pub(crate) seed: Option<u64>,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) repetition_penalty: f32,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) ignore_eos: bool,
    pub(crate) min_tokens: u32,
    /// Null: as many as fit.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) logprobs: Option<u32>,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) skip_special_tokens: bool,
}
