//! Chat templates: a conversation becomes the text the model was trained to continue.
//!
//! Published templates are Jinja as Hugging Face's Python renders it. Where minijinja differs from
//! that, Python's behaviour is restored here: see [`python`] for how values print.

mod continued;
mod generation;
mod python;
mod strftime;
mod traits;

pub use traits::ChatTraits;

use std::collections::BTreeMap;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value as Json};

use crate::error::TextError;

/// The name of the template inside its environment.
const NAME: &str = "chat";
/// The name of the one for conversations with tools, in models that have one of its own.
const TOOLS_NAME: &str = "tool_use";

/// Work any template may do, and more for each byte of the conversation: enough for any published
/// template, and a fraction of a second. minijinja counts about one unit an instruction and one
/// for each 64 bytes a template makes, so this bounds memory too.
const WORK_BASE: u64 = 1_000_000;
const WORK_PER_BYTE: u64 = 4;

/// Texts of the tokens templates print themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// `bos_token`.
    pub bos: String,
    /// `eos_token`.
    pub eos: String,
}

/// Seconds since 1970-01-01 00:00 UTC: what `strftime_now` tells a template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeStamp(pub i64);

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`, or whatever else the template knows.
    pub role: String,
    /// The text. A message that only calls tools has none.
    pub content: Option<String>,
    /// Everything else the client sent: `tool_calls` with their arguments as objects, `name`, …. A `content` here takes the place
    /// of the text, for templates that understand lists of parts.
    pub extra: Map<String, Json>,
}

impl ChatMessage {
    /// As templates see it: a map that always has a role and a content, if only `none`.
    fn template_value(&self, text_arguments: bool) -> Value {
        let fixed = [
            ("role", Value::from(self.role.as_str())),
            ("content", Value::from(self.content.as_deref())),
        ];
        let extra = self.extra.iter().map(|(name, value)| {
            let value = match name.as_str() {
                "tool_calls" if text_arguments => template_value(&traits::with_text(value)),
                _ => template_value(value),
            };
            (name.as_str(), value)
        });
        Value::from_pairs(fixed.into_iter().chain(extra))
    }
}

/// What a template renders.
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    /// The conversation, oldest message first.
    pub messages: Vec<ChatMessage>,
    /// The tools the model may call, as the client described them.
    pub tools: Option<Json>,
    /// End with the beginning of an assistant message, for the model to continue.
    pub add_generation_prompt: bool,
    /// End within the last message, which is the assistant's, for the model to go on with it.
    pub continue_final_message: bool,
    /// Arguments for this model's template, such as `enable_thinking`.
    pub kwargs: Map<String, Json>,
    /// Now.
    pub now: TimeStamp,
}

impl ChatInput {
    /// Roughly the bytes of the conversation: what rendering and tokenising take time in proportion
    /// to.
    pub fn bytes(&self) -> usize {
        let messages = self.messages.iter().map(|message| {
            let extra: usize = message.extra.values().map(json_size).sum();
            message.content.as_ref().map_or(0, String::len) + extra
        });
        messages.sum::<usize>() + self.tools.as_ref().map_or(0, json_size)
    }
}

/// A model's chat template, parsed.
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: TemplateTokens,
    traits: ChatTraits,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`].
    pub fn compile(source: &str, tokens: TemplateTokens) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        environment.set_syntax(syntax()?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| python::write_str(out, value));
        environment.add_filter("tojson", to_json);
        environment.add_test("iterable", is_iterable);
        environment.add_function("raise_exception", raise_exception);
        let mut this = Self {
            environment,
            tokens,
            traits: ChatTraits::default(),
        };
        this.add(NAME, source)?;
        this.traits = ChatTraits::of(&this, &[source]);
        Ok(this)
    }

    /// With a template of its own for conversations with tools.
    ///
    /// # Errors
    /// [`TextError::TemplateSyntax`].
    pub fn with_tool_template(mut self, source: &str, plain: &str) -> Result<Self, TextError> {
        self.add(TOOLS_NAME, source)?;
        self.traits = ChatTraits::of(&self, &[source, plain]);
        Ok(self)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<(), TextError> {
        self.environment
            .add_template_owned(name, generation::rewrite(source).into_owned())
            .map_err(|error| TextError::TemplateSyntax {
                line: error.line().unwrap_or(1),
                detail: describe(&error),
            })
    }

    /// What conversations the template can write, and how its model answers.
    pub fn traits(&self) -> &ChatTraits {
        &self.traits
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails on it, or works on it beyond reason; and if
    /// an argument would replace something that is passed anyway.
    pub fn render(&self, input: &ChatInput) -> Result<String, TextError> {
        if input.continue_final_message {
            return continued::render(self, input);
        }
        let arguments = self.arguments(input)?;
        let limit = work_limit(input);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(limit));
        let with_tools = input.tools.is_some();
        let own = environment
            .get_template(TOOLS_NAME)
            .ok()
            .filter(|_| with_tools);
        own.map_or_else(|| environment.get_template(NAME), Ok)
            .and_then(|template| template.render(arguments))
            .map_err(|error| classify(&error, limit))
    }

    /// The template's variables by name.
    fn arguments<'i>(&self, input: &'i ChatInput) -> Result<BTreeMap<&'i str, Value>, TextError> {
        let now = input.now;
        let mut arguments = BTreeMap::from([("documents", Value::from(()))]);
        for (name, value) in &input.kwargs {
            arguments.insert(name, template_value(value));
        }
        let given = [
            (
                "messages",
                input
                    .messages
                    .iter()
                    .map(|message| message.template_value(self.traits.text_arguments))
                    .collect(),
            ),
            (
                "tools",
                input.tools.as_ref().map_or(Value::from(()), template_value),
            ),
            (
                "add_generation_prompt",
                Value::from(input.add_generation_prompt),
            ),
            ("bos_token", Value::from(self.tokens.bos.as_str())),
            ("eos_token", Value::from(self.tokens.eos.as_str())),
            (
                "strftime_now",
                Value::from_function(move |format: &str| strftime(now, format)),
            ),
        ];
        for (name, value) in given {
            if arguments.insert(name, value).is_some() {
                return Err(TextError::ReservedTemplateArgument {
                    name: name.to_owned(),
                });
            }
        }
        Ok(arguments)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// A client's value as a template's. By hand, because minijinja's conversion through serde gives a
