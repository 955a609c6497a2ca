//! Grammars in llguidance's Lark, written for constraints that are not.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::constraint::{TaggedJson, TaggedValue};
use crate::error::ConstraintError;
use crate::limits::schema_tree;
use crate::vocab::Vocabulary;

/// Space between the tokens of JSON. Bounded, so that a model that likes spaces comes to an end.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,32}";

/// A schema with kvist's way of writing JSON. What a client put in that place does not count.
pub(crate) fn with_json_style(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        let style = json!({ "whitespace_pattern": JSON_SPACE });
        fields.insert("x-guidance".to_owned(), style);
    }
    schema
}

/// One of the texts.
pub(crate) fn choice(choices: &[String]) -> String {
    let literals: Vec<String> = choices.iter().map(|text| literal(text)).collect();
    format!("start: CHOICE\nCHOICE: {}\n", literals.join(" | "))
}

/// JSON values in their texts.
pub(crate) fn tagged(
    tagged: &TaggedJson,
    vocabulary: &Vocabulary,
) -> Result<String, ConstraintError> {
    let mut grammar = match &tagged.separator {
        None => "start: value\n".to_owned(),
        Some(separator) => {
            format!("start: value ({} value)*\n", text(separator, vocabulary))
        }
    };
    let names: Vec<String> = (0..tagged.alternatives.len())
        .map(|idx| format!("value_{idx}"))
        .collect();
    writeln!(grammar, "value: {}", names.join(" | ")).expect("a string takes all");
    for (idx, alternative) in tagged.alternatives.iter().enumerate() {
        let TaggedValue { begin, schema, end } = alternative;
        let schema = with_json_style(schema_tree(schema)?);
        let (begin, end) = (text(begin, vocabulary), text(end, vocabulary));
        writeln!(
            grammar,
            "value_{idx}: {begin} json_{idx} {end}\njson_{idx}: %json {schema}"
        )
        .expect("a string takes all");
    }
    Ok(grammar)
}

/// A fixed text as a sequence of literals and the control tokens it spells.
fn text(text: &str, vocabulary: &Vocabulary) -> String {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < text.len() {
        match vocabulary.special_at(&text[at..]) {
            Some((spelled, id)) => {
                if start < at {
                    parts.push(literal(&text[start..at]));
                }
                parts.push(format!("<[{id}]>"));
                at += spelled.len();
                start = at;
            }
            None => at += text[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if start < at {
        parts.push(literal(&text[start..at]));
    }
    parts.join(" ")
}

/// A string literal. Lark's are JSON's, but for the delete character.
fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\x7F', "\\u007F")
}
