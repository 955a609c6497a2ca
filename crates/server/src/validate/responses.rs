//! The rules of `POST /v1/responses`.

use kvist_engine::{ChatInput, ChatMessage, Prompt};
use serde_json::{Map, Value, json};

use super::settings::{output_max, settings};
use super::tools::{History, Toolbox, check_kind, function_tool, openai_choice, output_spec};
use super::unsupported::{self, let_through, refuse_unsupported};
use super::{Call, Circumstances, Delivery, Echo, Reasoning, StreamUsage, Told, out_of_range};
use crate::error::ApiError;
use crate::wire::common::{GenerationFields, Integer};
use crate::wire::read::Received;
use crate::wire::responses::{
    Echoed, Input, InputItem, ItemContent, ItemPart, ResponsesRequest, TextSettings,
};
use crate::wire::tools::Tree;

/// OpenAI's bound on the entries of `metadata`.
const METADATA_MAX: usize = 16;

/// A checked request.
#[derive(Debug)]
pub(crate) struct ResponsesCall {
    pub(crate) call: Call,
    /// The conversation so far, without instructions, which are for one answer alone.
    pub(crate) messages: Vec<ChatMessage>,
    pub(crate) echoed: Echoed,
}

/// Checks a request that goes on from `before`.
pub(crate) fn responses(
    received: Received<ResponsesRequest>,
    before: Vec<ChatMessage>,
    around: Circumstances<'_>,
) -> Result<ResponsesCall, ApiError> {
    let mut ignored = refuse_unsupported(&received, unsupported::RESPONSES, around.unknown_fields)?;
    let mut body = received.body;
    check_settings(&body)?;
    let mut fields = GenerationFields {
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        seed: body.seed,
        user: body.user.clone(),
        ..GenerationFields::default()
    };
    let mut settings = settings(&mut fields, around)?;
    settings.output_max = match body.max_output_tokens {
        None => None,
        Some(Integer(given)) => Some(output_max("max_output_tokens", given)?),
    };
    let toolbox = toolbox(&mut body, &mut ignored)?;
    let output = output_spec(&toolbox, around)?;
    settings.marks = output.marks().collect();
    let hint = "give a string or a list of items";
    let field = "input";
    let input = body.input.take().ok_or(ApiError::Missing { field, hint })?;
    let messages = conversation(input, before)?;
    let instructions = body
        .instructions
        .iter()
        .map(|text| plain("system", text.clone()));
    let mut chat = ChatInput {
        messages: instructions.chain(messages.iter().cloned()).collect(),
        tools: toolbox.shown(),
        add_generation_prompt: true,
        kwargs: template_arguments(body.reasoning.as_ref())?,
        ..ChatInput::default()
    };
    chat.now.0 = i64::try_from(around.now_seconds).unwrap_or(i64::MAX);
    let echoed = echoed(&body, &settings.sampling, &toolbox);
    let call = Call {
        prompts: vec![Prompt::Chat(Box::new(chat))],
        choices: 1,
        kept: 1,
        settings,
        delivery: match body.stream {
            Some(true) => Delivery::Stream(StreamUsage::Include),
            Some(false) | None => Delivery::Whole,
        },
        echo: Echo::OutputOnly,
        output,
        reasoning: Reasoning::Show,
        told: Told::default(),
        ignored: let_through(ignored, around.unknown_fields)?,
    };
    Ok(ResponsesCall {
        call,
        messages,
        echoed,
    })
}

fn check_settings(body: &ResponsesRequest) -> Result<(), ApiError> {
    let unsupported = |field: &str, hint| {
        let field = field.to_owned();
        Err(ApiError::Unsupported { field, hint })
    };
    if let Some(TextSettings { format, verbosity }) = &body.text {
        let kind = format.as_ref().and_then(|Tree(format)| format.get("type"));
        if kind.is_some_and(|kind| kind != "text") {
            return unsupported("text.format", "; only {\"type\": \"text\"} is");
        }
        if verbosity
            .as_ref()
            .is_some_and(|verbosity| verbosity != "medium")
        {
            return unsupported("text.verbosity", "");
        }
    }
    if body
        .truncation
        .as_ref()
        .is_some_and(|given| given != "disabled")
    {
        return unsupported("truncation", "; input that is too long is refused");
    }
    let entries = body
        .metadata
        .as_ref()
        .map_or(0, |metadata| metadata.0.len());
    if entries > METADATA_MAX {
        let limit = format!("at most {METADATA_MAX} entries");
        return Err(out_of_range("metadata", limit, &entries));
    }
    Ok(())
}

