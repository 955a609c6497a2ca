//! vLLM's fields beside OpenAI's, and what answers them.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::common::{Integer, SCALARS_MAX};
use super::read::{List, wire_object};

wire_object! {
    /// Fields both completion endpoints take, with the same meaning.
    pub(crate) struct ExtraFields {
        add_special_tokens: bool,
        allowed_token_ids: List<Integer, SCALARS_MAX>,
        bad_words: List<String, SCALARS_MAX>,
        include_stop_str_in_output: bool,
        logprob_token_ids: List<Integer, SCALARS_MAX>,
        prompt_logprobs: Integer,
        request_id: String,
        return_token_ids: bool,
        return_tokens_as_token_ids: bool,
        truncate_prompt_tokens: Integer,
        truncation_side: String,
    }
}

/// Log-probabilities of a prompt: one entry a token, null for the first, which nothing comes before.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct PromptLogprobs(pub(crate) Vec<Option<TokenMap>>);

/// Tokens at one position, keyed by id: the prompt's own first, then the likeliest.
#[derive(Debug)]
pub(crate) struct TokenMap(pub(crate) Vec<(u32, RankedToken)>);

/// One of them. The likeliest token has rank 1.
#[derive(Debug, Serialize)]
pub(crate) struct RankedToken {
    pub(crate) logprob: f32,
    pub(crate) rank: u32,
    pub(crate) decoded_token: String,
}

impl Serialize for TokenMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, entry) in &self.0 {
            map.serialize_entry(token, entry)?;
        }
        map.end()
    }
}
