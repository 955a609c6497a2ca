//! What a call says: from the text between the marks to a name and arguments.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Longest name of a tool, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// A call the model made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// The id the model gave it, in formats where it does.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// The arguments: a JSON object, as the model wrote it where it wrote JSON.
    pub arguments: String,
}

/// A tool the model was told about.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments. Tells formats that write bare values how to read them.
    pub parameters: Value,
}

impl ToolCall {
    /// A call, if `name` can be one and `arguments` is an object, or a string with one in it.
    pub(super) fn new(name: &str, arguments: &str) -> Option<Self> {
        let arguments = arguments.trim();
        let arguments = match arguments.as_bytes().first() {
            Some(b'{') => arguments.to_owned(),
            // Some models quote what they have been shown quoted.
            Some(b'"') => serde_json::from_str(arguments).ok()?,
            _ => return None,
        };
        serde_json::from_str::<Map<String, Value>>(&arguments).ok()?;
        is_name(name).then(|| Self {
            id: None,
            name: name.to_owned(),
            arguments,
        })
    }

    /// With the model's own id.
    pub(super) fn with_id(self, id: &str) -> Self {
        Self {
            id: (!id.is_empty()).then(|| id.to_owned()),
            ..self
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !"<>{}\"'|[]()".contains(c);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_plain)
}

/// `{"name": …, "arguments": {…}}`.
#[derive(Deserialize)]
struct Written<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
    id: Option<String>,
}

/// The calls in a JSON object or a list of them; none unless all are calls.
pub(super) fn from_json(text: &str) -> Option<Vec<ToolCall>> {
    let written: Vec<Written<'_>> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).ok()?
    } else {
        vec![serde_json::from_str(text).ok()?]
    };
    let calls = written.into_iter().map(|each| {
        let arguments = each.arguments.map_or("{}", RawValue::get);
        let call = ToolCall::new(&each.name, arguments)?;
        Some(call.with_id(&each.id.unwrap_or_default()))
    });
    let calls: Vec<ToolCall> = calls.collect::<Option<_>>()?;
    (!calls.is_empty()).then_some(calls)
}

/// Arguments that a format writes as bare text, read by the tool's schema.
pub(super) struct BareArguments<'a> {
    properties: Option<&'a Map<String, Value>>,
    arguments: Map<String, Value>,
}

impl<'a> BareArguments<'a> {
    pub fn new(tools: &'a [ToolSpec], name: &str) -> Self {
        let tool = tools.iter().find(|tool| tool.name == name);
        Self {
            properties: tool.and_then(|tool| tool.parameters.get("properties")?.as_object()),
            arguments: Map::new(),
        }
    }

    /// A value that is declared a string stays as it is; others are JSON if they can be.
    pub fn add(&mut self, key: &str, text: &str) {
        let schema = self.properties.and_then(|all| all.get(key));
        let value = match schema.and_then(|schema| schema.get("type")) {
            Some(Value::String(kind)) if kind == "string" => Value::String(text.to_owned()),
            _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        self.arguments.insert(key.to_owned(), value);
    }

    pub fn call(self, name: &str) -> Option<ToolCall> {
        let arguments = Value::Object(self.arguments).to_string();
        ToolCall::new(name, &arguments)
    }
}
