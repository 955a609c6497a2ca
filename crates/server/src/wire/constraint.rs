//! What an output must look like, in the spellings clients have for it.

use serde_json::value::RawValue;

use super::read::{List, Object, ReadError, Reader, WireObject, WireValue, wire_object};

/// Choices a body may have before it is refused unread.
const CHOICES_MAX: usize = 16_384;

/// OpenAI's `response_format`.
#[derive(Debug)]
pub(crate) struct ResponseFormat {
    /// `type` on the wire.
    pub(crate) kind: Option<String>,
    pub(crate) json_schema: Option<NamedSchema>,
}

impl WireObject for ResponseFormat {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        Ok(Self {
            kind: object.take(reader, "type")?,
            json_schema: object.take(reader, "json_schema")?,
        })
    }
}

/// A schema. What it is called changes nothing, nor does whether it is to be kept to: it always is.
#[derive(Debug)]
pub(crate) struct NamedSchema {
    pub(crate) schema: Option<JsonText>,
}

impl WireObject for NamedSchema {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        for label in ["name", "description"] {
            object.take::<String>(reader, label)?;
        }
        object.take::<bool>(reader, "strict")?;
        Ok(Self {
            schema: object.take(reader, "schema")?,
        })
    }
}

wire_object! {
    /// vLLM's `structured_outputs`: one of the first five.
    pub(crate) struct StructuredOutputs {
        json: JsonText,
        regex: String,
        choice: List<String, CHOICES_MAX>,
        grammar: String,
        json_object: bool,
        structural_tag: JsonText,
        whitespace_pattern: String,
        disable_any_whitespace: bool,
        disable_additional_properties: bool,
    }
}

/// A JSON value that is passed on as it was written. A string is taken for JSON text itself, as
/// vLLM does.
#[derive(Debug, PartialEq)]
pub(crate) struct JsonText(pub(crate) String);

impl WireValue for JsonText {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        if raw.get().starts_with('"') {
            return reader.plain(raw).map(Self);
        }
        Ok(Self(raw.get().to_owned()))
    }
}

/// vLLM's `guided_choice`.
pub(crate) type Choices = List<String, CHOICES_MAX>;
