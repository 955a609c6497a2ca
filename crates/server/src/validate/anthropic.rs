//! The rules of `POST /v1/messages`.

use kvist_engine::{ChatInput, ChatMessage, GenerateSpec, Prompt};
use serde_json::{Map, Value};

use super::settings::{output_max, settings};
use super::tools::{History, Tool, ToolChoice, Toolbox, output_spec};
use super::unsupported::{self, let_through, refuse_unsupported};
use super::{Call, Circumstances, Delivery, Echo, Reasoning, StreamUsage, Told, out_of_range};
use crate::error::ApiError;
use crate::wire::anthropic::{Block, Content, Message, MessagesRequest, Thinking};
use crate::wire::common::{GenerationFields, Integer, OneOrMany};
use crate::wire::read::Received;
use crate::wire::tools::Tree;

/// A line that some clients begin their system prompt with, different in every request. It is not
/// meant for the model, and would keep the prompts from sharing anything.
const BILLING_LINE: &str = "x-anthropic-billing-header:";
/// Least tokens of thinking that can be asked for.
const BUDGET_MIN: i64 = 1024;

/// Checks a request for an answer.
pub(crate) fn messages(
    received: Received<MessagesRequest>,
    around: Circumstances<'_>,
) -> Result<Call, ApiError> {
    let mut ignored = refuse_unsupported(&received, unsupported::ANTHROPIC, around.unknown_fields)?;
    let mut body = received.body;
    let Some(Integer(asked)) = body.max_tokens else {
        let hint = "say how many tokens the answer may have";
        let field = "max_tokens";
        return Err(ApiError::Missing { field, hint });
    };
    let mut fields = GenerationFields {
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        stop: Some(stop_sequences(body.stop_sequences.take())?),
        user: body.metadata.take().and_then(|metadata| metadata.user_id),
        ..GenerationFields::default()
    };
    let mut settings = settings(&mut fields, around)?;
    settings.output_max = Some(output_max("max_tokens", asked)?);
    let delivery = match body.stream {
        Some(true) => Delivery::Stream(StreamUsage::Include),
        Some(false) | None => Delivery::Whole,
    };
    check_budget(body.thinking.as_ref(), asked, &mut ignored)?;
    let (input, toolbox) = conversation(body, around)?;
    let output = output_spec(&toolbox, around)?;
    settings.marks = output.marks().collect();
    Ok(Call {
        prompts: vec![Prompt::Chat(Box::new(input))],
        choices: 1,
        kept: 1,
        settings,
        delivery,
        echo: Echo::OutputOnly,
        output,
        reasoning: Reasoning::Show,
        told: Told::default(),
        ignored: let_through(ignored, around.unknown_fields)?,
    })
}

/// Checks a request for the number of tokens of its prompt.
pub(crate) fn counted_messages(
    received: Received<MessagesRequest>,
    around: Circumstances<'_>,
) -> Result<Prompt, ApiError> {
    refuse_unsupported(&received, unsupported::ANTHROPIC, around.unknown_fields)?;
    let (input, toolbox) = conversation(received.body, around)?;
    output_spec(&toolbox, around)?;
    Ok(Prompt::Chat(Box::new(input)))
}

fn stop_sequences(given: Option<OneOrMany>) -> Result<OneOrMany, ApiError> {
    let stops = given.unwrap_or_default();
    let limit = GenerateSpec::STOPS_MAX;
    let count = stops.0.len();
    if count > limit {
        let limit = format!("at most {limit} strings");
        return Err(out_of_range("stop_sequences", limit, &count));
    }
    if stops.0.iter().any(String::is_empty) {
        return Err(out_of_range(
            "stop_sequences",
            "made of non-empty strings",
            &"\"\"",
        ));
    }
    Ok(stops)
}

/// A budget has the bounds Anthropic gives it. There is no way to hold the model to it.
fn check_budget(
    thinking: Option<&Thinking>,
    output_max: i64,
    ignored: &mut Vec<String>,
) -> Result<(), ApiError> {
    let Some(Integer(given)) = thinking.and_then(|thinking| thinking.budget_tokens) else {
        return Ok(());
    };
    let field = "thinking.budget_tokens";
    if !(BUDGET_MIN..output_max).contains(&given) {
        let limit = format!("at least {BUDGET_MIN} and less than max_tokens, {output_max}");
        return Err(out_of_range(field, limit, &given));
    }
    ignored.push(field.to_owned());
    Ok(())
}

