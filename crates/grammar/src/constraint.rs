//! What a request may demand of its output.

/// The language an output must be a word of. As a request gives it: compiling checks it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Constraint {
    /// A JSON object, whatever is in it.
    JsonObject,
    /// A JSON value of this JSON schema. The schema is JSON text.
    JsonSchema(String),
    /// All of the output matches this regular expression, in the syntax of the regex crate.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A word of this grammar, in Lark's syntax as llguidance extends it.
    Lark(String),
    /// JSON values in fixed texts: tool calls, as models write them.
    TaggedJson(TaggedJson),
}

/// One or several JSON values, each between two fixed texts.
///
/// ```text
/// <tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>
/// └─────────────── begin ─────────────────┘└──── value ─────┘└─── end ────┘
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaggedJson {
    /// Each value is of one of these.
    pub alternatives: Vec<TaggedValue>,
    /// What stands between two values. `None`: there is exactly one value.
    pub separator: Option<String>,
}

/// A JSON value between two texts. Where they spell a control token of the vocabulary, that token
/// is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaggedValue {
    /// The text before the value.
    pub begin: String,
    /// The value's JSON schema, as JSON text.
    pub schema: String,
    /// The text behind the value.
    pub end: String,
}
