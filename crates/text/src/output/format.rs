//! The ways models write tool calls.
//!
//! | name | the model writes |
//! |---|---|
//! | `hermes` | `<tool_call>{"name": …, "arguments": {…}}</tool_call>` |
//! | `llama3_json` | `{"name": …, "parameters": {…}}` and nothing before it, several apart by `;` |
//! | `mistral` | `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]name[ARGS]{…}` |
//! | `deepseek` | `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and a block of JSON, in a section |
//! | `glm` | `<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>` |
//! | `kimi` | `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}`, in a section |
//! | `qwen3_coder` | `<tool_call><function=name><parameter=key>…</parameter></function></tool_call>` |
//! | `json` | an object as `llama3_json`, or a list of them, bare or in a code fence |

use std::fmt;
use std::str::FromStr;

use super::call::{BareArguments, ToolCall, ToolSpec, from_json};

/// How a model writes the tool calls it makes. Parses from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// Hermes and Qwen.
    Hermes,
    /// Llama 3.
    Llama3,
    /// Mistral, old and new.
    Mistral,
    /// DeepSeek V3 and R1.
    DeepSeek,
    /// GLM 4.5 and later.
    Glm,
    /// Kimi K2.
    Kimi,
    /// Qwen3-Coder.
    QwenCoder,
    /// Any model that answers with JSON when it calls.
    Json,
}

/// The texts around a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// Where a call begins.
    pub opens: &'static [&'static str],
    /// What may stand before the first call, apart from white space.
    pub sections: &'static [&'static str],
    /// What may follow a call.
    pub closes: &'static [&'static str],
    /// Characters that may begin a call without a mark, where nothing was said before.
    pub bare: &'static [char],
}

/// What is between the marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// A head, then JSON, at whose end the call is complete.
    Json,
    /// Text up to the closing mark.
    Marked,
}

const NONE: Marks = Marks {
    opens: &[],
    sections: &[],
    closes: &[],
    bare: &[],
};

impl ToolFormat {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Hermes,
        Self::Llama3,
        Self::Mistral,
        Self::DeepSeek,
        Self::Glm,
        Self::Kimi,
        Self::QwenCoder,
        Self::Json,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::Llama3 => "llama3_json",
            Self::Mistral => "mistral",
            Self::DeepSeek => "deepseek",
            Self::Glm => "glm",
            Self::Kimi => "kimi",
            Self::QwenCoder => "qwen3_coder",
            Self::Json => "json",
        }
    }

    /// The format a chat template shows the model: templates write calls of the history as the
    /// model should write its own.
    pub(crate) fn of_template(source: &str) -> Self {
        let has = |mark: &str| source.contains(mark);
        match () {
            () if has("<|tool_calls_section_begin|>") => Self::Kimi,
            () if has("<｜tool▁call▁begin｜>") => Self::DeepSeek,
            () if has("<arg_key>") => Self::Glm,
            () if has("<function=") => Self::QwenCoder,
            () if has("<tool_call>") => Self::Hermes,
            () if has("[TOOL_CALLS]") => Self::Mistral,
            () if has("<|python_tag|>") || has("<|eom_id|>") => Self::Llama3,
            () => Self::Json,
        }
    }

    pub(super) const fn marks(self) -> Marks {
        match self {
            Self::Hermes | Self::Glm | Self::QwenCoder => Marks {
                opens: &["<tool_call>"],
                closes: &["</tool_call>"],
                ..NONE
            },
            Self::Llama3 => Marks {
                sections: &["<|python_tag|>"],
                closes: &[";"],
                bare: &['{'],
                ..NONE
            },
            Self::Mistral => Marks {
                opens: &["[TOOL_CALLS]"],
                ..NONE
            },
            Self::DeepSeek => Marks {
                opens: &["<｜tool▁call▁begin｜>"],
                sections: &["<｜tool▁calls▁begin｜>"],
                closes: &["```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
                ..NONE
            },
            Self::Kimi => Marks {
                opens: &["<|tool_call_begin|>"],
                sections: &["<|tool_calls_section_begin|>"],
                closes: &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
                ..NONE
            },
            Self::Json => Marks {
                sections: &["```json"],
                closes: &["\n```", ";"],
                bare: &['{', '['],
                ..NONE
            },
        }
    }

    /// Marks inside a call. Like the others they may be special tokens, and have to be in the text.
    pub(super) const fn inner_marks(self) -> &'static [&'static str] {
        match self {
            Self::Mistral => &["[ARGS]", "[CALL_ID]"],
            Self::DeepSeek => &["<｜tool▁sep｜>"],
            Self::Glm => &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
            Self::Kimi => &["<|tool_call_argument_begin|>"],
            _ => &[],
        }
    }

    pub(super) const fn body(self) -> Body {
        match self {
            Self::Glm | Self::QwenCoder => Body::Marked,
            _ => Body::Json,
        }
    }

    /// Whether the head of a call may go on with `next`.
    pub(super) fn head_takes(self, head: &str, next: char) -> bool {
        /// More than the longest name, and the marks around it.
        const HEAD_BYTES_MAX: usize = 512;
        match self {
            Self::Mistral | Self::DeepSeek | Self::Kimi => head.len() < HEAD_BYTES_MAX,
            _ => next.is_whitespace() && head.len() < HEAD_BYTES_MAX,
        }
    }

    /// Whether `next` begins the JSON of a call with this head.
    pub(super) fn json_begins(self, head: &str, next: char) -> bool {
        match next {
            '{' => true,
            // `name[ARGS]` has a bracket too.
            '[' => matches!(self, Self::Mistral | Self::Json) && head.trim().is_empty(),
            _ => false,
        }
    }

    /// The calls that a head and its JSON make.
    pub(super) fn json_calls(self, head: &str, json: &str) -> Option<Vec<ToolCall>> {
        let head = head.trim();
        match self {
            Self::Kimi => {
                let id = head.strip_suffix("<|tool_call_argument_begin|>")?.trim();
                let name = id.split_once(':').map_or(id, |(name, _)| name);
                let name = name.strip_prefix("functions.").unwrap_or(name);
                Some(vec![ToolCall::new(name, json)?.with_id(id)])
            }
            Self::DeepSeek => {
                let (kind, rest) = head.split_once("<｜tool▁sep｜>")?;
                // V3.1 left out the kind and the fence: `name<｜tool▁sep｜>{…}`.
                let name = match rest.trim().strip_suffix("```json") {
                    Some(name) => name.trim(),
                    None if rest.trim().is_empty() => kind.trim(),
                    None => rest.trim(),
                };
                Some(vec![ToolCall::new(name, json)?])
            }
            Self::Mistral if !head.is_empty() => {
                let head = head.strip_suffix("[ARGS]").unwrap_or(head);
                let (name, id) = head.split_once("[CALL_ID]").unwrap_or((head, ""));
                Some(vec![ToolCall::new(name.trim(), json)?.with_id(id.trim())])
            }
            _ => from_json(json),
        }
    }

    /// The call in a body up to its closing mark.
    pub(super) fn marked_call(self, body: &str, tools: &[ToolSpec]) -> Option<ToolCall> {
        match self {
            Self::Glm => glm_call(body, tools),
            Self::QwenCoder => qwen_coder_call(body, tools),
            _ => None,
        }
    }
}

