//! What a chat template says about its model.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::python::{self, JsonOptions};
use super::{ChatInput, ChatMessage, ChatTemplate, NAME, TOOLS_NAME, template_value};
use crate::output::{ReasoningFormat, ToolFormat};

/// What conversations a template can write, and how its model answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTraits {
    /// How the model writes tool calls; `None` if the template cannot tell it about tools.
    pub tools: Option<ToolFormat>,
    /// How the model marks its reasoning, if it does.
    pub reasoning: Option<ReasoningFormat>,
    /// Names the template reads.
    pub variables: BTreeSet<String>,
    /// Calls of the history have their arguments as JSON text. Most templates want an object.
    pub text_arguments: bool,
}

impl ChatTraits {
    /// From a compiled template and what it was compiled from.
    pub(super) fn of(template: &ChatTemplate, sources: &[&str]) -> Self {
        let names = [NAME, TOOLS_NAME];
        let compiled = names.map(|name| template.environment.get_template(name));
        let variables: BTreeSet<String> = compiled
            .into_iter()
            .flatten()
            .flat_map(|each| each.undeclared_variables(false))
            // Functions of the environment are not for callers to replace.
            .filter(|name| template.environment.globals().all(|(own, _)| own != name))
            .collect();
        let takes_tools = variables.contains("tools");
        Self {
            tools: takes_tools.then(|| ToolFormat::of_template(&sources.concat())),
            reasoning: sources
                .iter()
                .find_map(|source| ReasoningFormat::of_template(source)),
            variables,
            text_arguments: wants_text(template),
        }
    }
}

/// Whether calls of the history are written right only with their arguments as text: templates that
/// add strings fail with an object, and those that print one print it as Python would.
fn wants_text(template: &ChatTemplate) -> bool {
    let written = |arguments: Value| {
        let text = template.render(&probe(&arguments)).ok()?;
        let is_right = text.contains("kvist_key") && !text.contains("'kvist_key'");
        is_right.then_some(())
    };
    written(json!({"kvist_key": "value"})).is_none()
        && written(json!("{\"kvist_key\": \"value\"}")).is_some()
}

/// Calls with their arguments as JSON text.
pub(super) fn with_text(calls: &Value) -> Value {
    let mut calls = calls.clone();
    for call in calls.as_array_mut().into_iter().flatten() {
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && arguments.is_object()
        {
            let written = python::to_json(&template_value(arguments), JsonOptions::default());
            // What came from JSON can be written as JSON.
            *arguments = Value::String(written.unwrap_or_else(|_| arguments.to_string()));
        }
    }
    calls
}

/// A conversation with one call.
fn probe(arguments: &Value) -> ChatInput {
    let message = |role: &str, content: Option<&str>| ChatMessage {
        role: role.to_owned(),
        content: content.map(str::to_owned),
        ..ChatMessage::default()
    };
    let mut call = message("assistant", None);
    let function = json!({"name": "probe", "arguments": arguments});
    call.extra.insert(
        "tool_calls".to_owned(),
        json!([{"id": "call00001", "type": "function", "function": function}]),
    );
    let mut answer = message("tool", Some("1"));
    answer
        .extra
        .insert("tool_call_id".to_owned(), json!("call00001"));
    ChatInput {
        messages: vec![message("user", Some("1")), call, answer],
        ..ChatInput::default()
    }
}
