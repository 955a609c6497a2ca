//! `POST /v1/responses`, as OpenAI's clients write and read it.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::common::{Integer, SmallObject};
use super::read::{List, Object, ReadError, Reader, WireObject, WireValue, wire_object};
use super::tools::{ArgumentsText, Tree};

/// Items, and parts of one item, a body may have.
const ITEMS_MAX: usize = 16_384;

wire_object! {
    /// The request.
    pub(crate) struct ResponsesRequest {
        model: String,
        input: Input,
        instructions: String,
        max_output_tokens: Integer,
        temperature: f32,
        top_p: f32,
        top_k: Integer,
        seed: Integer,
        stream: bool,
        store: bool,
        previous_response_id: String,
        tools: Tree,
        tool_choice: Tree,
        parallel_tool_calls: bool,
        reasoning: Tree,
        text: TextSettings,
        metadata: SmallObject,
        truncation: String,
        user: String,
    }
}

wire_object! {
    /// What the text is to look like.
    pub(crate) struct TextSettings {
        format: Tree,
        verbosity: String,
    }
}

/// What the model is to answer.
#[derive(Debug)]
pub(crate) enum Input {
    Text(String),
    Items(Vec<InputItem>),
}

impl WireValue for Input {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        match raw.get().as_bytes().first() {
            Some(b'"') => reader.plain(raw).map(Self::Text),
            Some(b'[') => {
                List::<InputItem, ITEMS_MAX>::read(raw, reader).map(|list| Self::Items(list.0))
            }
            _ => Err(reader.error("expected a string or a list of items")),
        }
    }
}

/// One item. Which fields mean something depends on its type.
#[derive(Debug, Default)]
pub(crate) struct InputItem {
    pub(crate) kind: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) content: Option<ItemContent>,
    pub(crate) call_id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) arguments: Option<ArgumentsText>,
    pub(crate) output: Option<ItemContent>,
}

impl WireObject for InputItem {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        // Answers come back as they were sent: these say nothing that the model has to know.
        for inert in ["id", "status", "summary", "encrypted_content", "phase"] {
            object.take::<Tree>(reader, inert)?;
        }
        Ok(Self {
            kind: object.take(reader, "type")?,
            role: object.take(reader, "role")?,
            content: object.take(reader, "content")?,
            call_id: object.take(reader, "call_id")?,
            name: object.take(reader, "name")?,
            arguments: object.take(reader, "arguments")?,
            output: object.take(reader, "output")?,
        })
    }
}

/// A text, or parts.
#[derive(Debug)]
pub(crate) enum ItemContent {
    Text(String),
    Parts(Vec<ItemPart>),
}

impl WireValue for ItemContent {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        match raw.get().as_bytes().first() {
            Some(b'"') => reader.plain(raw).map(Self::Text),
            Some(b'[') => {
                List::<ItemPart, ITEMS_MAX>::read(raw, reader).map(|list| Self::Parts(list.0))
            }
            _ => Err(reader.error("expected a string or a list of parts")),
        }
    }
}

/// A part of an item.
#[derive(Debug)]
pub(crate) struct ItemPart {
    pub(crate) kind: Option<String>,
    pub(crate) text: Option<String>,
}

impl WireObject for ItemPart {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        for inert in ["annotations", "logprobs"] {
            object.take::<Tree>(reader, inert)?;
        }
        Ok(Self {
            kind: object.take(reader, "type")?,
            text: object.take(reader, "text")?,
        })
    }
}

/// What the answer repeats of the request.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Echoed {
    pub(crate) instructions: Option<String>,
    pub(crate) max_output_tokens: Option<u32>,
    pub(crate) parallel_tool_calls: bool,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) store: bool,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) tool_choice: Value,
    pub(crate) tools: Value,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) user: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ResponseObject {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created_at: u64,
    pub(crate) status: &'static str,
    pub(crate) error: Option<Value>,
    pub(crate) incomplete_details: Option<Value>,
    pub(crate) model: String,
    pub(crate) output: Vec<OutputItem>,
    pub(crate) truncation: &'static str,
    pub(crate) text: Value,
    pub(crate) reasoning: Value,
    pub(crate) usage: Option<ResponseUsage>,
    #[serde(flatten)]
    pub(crate) echoed: Echoed,
}

/// A piece of an answer.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputItem {
    Reasoning {
        id: String,
        summary: [Value; 0],
        content: Vec<ContentPart>,
        status: &'static str,
    },
    Message {
        id: String,
        role: &'static str,
        content: Vec<ContentPart>,
        status: &'static str,
    },
    FunctionCall {
        id: String,
        call_id: String,
        name: String,
        arguments: String,
        status: &'static str,
    },
}

/// A piece of an item.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ContentPart {
    OutputText {
        text: String,
        annotations: [Value; 0],
        logprobs: [Value; 0],
    },
    ReasoningText {
        text: String,
    },
}

/// Tokens a response took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ResponseUsage {
    pub(crate) input_tokens: u64,
    pub(crate) input_tokens_details: Value,
    pub(crate) output_tokens: u64,
    pub(crate) output_tokens_details: Value,
    pub(crate) total_tokens: u64,
}
