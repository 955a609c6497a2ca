//! `POST /v1/completions`.

use serde::Serialize;
use serde_json::value::RawValue;

use super::common::{GenerationFields, Integer, Pairs, StopReason, TokenList, Usage};
use super::extras::PromptLogprobs;
use super::read::{List, ReadError, Reader, WireValue, plain_values, wire_object};

/// Prompts a body may have before it is refused unread.
const PROMPTS_MAX: usize = 4096;

wire_object! {
    /// The request.
    pub(crate) struct CompletionRequest {
        ..generation: GenerationFields,
        prompt: Prompts,
        logprobs: Integer,
        echo: bool,
        best_of: Integer,
    }
}

/// One prompt or several, as text or as token ids. JSON has one empty list for both.
#[derive(Debug, PartialEq)]
pub(crate) enum Prompts {
    Texts(Vec<String>),
    Tokens(Vec<Vec<u32>>),
}

plain_values!(TokenList);

impl WireValue for Prompts {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        let json = raw.get();
        if json.starts_with('"') {
            return Ok(Self::Texts(vec![reader.plain(raw)?]));
        }
        let Some(items) = json.strip_prefix('[') else {
            return Err(reader.error("expected a string, a list of strings, or token ids"));
        };
        match items.trim_start().as_bytes().first() {
            Some(b'"') => {
                List::<String, PROMPTS_MAX>::read(raw, reader).map(|list| Self::Texts(list.0))
            }
            Some(b'[') => {
                let list = List::<TokenList, PROMPTS_MAX>::read(raw, reader)?;
                Ok(Self::Tokens(
                    list.0.into_iter().map(|tokens| tokens.0).collect(),
                ))
            }
            Some(b']') => Ok(Self::Texts(Vec::new())),
            _ => {
                let TokenList(tokens) = reader.plain(raw)?;
                Ok(Self::Tokens(vec![tokens]))
            }
        }
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct Completion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<CompletionChoice>,
    pub(crate) usage: Usage,
    pub(crate) system_fingerprint: String,
}

/// One output, whole or the part that is new: plain completions stream the same shape.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) stop_reason: Option<StopReason>,
    /// Ids of the text's tokens, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
    /// With them, and in a stream in the first piece only: ids of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
}

/// Log-probabilities, as parallel lists with one entry a token.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CompletionLogprobs {
    pub(crate) tokens: Vec<String>,
    /// Null for the first token of an echoed prompt, which nothing comes before.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens and the chosen one; null where `token_logprobs` is.
    pub(crate) top_logprobs: Vec<Option<Pairs>>,
    /// Characters before the token, counted over the tokens' own texts.
    pub(crate) text_offset: Vec<usize>,
}

/// One event of a streamed answer.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionChunk<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<CompletionChoice>,
    /// Present when the caller asked for usage: null in every chunk but the last, or up to date in each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
    pub(crate) system_fingerprint: &'a str,
}
