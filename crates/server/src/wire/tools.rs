//! Tools, and calls of them, as OpenAI writes them.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::read::{Object, ReadError, Reader, WireObject, WireValue, wire_object};

/// Any JSON, kept as a tree. A tree can be thirty times as large as its text, so what is bounded is
/// the number of its values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tree(pub(crate) Value);

/// Values a tree may have: several times what the largest sets of tools in use have.
pub(crate) const TREE_VALUES_MAX: usize = 1 << 16;

impl WireValue for Tree {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        let given = json_values(raw.get());
        if given > TREE_VALUES_MAX {
            let limit = TREE_VALUES_MAX;
            return Err(reader.error(format_args!(
                "{given} JSON values, at most {limit} are taken"
            )));
        }
        reader.plain(raw).map(Self)
    }
}

/// Values in a JSON text, keys counted too; never less than there are.
pub(crate) fn json_values(text: &str) -> usize {
    let (mut values, mut is_text, mut is_escaped) = (1, false, false);
    for byte in text.bytes() {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => is_text = !is_text,
            (false, b',' | b':' | b'[' | b'{') => values += 1,
            _ => {}
        }
    }
    values
}

/// A call in a message of the history.
#[derive(Debug, Default)]
pub(crate) struct PastCall {
    pub(crate) id: Option<String>,
    pub(crate) function: Option<PastFunction>,
}

impl WireObject for PastCall {
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError> {
        // There is one type; the index is what streams number calls by.
        object.take::<String>(reader, "type")?;
        object.take::<Tree>(reader, "index")?;
        Ok(Self {
            id: object.take(reader, "id")?,
            function: object.take(reader, "function")?,
        })
    }
}

wire_object! {
    /// What was called.
    pub(crate) struct PastFunction {
        name: String,
        arguments: ArgumentsText,
    }
}

/// The arguments of a call as JSON text. Some clients send the object itself.
#[derive(Debug, Default)]
pub(crate) struct ArgumentsText(pub(crate) String);

impl WireValue for ArgumentsText {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        match raw.get().as_bytes().first() {
            Some(b'"') => reader.plain(raw).map(Self),
            Some(b'{') => Ok(Self(raw.get().to_owned())),
            _ => Err(reader.error("expected a JSON object, as text or as it is")),
        }
    }
}

/// A call in an answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    /// In streams alone: which of the calls this is a piece of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<usize>,
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) function: Function,
}

/// What is called. The arguments are JSON text.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) arguments: String,
}

#[cfg(test)]
mod tests {
    use super::json_values;

    #[test]
    fn every_value_is_counted_and_no_text_inside_strings() {
        assert_eq!(json_values("1"), 1);
        assert_eq!(json_values("[1, {\"a\": 2}]"), 5);
        assert_eq!(json_values(r#""a, \" [b], {c: d}""#), 1);
        assert!(json_values(&"[".repeat(100)) > 100);
    }
}