fn toolbox(body: &mut ResponsesRequest, ignored: &mut Vec<String>) -> Result<Toolbox, ApiError> {
    let mut tools = Vec::new();
    let items = match body.tools.take() {
        None => Vec::new(),
        Some(Tree(Value::Array(items))) => items,
        Some(Tree(other)) => return Err(out_of_range("tools", "a list of tools", &other)),
    };
    for (index, item) in items.into_iter().enumerate() {
        let field = format!("tools[{index}]");
        let Value::Object(function) = item else {
            return Err(out_of_range(field, "an object", &item));
        };
        check_kind(&field, function.get("type"))?;
        tools.push(function_tool(&field, function, ignored)?);
    }
    let toolbox = Toolbox {
        tools,
        choice: openai_choice(body.tool_choice.as_ref().map(|Tree(choice)| choice))?,
        calls_max: (body.parallel_tool_calls == Some(false)).then_some(1),
    };
    toolbox.check()?;
    Ok(toolbox)
}

/// `reasoning.effort`, for templates that can be told.
fn template_arguments(given: Option<&Tree>) -> Result<Map<String, Value>, ApiError> {
    let mut arguments = Map::new();
    let effort = given.and_then(|Tree(reasoning)| reasoning.get("effort"));
    match effort {
        None | Some(Value::Null) => return Ok(arguments),
        Some(Value::String(effort))
            if ["none", "minimal", "low", "medium", "high", "xhigh"].contains(&effort.as_str()) =>
        {
            let thinks = Value::Bool(effort != "none");
            arguments.insert("enable_thinking".to_owned(), thinks.clone());
            arguments.insert("thinking".to_owned(), thinks);
            arguments.insert("reasoning_effort".to_owned(), json!(effort));
        }
        Some(other) => {
            let limit = "none, minimal, low, medium, high or xhigh";
            return Err(out_of_range("reasoning.effort", limit, other));
        }
    }
    Ok(arguments)
}

fn echoed(
    body: &ResponsesRequest,
    sampling: &kvist_engine::SamplingSpec,
    toolbox: &Toolbox,
) -> Echoed {
    let output_max = body.max_output_tokens.map(|Integer(given)| given);
    let tools = toolbox.tools.iter().map(|tool| {
        let mut function = tool.shown["function"].clone();
        function["type"] = json!("function");
        function
    });
    Echoed {
        instructions: body.instructions.clone(),
        max_output_tokens: output_max.and_then(|given| u32::try_from(given).ok()),
        parallel_tool_calls: body.parallel_tool_calls != Some(false),
        previous_response_id: body.previous_response_id.clone(),
        store: body.store != Some(false),
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        tool_choice: match &body.tool_choice {
            Some(Tree(choice)) => choice.clone(),
            None => json!("auto"),
        },
        tools: Value::Array(tools.collect()),
        metadata: body.metadata.clone().unwrap_or_default().0,
        user: body.user.clone(),
    }
}

fn plain(role: &str, text: String) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content: Some(text),
        ..ChatMessage::default()
    }
}

fn conversation(input: Input, before: Vec<ChatMessage>) -> Result<Vec<ChatMessage>, ApiError> {
    let mut messages = before;
    let items = match input {
        Input::Text(text) => {
            messages.push(plain("user", text));
            return Ok(messages);
        }
        Input::Items(items) if items.is_empty() => {
            return Err(out_of_range("input", "at least 1 item", &"an empty list"));
        }
        Input::Items(items) => items,
    };
    let mut history = History::default();
    for (index, each) in items.into_iter().enumerate() {
        item(
            &format!("input[{index}]"),
            each,
            (&mut history, &mut messages),
        )?;
    }
    Ok(messages)
}

