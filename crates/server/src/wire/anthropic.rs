//! `POST /v1/messages`, as Anthropic's clients write and read it.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::common::{Integer, OneOrMany};
use super::read::{List, Object, ReadError, Reader, WireObject, WireValue, wire_object};
use super::tools::Tree;

/// Messages, and blocks of one message, a body may have.
const MESSAGES_MAX: usize = 16_384;

wire_object! {
    /// The request, also for counting its tokens.
    pub(crate) struct MessagesRequest {
        model: String,
        messages: List<Message, MESSAGES_MAX>,
        system: Content,
        max_tokens: Integer,
        temperature: f32,
        top_p: f32,
        top_k: Integer,
        stop_sequences: OneOrMany,
        stream: bool,
        tools: Tree,
        tool_choice: ToolChoice,
        thinking: Thinking,
        metadata: Metadata,
    }
}

wire_object! {
    /// One turn of the conversation.
    pub(crate) struct Message {
        role: String,
        content: Content,
    }
}

wire_object! {
    /// Who the request is for.
    pub(crate) struct Metadata {
        user_id: String,
    }
}

/// Whether the model thinks before it answers.
#[derive(Debug, Default)]
pub(crate) struct Thinking {
    pub(crate) kind: Option<String>,
    pub(crate) budget_tokens: Option<Integer>,
}

impl WireObject for Thinking {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        Ok(Self {
            kind: object.take(reader, "type")?,
            budget_tokens: object.take(reader, "budget_tokens")?,
        })
    }
}

/// Whether the model may call tools, or must.
#[derive(Debug, Default)]
pub(crate) struct ToolChoice {
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) disable_parallel_tool_use: Option<bool>,
}

impl WireObject for ToolChoice {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        Ok(Self {
            kind: object.take(reader, "type")?,
            name: object.take(reader, "name")?,
            disable_parallel_tool_use: object.take(reader, "disable_parallel_tool_use")?,
        })
    }
}

/// What a message says.
#[derive(Debug)]
pub(crate) enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

impl WireValue for Content {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        match raw.get().as_bytes().first() {
            Some(b'"') => reader.plain(raw).map(Self::Text),
            Some(b'[') => {
                List::<Block, MESSAGES_MAX>::read(raw, reader).map(|list| Self::Blocks(list.0))
            }
            _ => Err(reader.error("expected a string or a list of content blocks")),
        }
    }
}

/// A piece of a message. Which fields mean something depends on its type.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) kind: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) thinking: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    /// JSON text.
    pub(crate) input: Option<JsonText>,
    pub(crate) tool_use_id: Option<String>,
    pub(crate) content: Option<Box<Content>>,
}

impl WireObject for Block {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        // Caching needs no marks here, signatures are not looked at, and templates have no place
        // for the news that a result is an error.
        for inert in ["cache_control", "signature", "citations", "is_error"] {
            object.take::<Tree>(reader, inert)?;
        }
        let kind: Option<String> = object.take(reader, "type")?;
        Ok(Self {
            text: object.take(reader, "text")?,
            thinking: object.take(reader, "thinking")?,
            id: object.take(reader, "id")?,
            name: object.take(reader, "name")?,
            input: object.take(reader, "input")?,
            tool_use_id: object.take(reader, "tool_use_id")?,
            content: match kind.as_deref() {
                Some("tool_result") => object.take::<Content>(reader, "content")?.map(Box::new),
                _ => None,
            },
            kind,
        })
    }
}

/// Any JSON, left as text.
#[derive(Debug, Default)]
pub(crate) struct JsonText(pub(crate) String);

impl WireValue for JsonText {
    fn read(raw: &RawValue, _: &mut Reader) -> Result<Self, ReadError> {
        Ok(Self(raw.get().to_owned()))
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct MessageAnswer {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) role: &'static str,
    pub(crate) model: String,
    pub(crate) content: Vec<AnswerBlock>,
    pub(crate) stop_reason: Option<&'static str>,
    pub(crate) stop_sequence: Option<String>,
    pub(crate) usage: MessageUsage,
}

/// A piece of an answer.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum AnswerBlock {
    Text {
        text: String,
    },
    /// There is nobody who would check a signature.
    Thinking {
        thinking: String,
        signature: &'static str,
    },
    ToolUse {
        id: String,
        name: String,
        input: Map<String, Value>,
    },
}

/// Tokens a message took. Those that came from the cache are not among `input_tokens`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct MessageUsage {
    pub(crate) input_tokens: u64,
    pub(crate) cache_creation_input_tokens: u64,
    pub(crate) cache_read_input_tokens: u64,
    pub(crate) output_tokens: u64,
}

/// One event of a streamed answer.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum MessageEvent<'a> {
    MessageStart {
        message: MessageAnswer,
    },
    ContentBlockStart {
        index: usize,
        content_block: AnswerBlock,
    },
    ContentBlockDelta {
        index: usize,
        delta: BlockDelta<'a>,
    },
    ContentBlockStop {
        index: usize,
    },
    MessageDelta {
        delta: MessageEnd,
        usage: MessageUsage,
    },
    MessageStop {},
}

impl MessageEvent<'_> {
    /// The name the event is framed under, which is its type.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
        }
    }
}

/// What a block gained.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
pub(crate) enum BlockDelta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

/// How the message ended.
#[derive(Debug, Serialize)]
pub(crate) struct MessageEnd {
    pub(crate) stop_reason: Option<&'static str>,
    pub(crate) stop_sequence: Option<String>,
}

/// The answer to a count.
#[derive(Debug, Serialize)]
pub(crate) struct TokenCount {
    pub(crate) input_tokens: u64,
}
