//! `/api/…`, as Ollama's clients write and read it.

use serde::Serialize;
use serde_json::{Map, Value};

use super::common::{Integer, OneOrMany};
use super::read::{List, Object, ReadError, Reader, WireObject, wire_object};
use super::tools::{PastCall, Tree};

/// Messages a body may have.
const MESSAGES_MAX: usize = 16_384;

wire_object! {
    /// `POST /api/chat`.
    pub(crate) struct OllamaChatRequest {
        ..common: OllamaFields,
        messages: List<OllamaMessage, MESSAGES_MAX>,
        tools: Tree,
    }
}

wire_object! {
    /// `POST /api/generate`.
    pub(crate) struct OllamaGenerateRequest {
        ..common: OllamaFields,
        prompt: String,
        system: String,
        raw: bool,
    }
}

wire_object! {
    /// What both take.
    pub(crate) struct OllamaFields {
        model: String,
        stream: bool,
        think: Tree,
        options: OllamaOptions,
    }
}

wire_object! {
    /// `POST /api/show`.
    pub(crate) struct OllamaShowRequest {
        model: String,
        name: String,
    }
}

wire_object! {
    /// One turn of the conversation.
    pub(crate) struct OllamaMessage {
        role: String,
        content: String,
        thinking: String,
        tool_name: String,
        tool_call_id: String,
        tool_calls: List<PastCall, 128>,
        images: Tree,
    }
}

/// How the answer is drawn. Options of how a model is loaded are this server's own to decide.
#[derive(Debug, Default)]
pub(crate) struct OllamaOptions {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<Integer>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) seed: Option<Integer>,
    pub(crate) stop: Option<OneOrMany>,
    pub(crate) num_predict: Option<Integer>,
    pub(crate) repeat_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    /// Those that change the answer and are not honoured.
    pub(crate) refused: Map<String, Value>,
}

/// Options that would change the answer.
const REFUSED: [&str; 5] = [
    "mirostat",
    "tfs_z",
    "typical_p",
    "repeat_last_n",
    "penalize_newline",
];

impl WireObject for OllamaOptions {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        let mut refused = Map::new();
        for name in REFUSED {
            if let Some(Tree(value)) = object.take(reader, name)? {
                refused.insert(name.to_owned(), value);
            }
        }
        Ok(Self {
            temperature: object.take(reader, "temperature")?,
            top_k: object.take(reader, "top_k")?,
            top_p: object.take(reader, "top_p")?,
            min_p: object.take(reader, "min_p")?,
            seed: object.take(reader, "seed")?,
            stop: object.take(reader, "stop")?,
            num_predict: object.take(reader, "num_predict")?,
            repeat_penalty: object.take(reader, "repeat_penalty")?,
            presence_penalty: object.take(reader, "presence_penalty")?,
            frequency_penalty: object.take(reader, "frequency_penalty")?,
            refused,
        })
    }
}

/// A line of an answer, or all of it.
#[derive(Debug, Serialize)]
pub(crate) struct OllamaAnswer {
    pub(crate) model: String,
    pub(crate) created_at: String,
    /// Of a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<OllamaReply>,
    /// Of a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thinking: Option<String>,
    pub(crate) done: bool,
    #[serde(flatten)]
    pub(crate) end: Option<OllamaEnd>,
}

/// What the model said.
#[derive(Debug, Default, Serialize)]
pub(crate) struct OllamaReply {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thinking: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<OllamaCall>,
}

/// A call of a tool.
#[derive(Debug, Serialize)]
pub(crate) struct OllamaCall {
    pub(crate) id: String,
    pub(crate) function: OllamaFunction,
}

/// What is called.
#[derive(Debug, Serialize)]
pub(crate) struct OllamaFunction {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) arguments: Map<String, Value>,
}

/// How an answer ended. Durations are in nanoseconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct OllamaEnd {
    pub(crate) done_reason: &'static str,
    pub(crate) total_duration: u64,
    pub(crate) load_duration: u64,
    pub(crate) prompt_eval_count: u64,
    pub(crate) prompt_eval_duration: u64,
    pub(crate) eval_count: u64,
    pub(crate) eval_duration: u64,
}
