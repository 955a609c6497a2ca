//! The rules for tools: what may be called, and whether something must.

use std::collections::BTreeSet;

use kvist_engine::{OutputSpec, ToolSpec, ToolsSpec};
use serde_json::{Map, Value};

use super::{Circumstances, out_of_range};
use crate::config::ParserChoice;
use crate::error::ApiError;
use crate::wire::tools::{PastCall, TREE_VALUES_MAX, json_values};

/// OpenAI's bound on the tools of a request.
const TOOLS_MAX: usize = 128;
/// Longest name of a tool. OpenAI has 64, Anthropic 128.
const NAME_BYTES_MAX: usize = 128;

/// A tool, whatever dialect it came in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    /// What chat templates see: `{"type": "function", "function": {…}}`.
    pub(crate) shown: Value,
    pub(crate) spec: ToolSpec,
}

/// Whether the model may call, or must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// It cannot: it is not told about the tools.
    None,
    /// It decides.
    #[default]
    Auto,
    /// It must call something.
    Required,
    /// It must call this.
    Named(String),
}

/// The tools of a request, and what is to be done with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Toolbox {
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: ToolChoice,
    /// Calls one answer may have.
    pub(crate) calls_max: Option<usize>,
}

impl Tool {
    /// From its name, description and schema. `field` is where it came from.
    pub(crate) fn new(
        field: &str,
        (name, description, parameters): (Option<String>, Option<String>, Option<Value>),
    ) -> Result<Self, ApiError> {
        let name = name.unwrap_or_default();
        check_name(&format!("{field}.name"), &name)?;
        let mut function = Map::new();
        function.insert("name".to_owned(), Value::String(name.clone()));
        if let Some(description) = description {
            function.insert("description".to_owned(), Value::String(description));
        }
        let parameters = match parameters {
            None | Some(Value::Null) => Map::new(),
            Some(given) => schema(&format!("{field}.parameters"), given)?,
        };
        // Templates take a tool without parameters for one whose parameters are unknown.
        let parameters = Value::Object(parameters);
        function.insert("parameters".to_owned(), parameters.clone());
        let mut shown = Map::new();
        shown.insert("type".to_owned(), Value::String("function".to_owned()));
        shown.insert("function".to_owned(), Value::Object(function));
        Ok(Self {
            shown: Value::Object(shown),
            spec: ToolSpec { name, parameters },
        })
    }
}

fn check_name(field: &str, name: &str) -> Result<(), ApiError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(());
    }
    let limit = format!("1 to {NAME_BYTES_MAX} letters, digits, dots, dashes and underscores");
    Err(out_of_range(field, limit, &format_args!("{name:?}")))
}

/// A JSON schema of an object.
fn schema(field: &str, given: Value) -> Result<Map<String, Value>, ApiError> {
    match given {
        Value::Object(map) if map.get("type").is_none_or(|kind| kind == "object") => Ok(map),
        Value::Object(map) => {
            let kind = map.get("type").cloned().unwrap_or_default();
            Err(out_of_range(format!("{field}.type"), "\"object\"", &kind))
        }
        other => Err(out_of_range(field, "a JSON schema", &other)),
    }
}

/// The tools as OpenAI writes them. Names of fields that do nothing go into `ignored`.
pub(crate) fn openai_tools(
    given: Option<Value>,
    ignored: &mut Vec<String>,
) -> Result<Vec<Tool>, ApiError> {
    let items = match given {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(out_of_range("tools", "a list of tools", &other)),
    };
    let tools = items.into_iter().enumerate().map(|(index, item)| {
        let field = format!("tools[{index}]");
        let Value::Object(mut item) = item else {
            return Err(out_of_range(field, "an object", &item));
        };
        check_kind(&field, item.get("type"))?;
        let field = format!("{field}.function");
        let function = item.remove("function").unwrap_or_default();
        let Value::Object(function) = function else {
            return Err(out_of_range(field, "an object", &function));
        };
        function_tool(&field, function, ignored)
    });
    tools.collect()
}

/// A tool of any other type than a function is one that a server has to have.
pub(crate) fn check_kind(field: &str, kind: Option<&Value>) -> Result<(), ApiError> {
    match kind {
        Some(kind) if kind == "function" => Ok(()),
        Some(other) => Err(ApiError::Unsupported {
            field: format!("{field}.type {other}"),
            hint: "; only \"function\" is",
        }),
        None => {
            let field = format!("{field}.type");
            Err(out_of_range(field, "\"function\"", &"missing"))
        }
    }
}

/// A tool from the fields of its function.
pub(crate) fn function_tool(
    field: &str,
    mut function: Map<String, Value>,
    ignored: &mut Vec<String>,
) -> Result<Tool, ApiError> {
    let mut text = |name: &str| match function.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(out_of_range(format!("{field}.{name}"), "a string", &other)),
    };
    let (name, description) = (text("name")?, text("description")?);
    // The model is asked to keep to the schema; it is not made to.
    if function.get("strict") == Some(&Value::Bool(true)) {
        ignored.push(format!("{field}.strict"));
    }
    Tool::new(field, (name, description, function.remove("parameters")))
}

/// `tool_choice` as OpenAI writes it: a word, or the function to call.
pub(crate) fn openai_choice(given: Option<&Value>) -> Result<ToolChoice, ApiError> {
    let Some(given) = given else {
        return Ok(ToolChoice::Auto);
    };
    let name = || {
        let function = given.get("function").unwrap_or(given);
        function.get("name")?.as_str().map(str::to_owned)
    };
    match given.as_str().or_else(|| given.get("type")?.as_str()) {
        Some("none") => Ok(ToolChoice::None),
        Some("auto") => Ok(ToolChoice::Auto),
        Some("required") => Ok(ToolChoice::Required),
        Some("function") if given.is_object() => match name() {
            Some(name) => Ok(ToolChoice::Named(name)),
            None => {
                let field = "tool_choice.function.name";
                Err(out_of_range(field, "the name of a tool", &"missing"))
            }
        },
        _ => {
            let limit = "none, auto, required, or a function";
            Err(out_of_range("tool_choice", limit, given))
        }
    }
}