fn item(
    field: &str,
    given: InputItem,
    (history, messages): (&mut History, &mut Vec<ChatMessage>),
) -> Result<(), ApiError> {
    let missing = |name: &str| out_of_range(format!("{field}.{name}"), "a string", &"missing");
    match given.kind.as_deref() {
        None | Some("message") => {
            let role = match given.role.as_deref() {
                Some(role @ ("system" | "user" | "assistant")) => role,
                Some("developer") => "system",
                given => {
                    let roles = "one of system, developer, user, assistant";
                    let given = given.map_or("missing".to_owned(), |role| format!("{role:?}"));
                    return Err(out_of_range(format!("{field}.role"), roles, &given));
                }
            };
            let content = given.content.ok_or_else(|| missing("content"))?;
            let text = text(&format!("{field}.content"), content)?;
            match own_turn(messages, role) {
                // The model's words, behind its reasoning.
                Some(turn) if turn.content.is_none() && !turn.extra.contains_key("tool_calls") => {
                    turn.content = Some(text);
                }
                _ => messages.push(plain(role, text)),
            }
        }
        Some("function_call") => {
            let name = given.name.ok_or_else(|| missing("name"))?;
            let arguments = given.arguments.unwrap_or_default().0;
            let id = given.call_id.ok_or_else(|| missing("call_id"))?;
            let call = (Some(id), name, arguments);
            let call = history.call(&format!("{field}.arguments"), call)?;
            let turn = open_turn(messages);
            let calls = turn.extra.entry("tool_calls").or_insert_with(|| json!([]));
            if let Value::Array(calls) = calls {
                calls.push(call);
            }
        }
        Some("function_call_output") => {
            let id = given.call_id.ok_or_else(|| missing("call_id"))?;
            let output = given.output.ok_or_else(|| missing("output"))?;
            let mut result = plain("tool", text(&format!("{field}.output"), output)?);
            result.extra.insert("tool_call_id".to_owned(), json!(id));
            messages.push(result);
        }
        Some("reasoning") => {
            if let Some(content) = given.content {
                let text = text(&format!("{field}.content"), content)?;
                let mut turn = plain("assistant", String::new());
                turn.content = None;
                turn.extra
                    .insert("reasoning_content".to_owned(), json!(text));
                messages.push(turn);
            }
        }
        Some(other) => {
            return Err(ApiError::Unsupported {
                field: format!("{field}.type {other:?}"),
                hint: "",
            });
        }
    }
    Ok(())
}

/// The message that the model began, if `role` goes on with it.
fn own_turn<'m>(messages: &'m mut [ChatMessage], role: &str) -> Option<&'m mut ChatMessage> {
    let last = messages
        .last_mut()
        .filter(|last| last.role == "assistant")?;
    (role == "assistant").then_some(last)
}

/// The message that the model's calls belong to.
fn open_turn(messages: &mut Vec<ChatMessage>) -> &mut ChatMessage {
    if messages.last().is_none_or(|last| last.role != "assistant") {
        let mut turn = plain("assistant", String::new());
        turn.content = None;
        messages.push(turn);
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

fn text(field: &str, content: ItemContent) -> Result<String, ApiError> {
    let parts = match content {
        ItemContent::Text(text) => return Ok(text),
        ItemContent::Parts(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, ItemPart { kind, text }) in parts.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        match (kind.as_deref(), text) {
            (Some("input_text" | "output_text" | "reasoning_text" | "text"), Some(text)) => {
                texts.push(text);
            }
            (Some("input_text" | "output_text" | "reasoning_text" | "text"), None) => {
                return Err(out_of_range(
                    format!("{field}.text"),
                    "a string",
                    &"missing",
                ));
            }
            (Some(other), _) => {
                return Err(ApiError::Unsupported {
                    field: format!("{field}.type {other:?}"),
                    hint: "; this model reads text only",
                });
            }
            (None, _) => {
                let limit = "the type of a part";
                return Err(out_of_range(format!("{field}.type"), limit, &"missing"));
            }
        }
    }
    Ok(texts.join("\n"))
}
