//! The rules of `/api/chat` and `/api/generate`.

use kvist_engine::{ChatInput, ChatMessage, Prompt};
use serde_json::{Map, Value};

use super::settings::{output_max, settings};
use super::tools::{History, ToolChoice, Toolbox, openai_tools, output_spec};
use super::unsupported::{self, let_through, refuse_unsupported};
use super::{Call, Circumstances, Delivery, Echo, Reasoning, StreamUsage, Told, out_of_range};
use crate::error::ApiError;
use crate::wire::common::{GenerationFields, Integer};
use crate::wire::ollama::{
    OllamaChatRequest, OllamaFields, OllamaGenerateRequest, OllamaMessage, OllamaOptions,
};
use crate::wire::read::Received;
use crate::wire::tools::Tree;

/// Ollama's own defaults, which its clients count on.
const TEMPERATURE: f32 = 0.8;
const TOP_K: i64 = 40;
const TOP_P: f32 = 0.9;

/// A checked request. Without a prompt it asks for the model to be loaded, and that is done.
#[derive(Debug)]
pub(crate) enum OllamaCall {
    Load,
    Run(Box<Call>),
}

/// Checks a chat.
pub(crate) fn ollama_chat(
    received: Received<OllamaChatRequest>,
    around: Circumstances<'_>,
) -> Result<OllamaCall, ApiError> {
    let mut ignored = refuse_unsupported(&received, unsupported::OLLAMA, around.unknown_fields)?;
    let body = received.body;
    let toolbox = Toolbox {
        tools: openai_tools(body.tools.map(|Tree(tools)| tools), &mut ignored)?,
        choice: ToolChoice::Auto,
        calls_max: None,
    };
    toolbox.check()?;
    let given = body.messages.unwrap_or_default().0;
    if given.is_empty() {
        return Ok(OllamaCall::Load);
    }
    let mut history = History::default();
    let messages = given.into_iter().enumerate();
    let messages = messages.map(|(index, each)| message(index, each, &mut history));
    let input = ChatInput {
        messages: messages.collect::<Result<_, _>>()?,
        tools: toolbox.shown(),
        ..ChatInput::default()
    };
    let prompt = conversation(input, body.common.think.as_ref(), around)?;
    let mut call = call(body.common, (prompt, ignored), around)?;
    call.output = output_spec(&toolbox, around)?;
    Ok(finished(call))
}

/// Checks a prompt.
pub(crate) fn ollama_generate(
    received: Received<OllamaGenerateRequest>,
    around: Circumstances<'_>,
) -> Result<OllamaCall, ApiError> {
    let ignored = refuse_unsupported(&received, unsupported::OLLAMA, around.unknown_fields)?;
    let body = received.body;
    let text = body.prompt.unwrap_or_default();
    if text.is_empty() {
        return Ok(OllamaCall::Load);
    }
    if body.raw == Some(true) {
        if body.system.is_some_and(|system| !system.is_empty()) {
            let (field, reason) = ("system", "with raw: true");
            return Err(ApiError::Conflict { field, reason });
        }
        let call = call(body.common, (Prompt::Text(text), ignored), around)?;
        return Ok(finished(call));
    }
    let message = |role: &str, text: String| ChatMessage {
        role: role.to_owned(),
        content: Some(text),
        ..ChatMessage::default()
    };
    let system = body.system.filter(|system| !system.is_empty());
    let system = system.map(|system| message("system", system));
    let input = ChatInput {
        messages: system.into_iter().chain([message("user", text)]).collect(),
        ..ChatInput::default()
    };
    let prompt = conversation(input, body.common.think.as_ref(), around)?;
    let mut call = call(body.common, (prompt, ignored), around)?;
    call.output = output_spec(&Toolbox::default(), around)?;
    Ok(finished(call))
}

fn finished(mut call: Call) -> OllamaCall {
    call.settings.marks = call.output.marks().collect();
    OllamaCall::Run(Box::new(call))
}

fn conversation(
    mut input: ChatInput,
    think: Option<&Tree>,
    around: Circumstances<'_>,
) -> Result<Prompt, ApiError> {
    input.add_generation_prompt = true;
    input.kwargs = template_arguments(think)?;
    input.now.0 = i64::try_from(around.now_seconds).unwrap_or(i64::MAX);
    Ok(Prompt::Chat(Box::new(input)))
}