/// meaning of its own to certain keys, and these are chosen by clients.
fn template_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(template_value).collect(),
        Json::Object(map) => Value::from_pairs(
            map.iter()
                .map(|(key, value)| (key.as_str(), template_value(value))),
        ),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(natural), _) => Value::from(natural),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64()),
        },
    }
}

/// Hugging Face's settings: a block tag takes the white space before it and the line break after.
fn syntax() -> Result<SyntaxConfig, TextError> {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| TextError::TemplateSyntax {
            line: 1,
            detail: describe(&error),
        })
}

/// Grows with the conversation, so that long ones are not refused.
fn work_limit(input: &ChatInput) -> u64 {
    let bytes = input.bytes() + 64 * input.messages.len();
    WORK_BASE.saturating_add(WORK_PER_BYTE.saturating_mul(bytes as u64))
}

/// Roughly the bytes of a value written as JSON.
fn json_size(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
        Json::String(text) => text.len() + 8,
        Json::Array(items) => items.iter().map(json_size).sum::<usize>() + 8,
        Json::Object(map) => map
            .iter()
            .map(|(key, value)| key.len() + 8 + json_size(value))
            .sum(),
    }
}

/// Python's `None` is not iterable, though it is to minijinja: templates ask in order to tell a
/// missing list from an empty one.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The words of `raise_exception`, told apart from minijinja's own errors by their type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "raised by the template");
    Err(error.with_source(Raised(message)))
}

fn strftime(now: TimeStamp, format: &str) -> Result<String, Error> {
    strftime::format(now, format)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// `tojson` as Hugging Face defines it: Python's `json.dumps`, without HTML escapes.
#[allow(clippy::needless_pass_by_value)] // the signature minijinja calls
fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let options = python::JsonOptions {
        indent: kwargs.get("indent")?,
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    python::to_json(value, options)
}

fn classify(error: &Error, limit: u64) -> TextError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TextError::TemplateRaised {
                message: message.clone(),
            };
        }
        if cause
            .downcast_ref::<Error>()
            .is_some_and(|inner| inner.kind() == ErrorKind::OutOfFuel)
        {
            return TextError::TemplateWorkLimit { limit };
        }
        source = cause.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return TextError::TemplateWorkLimit { limit };
    }
    TextError::TemplateFailed {
        line: error.line().unwrap_or(1),
        detail: describe(error),
    }
}

fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}
