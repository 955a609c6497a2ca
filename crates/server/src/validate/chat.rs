//! The rules of `POST /v1/chat/completions`.

use kvist_engine::{ChatInput, ChatMessage, Prompt};
use serde_json::{Map, Value};

use super::extras::told;
use super::settings::{
    check_logprobs, check_output_bounds, choices, delivery, output_max, settings,
};
use super::tools::{History, Toolbox, openai_choice, openai_tools, output_spec};
use super::unsupported::{self, let_through, refuse_unsupported};
use super::{Call, Circumstances, Echo, Reasoning, bounded, out_of_range};
use crate::error::ApiError;
use crate::wire::chat::{ChatCompletionRequest, Content, Message, Part};
use crate::wire::common::{Integer, SmallObject};
use crate::wire::read::Received;
use crate::wire::tools::Tree;

/// OpenAI's bound on `top_logprobs`.
pub(crate) const TOP_LOGPROBS_MAX: u32 = 20;

/// Checks a request.
pub(crate) fn chat(
    received: Received<ChatCompletionRequest>,
    around: Circumstances<'_>,
) -> Result<Call, ApiError> {
    let mut ignored = refuse_unsupported(&received, unsupported::CHAT, around.unknown_fields)?;
    let mut body = received.body;
    let mut settings = settings(&mut body.generation, around)?;
    if let Some(Integer(given)) = body.max_completion_tokens {
        let asked = output_max("max_completion_tokens", given)?;
        if settings.output_max.is_some_and(|older| older != asked) {
            let reason = "with a different max_tokens";
            return Err(ApiError::Conflict {
                field: "max_completion_tokens",
                reason,
            });
        }
        settings.output_max = Some(asked);
    }
    settings.sampling.logprobs = logprobs(body.logprobs, body.top_logprobs)?;
    check_output_bounds(&settings)?;
    let choices = choices(body.generation.n, around)?;
    let delivery = delivery(
        body.generation.stream,
        body.generation.stream_options.as_ref(),
    )?;
    check_logprobs(&settings, delivery)?;
    let mut told = told(&body.generation.extras)?;
    told.logprobs = settings.sampling.logprobs.is_some();
    let echo = match body.echo {
        Some(true) => Echo::PromptFirst,
        Some(false) | None => Echo::OutputOnly,
    };
    let toolbox = toolbox(&mut body, &mut ignored)?;
    let output = output_spec(&toolbox, around)?;
    settings.marks = output.marks().collect();
    let mut input = conversation(&mut body, around)?;
    input.tools = toolbox.shown();
    Ok(Call {
        prompts: vec![Prompt::Chat(Box::new(input))],
        choices,
        kept: choices,
        settings,
        delivery,
        echo,
        told,
        output,
        reasoning: match body.include_reasoning {
            Some(false) => Reasoning::Hide,
            Some(true) | None => Reasoning::Show,
        },
        ignored: let_through(ignored, around.unknown_fields)?,
    })
}

fn toolbox(
    body: &mut ChatCompletionRequest,
    ignored: &mut Vec<String>,
) -> Result<Toolbox, ApiError> {
    let given = body.tools.take().map(|Tree(tools)| tools);
    let toolbox = Toolbox {
        tools: openai_tools(given, ignored)?,
        choice: openai_choice(body.tool_choice.as_ref().map(|Tree(choice)| choice))?,
        calls_max: (body.parallel_tool_calls == Some(false)).then_some(1),
    };
    toolbox.check()?;
    Ok(toolbox)
}

fn logprobs(wanted: Option<bool>, top: Option<Integer>) -> Result<Option<u32>, ApiError> {
    match (wanted, top) {
        (Some(true), None) => Ok(Some(0)),
        (Some(true), Some(Integer(given))) => {
            bounded("top_logprobs", given, 0..=TOP_LOGPROBS_MAX).map(Some)
        }
        // Some clients send 0 with every request; it asks for nothing.
        (Some(false) | None, None | Some(Integer(0))) => Ok(None),
        (Some(false) | None, Some(_)) => Err(ApiError::Conflict {
            field: "top_logprobs",
            reason: "without logprobs: true",
        }),
    }
}

fn conversation(
    body: &mut ChatCompletionRequest,
    around: Circumstances<'_>,
) -> Result<ChatInput, ApiError> {
    let hint = "give a list of messages";
    let messages = body
        .messages
        .take()
        .ok_or(ApiError::Missing {
            field: "messages",
            hint,
        })?
        .0;
    if messages.is_empty() {
        return Err(out_of_range(
            "messages",
            "at least 1 message",
            &"an empty list",
        ));
    }
    let mut history = History::default();
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(index, each)| message(index, each, &mut history));
    let mut input = ChatInput {
        messages: messages.collect::<Result<_, _>>()?,
        tools: None,
        add_generation_prompt: ending(body)?,
        continue_final_message: body.continue_final_message == Some(true),
        kwargs: template_arguments(body.chat_template_kwargs.take(), around)?,
        ..ChatInput::default()
    };
    input.now.0 = i64::try_from(around.now_seconds).unwrap_or(i64::MAX);
    Ok(input)
}

