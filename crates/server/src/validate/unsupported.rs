//! Fields whose effect we do not have.
//!
//! A field that would change the answer is refused unless its value asks for what happens anyway:
//! dropping it silently would give the caller something else than was asked for. Fields nobody has
//! heard of are let through and reported, because clients send all sorts of harmless extras.

use serde_json::Value;

use crate::config::UnknownFields;
use crate::error::ApiError;
use crate::wire::read::{Received, Unread};

/// Labels and hints of OpenAI's own that no answer depends on: not worth a report.
const INERT: &[&str] = &[
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
];

/// A field that is refused, unless its value is neutral.
pub(super) struct Refusal {
    field: &'static str,
    neutral: fn(&Value) -> bool,
    hint: &'static str,
}

const fn refusal(field: &'static str, neutral: fn(&Value) -> bool) -> Refusal {
    Refusal {
        field,
        neutral,
        hint: "",
    }
}

const fn hinted(field: &'static str, neutral: fn(&Value) -> bool, hint: &'static str) -> Refusal {
    Refusal {
        field,
        neutral,
        hint,
    }
}

/// Refused by both endpoints.
const GENERATION: &[Refusal] = &[
    refusal("grammar", empty),
    refusal("guided_whitespace_pattern", empty),
    refusal("json_schema", empty),
    refusal("length_penalty", |value| is_number(value, 1.0)),
    refusal("logits_processors", empty),
    refusal("mirostat", |value| is_number(value, 0.0)),
    refusal("repetition_detection", empty),
    refusal("spaces_between_special_tokens", |value| {
        value == &Value::Bool(true)
    }),
    refusal("store", is_false),
    refusal("thinking_token_budget", |_| false),
    refusal("typical_p", |value| is_number(value, 1.0)),
    refusal("use_beam_search", is_false),
    refusal("vllm_xargs", empty),
];

/// Refused by `/v1/chat/completions`.
pub(super) const CHAT: &[Refusal] = &[
    refusal("audio", |_| false),
    refusal("best_of", |value| is_number(value, 1.0)),
    hinted(
        "chat_template",
        |_| false,
        "; the model's own template is used",
    ),
    refusal("documents", empty),
    refusal("function_call", is_no_choice),
    refusal("functions", empty),
    refusal("mm_processor_kwargs", empty),
    refusal("modalities", |value| {
        value
            .as_array()
            .is_some_and(|list| list.iter().all(|m| m == "text"))
    }),
    refusal("prediction", |_| false),
    refusal("reasoning_effort", |value| value == "none"),
    refusal("thinking", |value| {
        value.get("type").is_some_and(|kind| kind == "disabled")
    }),
    refusal("verbosity", |value| value == "medium"),
    refusal("web_search_options", |_| false),
];

/// Refused by `/v1/completions`.
pub(super) const COMPLETION: &[Refusal] =
    &[refusal("prompt_embeds", empty), refusal("suffix", empty)];

/// Refused by `/v1/messages`.
pub(super) const ANTHROPIC: &[Refusal] = &[
    refusal("container", empty),
    refusal("mcp_servers", empty),
    refusal("output_format", empty),
];

/// Refused by `/v1/responses`.
pub(super) const RESPONSES: &[Refusal] = &[
    refusal("background", is_false),
    refusal("conversation", empty),
    refusal("max_tool_calls", |_| false),
    refusal("prompt", empty),
    refusal("top_logprobs", |value| is_number(value, 0.0)),
];

/// Refused by `/api/chat` and `/api/generate`.
pub(super) const OLLAMA: &[Refusal] = &[
    refusal("context", empty),
    refusal("format", empty),
    refusal("images", empty),
    hinted("template", empty, "; the model's own template is used"),
    refusal("suffix", empty),
];

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

fn is_number(value: &Value, neutral: f64) -> bool {
    value.as_f64() == Some(neutral)
}

/// Without tools, `auto` chooses none.
fn is_no_choice(value: &Value) -> bool {
    value == "none" || value == "auto"
}

/// Refuses what `received` asks for and we cannot do; returns the names of what does nothing.
pub(super) fn refuse_unsupported<T>(
    received: &Received<T>,
    endpoint: &[Refusal],
    unknown: UnknownFields,
) -> Result<Vec<String>, ApiError> {
    let mut ignored = Vec::new();
    for Unread { name, value } in &received.unread {
        match GENERATION
            .iter()
            .chain(endpoint)
            .find(|refusal| refusal.field == name)
        {
            Some(refusal)
                if !value
                    .as_ref()
                    .is_some_and(|value| is_neutral(refusal, value)) =>
            {
                return Err(ApiError::Unsupported {
                    field: name.clone(),
                    hint: refusal.hint,
                });
            }
            Some(_) => {}
            None if INERT.contains(&name.as_str()) => {}
            None => ignored.push(name.clone()),
        }
    }
    ignored.extend(received.unread_nested.iter().cloned());
    let_through(ignored, unknown)
}

/// Returns what does nothing, unless nothing of the kind is to be let through.
pub(super) fn let_through(
    ignored: Vec<String>,
    unknown: UnknownFields,
) -> Result<Vec<String>, ApiError> {
    match ignored.first() {
        Some(field) if unknown == UnknownFields::Refuse => Err(ApiError::Unsupported {
            field: field.clone(),
            hint: "; this server takes known fields only",
        }),
        _ => Ok(ignored),
    }
}

fn is_neutral(refusal: &Refusal, value: &Value) -> bool {
    value.is_null() || (refusal.neutral)(value)
}