fn conversation(
    mut body: MessagesRequest,
    around: Circumstances<'_>,
) -> Result<(ChatInput, Toolbox), ApiError> {
    let toolbox = toolbox(&mut body)?;
    let hint = "give a list of messages";
    let field = "messages";
    let given = body.messages.ok_or(ApiError::Missing { field, hint })?.0;
    if given.is_empty() {
        return Err(out_of_range(field, "at least 1 message", &"an empty list"));
    }
    if given.last().and_then(|last| last.role.as_deref()) == Some("assistant") {
        return Err(ApiError::Unsupported {
            field: "a last message of role assistant".to_owned(),
            hint: "; the conversation has to end with the user",
        });
    }
    let mut messages = Vec::with_capacity(given.len() + 1);
    if let Some(text) = system(body.system)? {
        messages.push(message("system", Some(text)));
    }
    let mut history = History::default();
    for (index, each) in given.into_iter().enumerate() {
        turn(index, each, (&mut history, &mut messages))?;
    }
    let mut input = ChatInput {
        messages,
        tools: toolbox.shown(),
        add_generation_prompt: true,
        kwargs: template_arguments(body.thinking)?,
        ..ChatInput::default()
    };
    input.now.0 = i64::try_from(around.now_seconds).unwrap_or(i64::MAX);
    Ok((input, toolbox))
}

fn message(role: &str, content: Option<String>) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content,
        ..ChatMessage::default()
    }
}

/// The system prompt, without the lines that are no part of it.
fn system(given: Option<Content>) -> Result<Option<String>, ApiError> {
    let texts = match given {
        None => return Ok(None),
        Some(Content::Text(text)) => vec![text],
        Some(Content::Blocks(blocks)) => texts("system", blocks)?,
    };
    let kept = texts.into_iter().filter_map(|text| {
        if !text.contains(BILLING_LINE) {
            return Some(text);
        }
        let lines = text.lines();
        let kept: Vec<&str> = lines
            .filter(|line| !line.starts_with(BILLING_LINE))
            .collect();
        (!kept.is_empty()).then(|| kept.join("\n"))
    });
    let kept: Vec<String> = kept.collect();
    Ok((!kept.is_empty()).then(|| kept.join("\n")))
}

/// Blocks that must all be text.
fn texts(field: &str, blocks: Vec<Block>) -> Result<Vec<String>, ApiError> {
    let text = |(index, block): (usize, Block)| {
        let field = format!("{field}[{index}]");
        match block.kind.as_deref() {
            Some("text") => required(&format!("{field}.text"), block.text),
            other => Err(unreadable(&field, other)),
        }
    };
    blocks.into_iter().enumerate().map(text).collect()
}

fn required(field: &str, text: Option<String>) -> Result<String, ApiError> {
    text.ok_or_else(|| out_of_range(field, "a string", &"missing"))
}

fn unreadable(field: &str, kind: Option<&str>) -> ApiError {
    match kind {
        None => out_of_range(format!("{field}.type"), "the type of a block", &"missing"),
        Some(kind) => ApiError::Unsupported {
            field: format!("{field}.type {kind:?}"),
            hint: "; this model reads text only",
        },
    }
}

/// What the blocks of one message come to.
#[derive(Default)]
struct Parts {
    texts: Vec<String>,
    thoughts: Vec<String>,
    calls: Vec<Value>,
    /// Results of tools, which templates want as messages of their own.
    results: Vec<ChatMessage>,
}

/// One message, which becomes several if it has results of tools.
fn turn(
    index: usize,
    given: Message,
    (history, messages): (&mut History, &mut Vec<ChatMessage>),
) -> Result<(), ApiError> {
    let field = format!("messages[{index}]");
    let is_assistant = match given.role.as_deref() {
        Some("user") => false,
        Some("assistant") => true,
        given => {
            let given = given.map_or("missing".to_owned(), |role| format!("{role:?}"));
            return Err(out_of_range(
                format!("{field}.role"),
                "user or assistant",
                &given,
            ));
        }
    };
    let field = format!("{field}.content");
    let parts = match given.content {
        None => {
            return Err(out_of_range(
                field,
                "a string or a list of blocks",
                &"missing",
            ));
        }
        Some(Content::Text(text)) => Parts {
            texts: vec![text],
            ..Parts::default()
        },
        Some(Content::Blocks(blocks)) if blocks.is_empty() => {
            return Err(out_of_range(field, "at least 1 block", &"an empty list"));
        }
        Some(Content::Blocks(blocks)) => parts(&field, blocks, (is_assistant, history))?,
    };
    messages.extend(parts.results);
    let text = (!parts.texts.is_empty()).then(|| parts.texts.join("\n"));
    if is_assistant {
        let mut message = message("assistant", text);
        if !parts.thoughts.is_empty() {
            let thoughts = Value::String(parts.thoughts.join("\n"));
            message
                .extra
                .insert("reasoning_content".to_owned(), thoughts);
        }
        if !parts.calls.is_empty() {
            let calls = Value::Array(parts.calls);
            message.extra.insert("tool_calls".to_owned(), calls);
        }
        messages.push(message);
    } else if text.is_some() {
        messages.push(message("user", text));
    }
    Ok(())
}