/// Whether the prompt ends with the beginning of an answer: unless it ends within one.
fn ending(body: &ChatCompletionRequest) -> Result<bool, ApiError> {
    match (body.continue_final_message, body.add_generation_prompt) {
        (Some(true), Some(true)) => Err(ApiError::Conflict {
            field: "continue_final_message",
            reason: "with add_generation_prompt: true",
        }),
        (Some(true), _) => Ok(false),
        (Some(false) | None, given) => Ok(given.unwrap_or(true)),
    }
}

/// Arguments that templates of any model have, and that clients send to all of them.
const TEMPLATE_ARGUMENTS: [&str; 6] = [
    "clear_thinking",
    "enable_thinking",
    "preserve_thinking",
    "reasoning_effort",
    "thinking",
    "thinking_budget",
];

/// Arguments for the template: those it reads, and those that say something to other models.
fn template_arguments(
    given: Option<SmallObject>,
    around: Circumstances<'_>,
) -> Result<Map<String, Value>, ApiError> {
    let arguments = given.unwrap_or_default().0;
    let reads = |name: &str| {
        let traits = around.traits;
        traits.is_some_and(|traits| traits.variables.contains(name))
    };
    let is_unknown = |name: &&String| !TEMPLATE_ARGUMENTS.contains(&name.as_str()) && !reads(name);
    if let Some(name) = arguments.keys().find(is_unknown) {
        let limit = format!(
            "made of what the model's template reads, or of {}",
            TEMPLATE_ARGUMENTS.join(", ")
        );
        let given = format_args!("{name:?}");
        return Err(out_of_range("chat_template_kwargs", limit, &given));
    }
    Ok(arguments)
}

fn message(index: usize, message: Message, history: &mut History) -> Result<ChatMessage, ApiError> {
    let field = |name: &str| format!("messages[{index}].{name}");
    let role = match message.role.as_deref() {
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role.to_owned(),
        // OpenAI's newer name for the same thing. Templates know `system`; some drop what they do
        // not know.
        Some("developer") => "system".to_owned(),
        given => {
            let roles = "one of system, developer, user, assistant, tool";
            let given = given.map_or("missing".to_owned(), |role| format!("{role:?}"));
            return Err(out_of_range(field("role"), roles, &given));
        }
    };
    let calls = message.tool_calls.map(|calls| calls.0).unwrap_or_default();
    if !calls.is_empty() && role != "assistant" {
        let given = format_args!("in one of role {role}");
        return Err(out_of_range(
            field("tool_calls"),
            "in a message of role assistant",
            &given,
        ));
    }
    let content = match message.content {
        Some(Content::Text(text)) => Some(text),
        Some(Content::Parts(parts)) => Some(joined(parts, &field("content"))?),
        None if role == "assistant" => None,
        None => {
            return Err(out_of_range(
                field("content"),
                "a string or a list of parts",
                &"missing",
            ));
        }
    };
    let mut extra = Map::new();
    for (name, value) in [
        ("name", message.name),
        ("tool_call_id", message.tool_call_id),
        (
            "reasoning_content",
            message.reasoning_content.or(message.reasoning),
        ),
    ] {
        if let Some(value) = value {
            extra.insert(name.to_owned(), Value::String(value));
        }
    }
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

/// Text parts as one text, each on lines of its own, as vLLM joins them.
fn joined(parts: Vec<Part>, field: &str) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (index, Part { kind, text }) in parts.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        match (kind.as_deref(), text) {
            (Some("text"), Some(text)) => texts.push(text),
            (Some("text"), None) => {
                return Err(out_of_range(
                    format!("{field}.text"),
                    "a string",
                    &"missing",
                ));
            }
            (Some(other), _) => {
                let field = format!("{field}.type {other:?}");
                return Err(ApiError::Unsupported {
                    field,
                    hint: "; this model reads text parts only",
                });
            }
            (None, _) => {
                return Err(out_of_range(
                    format!("{field}.type"),
                    "\"text\"",
                    &"missing",
                ));
            }
        }
    }
    if texts.is_empty() {
        return Err(out_of_range(field, "at least 1 part", &"an empty list"));
    }
    Ok(texts.join("\n"))
}