impl Toolbox {
    /// Checks the tools together, and that the choice can be kept.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let given = self.tools.len();
        if given > TOOLS_MAX {
            let limit = format!("at most {TOOLS_MAX} tools");
            return Err(out_of_range("tools", limit, &given));
        }
        let mut names = BTreeSet::new();
        for (index, tool) in self.tools.iter().enumerate() {
            if !names.insert(&tool.spec.name) {
                let field = format!("tools[{index}].function.name");
                let given = format_args!("{:?} again", tool.spec.name);
                return Err(out_of_range(field, "different from the others", &given));
            }
        }
        match &self.choice {
            ToolChoice::None | ToolChoice::Auto => Ok(()),
            ToolChoice::Required | ToolChoice::Named(_) if self.tools.is_empty() => {
                Err(ApiError::Conflict {
                    field: "tool_choice",
                    reason: "without tools",
                })
            }
            ToolChoice::Named(name) if !names.contains(name) => {
                let given = format_args!("{name:?}");
                Err(out_of_range(
                    "tool_choice",
                    "the name of one of the tools",
                    &given,
                ))
            }
            ToolChoice::Required | ToolChoice::Named(_) => Err(ApiError::Unsupported {
                field: "tool_choice".to_owned(),
                hint: " but as none and auto: this server cannot make a model call",
            }),
        }
    }

    /// What the template is told.
    pub(crate) fn shown(&self) -> Option<Value> {
        let is_shown = self.choice != ToolChoice::None && !self.tools.is_empty();
        let tools = self.tools.iter().map(|tool| tool.shown.clone());
        is_shown.then(|| Value::Array(tools.collect()))
    }
}

/// How an answer is to be told apart: by what the operator said, or by what the template shows.
pub(crate) fn output_spec(
    toolbox: &Toolbox,
    around: Circumstances<'_>,
) -> Result<OutputSpec, ApiError> {
    let reasoning = match around.parsers.reasoning {
        ParserChoice::Detect => around.traits.and_then(|traits| traits.reasoning),
        ParserChoice::Off => None,
        ParserChoice::Use(format) => Some(format),
    };
    if toolbox.shown().is_none() {
        let tools = None;
        return Ok(OutputSpec { reasoning, tools });
    }
    let Some(detected) = around.traits.and_then(|traits| traits.tools) else {
        return Err(ApiError::Unsupported {
            field: "tools".to_owned(),
            hint: " by this model: its chat template does not mention tools",
        });
    };
    let format = match around.parsers.tools {
        ParserChoice::Detect => Some(detected),
        ParserChoice::Off => None,
        ParserChoice::Use(format) => Some(format),
    };
    let specs = toolbox.tools.iter().map(|tool| tool.spec.clone());
    let tools = format.map(|format| ToolsSpec {
        format,
        tools: specs.collect(),
        calls_max: toolbox.calls_max.unwrap_or(usize::MAX),
    });
    Ok(OutputSpec { reasoning, tools })
}

/// Calls of the history as templates see them.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Values in the arguments of all calls so far.
    values: usize,
}

impl History {
    /// The calls of one message; `field` is where they came from.
    pub(crate) fn calls(&mut self, field: &str, given: Vec<PastCall>) -> Result<Value, ApiError> {
        let mut calls = Vec::with_capacity(given.len());
        for (index, PastCall { id, function }) in given.into_iter().enumerate() {
            let field = format!("{field}[{index}].function");
            let function = function.unwrap_or_default();
            let name = function.name.unwrap_or_default();
            if name.is_empty() {
                let field = format!("{field}.name");
                return Err(out_of_range(field, "the name of a tool", &"missing"));
            }
            let text = function.arguments.unwrap_or_default().0;
            calls.push(self.call(&format!("{field}.arguments"), (id, name, text))?);
        }
        Ok(Value::Array(calls))
    }

    /// One call, from its id, name and arguments as JSON text.
    pub(crate) fn call(
        &mut self,
        field: &str,
        (id, name, arguments): (Option<String>, String, String),
    ) -> Result<Value, ApiError> {
        self.values = self.values.saturating_add(json_values(&arguments));
        if self.values > TREE_VALUES_MAX {
            let limit = format!("at most {TREE_VALUES_MAX} JSON values in all calls");
            return Err(out_of_range(field, limit, &self.values));
        }
        let text = if arguments.trim().is_empty() {
            "{}"
        } else {
            &arguments
        };
        let Ok(object) = serde_json::from_str::<Map<String, Value>>(text) else {
            let given: String = arguments.chars().take(40).collect();
            return Err(out_of_range(
                field,
                "a JSON object",
                &format_args!("{given:?}"),
            ));
        };
        Ok(shown_call(id, name, object))
    }
}

/// A call as templates see it.
pub(crate) fn shown_call(id: Option<String>, name: String, arguments: Map<String, Value>) -> Value {
    let mut function = Map::new();
    function.insert("name".to_owned(), Value::String(name));
    function.insert("arguments".to_owned(), Value::Object(arguments));
    let mut call = Map::new();
    if let Some(id) = id {
        call.insert("id".to_owned(), Value::String(id));
    }
    call.insert("type".to_owned(), Value::String("function".to_owned()));
    call.insert("function".to_owned(), Value::Object(function));
    Value::Object(call)
}
