//! The rules of `POST /v1/chat/completions`.

use kvist_engine::{ChatInput, ChatMessage, Prompt};
use serde_json::{Map, Value};

use super::settings::{check_output_bounds, choices, delivery, output_max, settings};
use super::unsupported::{self, refuse_unsupported};
use super::{Call, Circumstances, Echo, bounded, out_of_range};
use crate::error::ApiError;
use crate::wire::chat::{ChatCompletionRequest, Content, Message, Part};
use crate::wire::common::Integer;
use crate::wire::read::Received;

/// OpenAI's bound on `top_logprobs`.
pub(crate) const TOP_LOGPROBS_MAX: u32 = 20;

/// Checks a request.
pub(crate) fn chat(
    received: Received<ChatCompletionRequest>,
    around: Circumstances<'_>,
) -> Result<Call, ApiError> {
    let ignored = refuse_unsupported(&received, unsupported::CHAT)?;
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
    let input = conversation(&mut body, around)?;
    Ok(Call {
        prompts: vec![Prompt::Chat(Box::new(input))],
        choices,
        settings,
        delivery,
        echo: Echo::OutputOnly,
        ignored,
    })
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
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(index, each)| message(index, each));
    let mut input = ChatInput {
        messages: messages.collect::<Result<_, _>>()?,
        tools: None,
        add_generation_prompt: body.add_generation_prompt.unwrap_or(true),
        kwargs: body.chat_template_kwargs.take().unwrap_or_default().0,
        ..ChatInput::default()
    };
    input.now.0 = i64::try_from(around.now_seconds).unwrap_or(i64::MAX);
    Ok(input)
}

fn message(index: usize, message: Message) -> Result<ChatMessage, ApiError> {
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
    if message.tool_calls.is_some_and(|calls| !calls.0.is_empty()) {
        return Err(ApiError::Unsupported {
            field: field("tool_calls"),
            hint: "",
        });
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
        ("reasoning_content", message.reasoning_content),
    ] {
        if let Some(value) = value {
            extra.insert(name.to_owned(), Value::String(value));
        }
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
