//! `POST /v1/chat/completions`.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::common::{GenerationFields, Integer, SmallObject, StopReason, Usage};
use super::extras::PromptLogprobs;
use super::read::{List, Object, ReadError, Reader, WireObject, WireValue, wire_object};
use super::tools::{Call, PastCall, Tree};

/// Messages, and parts of one message, a body may have.
pub(crate) const MESSAGES_MAX: usize = 16_384;

wire_object! {
    /// The request.
    pub(crate) struct ChatCompletionRequest {
        ..generation: GenerationFields,
        messages: List<Message, MESSAGES_MAX>,
        max_completion_tokens: Integer,
        logprobs: bool,
        top_logprobs: Integer,
        add_generation_prompt: bool,
        continue_final_message: bool,
        echo: bool,
        chat_template_kwargs: SmallObject,
        tools: Tree,
        tool_choice: Tree,
        parallel_tool_calls: bool,
        include_reasoning: bool,
    }
}

wire_object! {
    /// One turn of the conversation.
    pub(crate) struct Message {
        role: String,
        content: Content,
        name: String,
        tool_call_id: String,
        tool_calls: List<PastCall, 128>,
        reasoning_content: String,
        reasoning: String,
    }
}

/// What a message says.
#[derive(Debug)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

impl WireValue for Content {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        match raw.get().as_bytes().first() {
            Some(b'"') => reader.plain(raw).map(Self::Text),
            Some(b'[') => {
                List::<Part, MESSAGES_MAX>::read(raw, reader).map(|list| Self::Parts(list.0))
            }
            _ => Err(reader.error("expected a string, null, or a list of content parts")),
        }
    }
}

/// A piece of a message. Only `text` parts have text; the others are not read any further.
#[derive(Debug)]
pub(crate) struct Part {
    /// `type` on the wire.
    pub(crate) kind: Option<String>,
    pub(crate) text: Option<String>,
}

impl WireObject for Part {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        Ok(Self {
            kind: object.take(reader, "type")?,
            text: object.take(reader, "text")?,
        })
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletion {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) choices: Vec<ChatChoice>,
    pub(crate) usage: Usage,
    pub(crate) system_fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
    /// Ids of the rendered prompt, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

/// One alternative.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChoice {
    pub(crate) index: usize,
    pub(crate) message: AssistantMessage,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: &'static str,
    pub(crate) stop_reason: Option<StopReason>,
    /// Ids of the output's tokens, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// What the model said.
#[derive(Debug, Serialize)]
pub(crate) struct AssistantMessage {
    pub(crate) role: &'static str,
    /// Null when there is nothing but reasoning or calls.
    pub(crate) content: Option<String>,
    /// Under both names clients know it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<Call>,
    /// Always null: there is no separate refusal channel. OpenAI's schema requires the key.
    pub(crate) refusal: Option<Value>,
}

/// Log-probabilities of the content's tokens.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<ChatTokenLogprobs>,
}

/// One position: the chosen token and the likeliest ones.
#[derive(Debug, Serialize)]
pub(crate) struct ChatTokenLogprobs {
    #[serde(flatten)]
    pub(crate) chosen: ChatTokenLogprob,
    pub(crate) top_logprobs: Vec<ChatTokenLogprob>,
}

/// A token as text, its natural log-probability, and its bytes: a token can be half a character.
#[derive(Debug, Serialize)]
pub(crate) struct ChatTokenLogprob {
    pub(crate) token: String,
    pub(crate) logprob: f32,
    pub(crate) bytes: Vec<u8>,
}

/// One event of a streamed answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletionChunk<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: Vec<ChatChunkChoice>,
    /// Present when the caller asked for usage: null in every chunk but the last, or up to date in each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
    pub(crate) system_fingerprint: &'a str,
    /// In the first chunk of an alternative, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
}

/// What one alternative gained.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: ChatDelta,
    pub(crate) logprobs: Option<ChatLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// New parts of a message.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<Call>,
}