/// `name<arg_key>key</arg_key><arg_value>value</arg_value>…`, white space between.
fn glm_call(body: &str, tools: &[ToolSpec]) -> Option<ToolCall> {
    let (name, mut rest) = match body.find("<arg_key>") {
        Some(end) => body.split_at(end),
        None => (body, ""),
    };
    let name = name.trim();
    let mut arguments = BareArguments::new(tools, name);
    while !rest.trim().is_empty() {
        let (key, after) = rest
            .trim_start()
            .strip_prefix("<arg_key>")?
            .split_once("</arg_key>")?;
        let (value, after) = after
            .trim_start()
            .strip_prefix("<arg_value>")?
            .split_once("</arg_value>")?;
        arguments.add(key.trim(), value);
        rest = after;
    }
    arguments.call(name)
}

/// `<function=name><parameter=key>\nvalue\n</parameter>…</function>`, white space between.
fn qwen_coder_call(body: &str, tools: &[ToolSpec]) -> Option<ToolCall> {
    let inner = body
        .trim()
        .strip_prefix("<function=")?
        .strip_suffix("</function>")?;
    let (name, mut rest) = inner.split_once('>')?;
    let mut arguments = BareArguments::new(tools, name);
    while !rest.trim().is_empty() {
        let (key, after) = rest
            .trim_start()
            .strip_prefix("<parameter=")?
            .split_once('>')?;
        let (value, after) = after.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        arguments.add(key, value.strip_suffix('\n').unwrap_or(value));
        rest = after;
    }
    arguments.call(name)
}

impl fmt::Display for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of those there are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not one of {supported}")]
pub struct UnknownFormat {
    given: String,
    supported: String,
}

impl UnknownFormat {
    pub(super) fn new<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Self {
        Self {
            given: given.to_owned(),
            supported: names.collect::<Vec<_>>().join(", "),
        }
    }
}

impl FromStr for ToolFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|format| format.name() == name);
        found.ok_or_else(|| UnknownFormat::new(name, Self::ALL.iter().map(|each| each.name())))
    }
}