fn template_arguments(think: Option<&Tree>) -> Result<Map<String, Value>, ApiError> {
    let mut arguments = Map::new();
    let Some(Tree(think)) = think else {
        return Ok(arguments);
    };
    let thinks = match think {
        Value::Bool(thinks) => *thinks,
        Value::String(effort) if ["low", "medium", "high"].contains(&effort.as_str()) => {
            arguments.insert("reasoning_effort".to_owned(), think.clone());
            true
        }
        other => {
            return Err(out_of_range(
                "think",
                "true, false, low, medium or high",
                other,
            ));
        }
    };
    for name in ["enable_thinking", "thinking"] {
        arguments.insert(name.to_owned(), Value::Bool(thinks));
    }
    Ok(arguments)
}

fn call(
    fields: OllamaFields,
    (prompt, ignored): (Prompt, Vec<String>),
    around: Circumstances<'_>,
) -> Result<Call, ApiError> {
    let options = fields.options.unwrap_or_default();
    if let Some(name) = options.refused.keys().next() {
        return Err(ApiError::Unsupported {
            field: format!("options.{name}"),
            hint: "",
        });
    }
    let output = match options.num_predict {
        // As many as fit.
        None | Some(Integer(..0)) => None,
        Some(Integer(given)) => Some(output_max("options.num_predict", given)?),
    };
    let mut settings = settings(&mut generation(options), around)?;
    settings.output_max = output;
    Ok(Call {
        prompts: vec![prompt],
        choices: 1,
        kept: 1,
        settings,
        delivery: match fields.stream {
            Some(false) => Delivery::Whole,
            Some(true) | None => Delivery::Stream(StreamUsage::Include),
        },
        echo: Echo::OutputOnly,
        output: kvist_engine::OutputSpec::default(),
        reasoning: match &fields.think {
            Some(Tree(Value::Bool(false))) => Reasoning::Hide,
            _ => Reasoning::Show,
        },
        told: Told::default(),
        ignored: let_through(ignored, around.unknown_fields)?,
    })
}

fn generation(options: OllamaOptions) -> GenerationFields {
    GenerationFields {
        temperature: options.temperature.or(Some(TEMPERATURE)),
        top_k: options.top_k.or(Some(Integer(TOP_K))),
        top_p: options.top_p.or(Some(TOP_P)),
        min_p: options.min_p,
        seed: options.seed,
        stop: options.stop,
        repetition_penalty: options.repeat_penalty,
        presence_penalty: options.presence_penalty,
        frequency_penalty: options.frequency_penalty,
        ..GenerationFields::default()
    }
}

fn message(
    index: usize,
    given: OllamaMessage,
    history: &mut History,
) -> Result<ChatMessage, ApiError> {
    let field = |name: &str| format!("messages[{index}].{name}");
    let role = match given.role.as_deref() {
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role.to_owned(),
        given => {
            let given = given.map_or("missing".to_owned(), |role| format!("{role:?}"));
            let roles = "one of system, user, assistant, tool";
            return Err(out_of_range(field("role"), roles, &given));
        }
    };
    match given.images {
        None | Some(Tree(Value::Null)) => {}
        Some(Tree(Value::Array(images))) if images.is_empty() => {}
        Some(_) => {
            return Err(ApiError::Unsupported {
                field: field("images"),
                hint: "; this model reads text only",
            });
        }
    }
    let calls = given.tool_calls.unwrap_or_default().0;
    let mut extra = Map::new();
    for (name, value) in [
        ("name", given.tool_name),
        ("tool_call_id", given.tool_call_id),
        ("reasoning_content", given.thinking),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            extra.insert(name.to_owned(), Value::String(value));
        }
    }
    let content = match given.content {
        Some(text) if text.is_empty() && !calls.is_empty() => None,
        None if role != "assistant" => {
            return Err(out_of_range(field("content"), "a string", &"missing"));
        }
        content => content,
    };
    if !calls.is_empty() {
        let calls = history.calls(&field("tool_calls"), calls)?;
        extra.insert("tool_calls".to_owned(), calls);
    }
    Ok(ChatMessage {
        role,
        content,
        extra,
    })
}