fn parts(
    field: &str,
    blocks: Vec<Block>,
    (is_assistant, history): (bool, &mut History),
) -> Result<Parts, ApiError> {
    let mut parts = Parts::default();
    for (index, block) in blocks.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        match (block.kind.as_deref(), is_assistant) {
            (Some("text"), _) => parts
                .texts
                .push(required(&format!("{field}.text"), block.text)?),
            (Some("thinking"), true) => parts.thoughts.extend(block.thinking),
            // Nobody can read it.
            (Some("redacted_thinking"), true) => {}
            (Some("tool_use"), true) => {
                let name = required(&format!("{field}.name"), block.name)?;
                let input = block.input.unwrap_or_default().0;
                let call = history.call(&format!("{field}.input"), (block.id, name, input))?;
                parts.calls.push(call);
            }
            (Some("tool_result"), false) => {
                let id = required(&format!("{field}.tool_use_id"), block.tool_use_id)?;
                let text = match block.content.map(|content| *content) {
                    None => String::new(),
                    Some(Content::Text(text)) => text,
                    Some(Content::Blocks(blocks)) => {
                        texts(&format!("{field}.content"), blocks)?.join("\n")
                    }
                };
                let mut result = message("tool", Some(text));
                result
                    .extra
                    .insert("tool_call_id".to_owned(), Value::String(id));
                parts.results.push(result);
            }
            (kind, _) => return Err(unreadable(&field, kind)),
        }
    }
    Ok(parts)
}

fn toolbox(body: &mut MessagesRequest) -> Result<Toolbox, ApiError> {
    let tools = match body.tools.take() {
        None => Vec::new(),
        Some(Tree(Value::Array(items))) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| tool(&format!("tools[{index}]"), item))
            .collect::<Result<_, _>>()?,
        Some(Tree(other)) => return Err(out_of_range("tools", "a list of tools", &other)),
    };
    let choice = body.tool_choice.take().unwrap_or_default();
    let toolbox = Toolbox {
        tools,
        calls_max: (choice.disable_parallel_tool_use == Some(true)).then_some(1),
        choice: match (choice.kind.as_deref(), choice.name) {
            (None | Some("auto"), _) => ToolChoice::Auto,
            (Some("none"), _) => ToolChoice::None,
            (Some("any"), _) => ToolChoice::Required,
            (Some("tool"), Some(name)) => ToolChoice::Named(name),
            (Some("tool"), None) => {
                return Err(out_of_range(
                    "tool_choice.name",
                    "the name of a tool",
                    &"missing",
                ));
            }
            (Some(other), _) => {
                let given = format_args!("{other:?}");
                return Err(out_of_range(
                    "tool_choice.type",
                    "auto, any, tool or none",
                    &given,
                ));
            }
        },
    };
    toolbox.check()?;
    Ok(toolbox)
}

/// A tool of the client's own; the others are ones that Anthropic's models know.
fn tool(field: &str, given: Value) -> Result<Tool, ApiError> {
    let Value::Object(mut given) = given else {
        return Err(out_of_range(field, "an object", &given));
    };
    match given.get("type") {
        None | Some(Value::Null) => {}
        Some(kind) if kind == "custom" => {}
        Some(other) => {
            return Err(ApiError::Unsupported {
                field: format!("{field}.type {other}"),
                hint: "; only \"custom\" is",
            });
        }
    }
    let mut text = |name: &str| match given.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(out_of_range(format!("{field}.{name}"), "a string", &other)),
    };
    let (name, description) = (text("name")?, text("description")?);
    Tool::new(field, (name, description, given.remove("input_schema")))
}

/// Models that can be told whether to think are told so by these names.
fn template_arguments(thinking: Option<Thinking>) -> Result<Map<String, Value>, ApiError> {
    let mut arguments = Map::new();
    let thinks = match thinking.map(|thinking| thinking.kind) {
        None => return Ok(arguments),
        Some(kind) => match kind.as_deref() {
            Some("enabled" | "adaptive") => true,
            Some("disabled") => false,
            given => {
                let given = format!("{given:?}");
                let limit = "enabled, adaptive or disabled";
                return Err(out_of_range("thinking.type", limit, &given));
            }
        },
    };
    for name in ["enable_thinking", "thinking"] {
        arguments.insert(name.to_owned(), Value::Bool(thinks));
    }
    Ok(arguments)
}
