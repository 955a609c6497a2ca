//! What an output must look like: one constraint, however it is spelled.
//!
//! The engine checks the constraint itself, and its limits; here is decided what was meant.

use kvist_engine::Constraint;

use super::out_of_range;
use crate::error::ApiError;
use crate::wire::common::GenerationFields;
use crate::wire::constraint::{JsonText, ResponseFormat, StructuredOutputs};

/// A constraint, and the field it came in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) field: &'static str,
    pub(crate) constraint: Constraint,
}

/// The one constraint of a request, if it has one.
pub(super) fn constraint(fields: &mut GenerationFields) -> Result<Option<Asked>, ApiError> {
    let mut found: Vec<Asked> = Vec::new();
    if let Some(format) = fields.response_format.take() {
        found.extend(response_format(format)?);
    }
    if let Some(outputs) = fields.structured_outputs.take() {
        found.extend(structured_outputs(outputs)?);
    }
    let guided = [
        ("guided_json", fields.guided_json.take().map(schema)),
        (
            "guided_regex",
            fields.guided_regex.take().map(Constraint::Regex),
        ),
        (
            "guided_choice",
            fields
                .guided_choice
                .take()
                .map(|choices| Constraint::Choice(choices.0)),
        ),
        (
            "guided_grammar",
            fields.guided_grammar.take().map(Constraint::Lark),
        ),
    ];
    found.extend(all_given(guided).filter(|asked| !is_nothing(&asked.constraint)));
    one_of(found)
}

fn all_given<const N: usize>(
    fields: [(&'static str, Option<Constraint>); N],
) -> impl Iterator<Item = Asked> {
    fields
        .into_iter()
        .filter_map(|(field, constraint)| constraint.map(|constraint| Asked { field, constraint }))
}

/// Two constraints would have to hold both; nobody means that.
fn one_of(found: Vec<Asked>) -> Result<Option<Asked>, ApiError> {
    let mut found = found.into_iter();
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(second) => Err(ApiError::Conflict {
            field: second.field,
            reason: "together with another constraint on the output",
        }),
    }
}

fn schema(JsonText(text): JsonText) -> Constraint {
    Constraint::JsonSchema(text)
}

/// Some clients send every field, empty: that asks for nothing.
fn is_nothing(constraint: &Constraint) -> bool {
    match constraint {
        Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Lark(text) => {
            text.is_empty()
        }
        Constraint::Choice(choices) => choices.is_empty(),
        Constraint::JsonObject | Constraint::TaggedJson(_) => false,
    }
}

fn response_format(format: ResponseFormat) -> Result<Option<Asked>, ApiError> {
    let field = "response_format";
    match format.kind.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Asked {
            field,
            constraint: Constraint::JsonObject,
        })),
        Some("json_schema") => {
            let given = format.json_schema.and_then(|named| named.schema);
            let text = given.ok_or(ApiError::Missing {
                field: "response_format.json_schema.schema",
                hint: "give the JSON schema the output is to have",
            })?;
            Ok(Some(Asked {
                field: "response_format.json_schema.schema",
                constraint: schema(text),
            }))
        }
        given => {
            let given = given.map_or("missing".to_owned(), |kind| format!("{kind:?}"));
            let kinds = "one of text, json_object, json_schema";
            Err(out_of_range("response_format.type", kinds, &given))
        }
    }
}

fn structured_outputs(outputs: StructuredOutputs) -> Result<Option<Asked>, ApiError> {
    let StructuredOutputs {
        json,
        regex,
        choice,
        grammar,
        json_object,
        structural_tag,
        whitespace_pattern,
        disable_any_whitespace,
        disable_additional_properties,
    } = outputs;
    let unsupported = [
        ("structural_tag", structural_tag.is_some()),
        ("whitespace_pattern", whitespace_pattern.is_some()),
        (
            "disable_any_whitespace",
            disable_any_whitespace == Some(true),
        ),
        (
            "disable_additional_properties",
            disable_additional_properties == Some(true),
        ),
    ];
    if let Some((name, _)) = unsupported.iter().find(|(_, is_given)| *is_given) {
        return Err(ApiError::Unsupported {
            field: format!("structured_outputs.{name}"),
            hint: "",
        });
    }
    let object = (json_object == Some(true)).then_some(Constraint::JsonObject);
    let given = [
        ("structured_outputs.json", json.map(schema)),
        ("structured_outputs.regex", regex.map(Constraint::Regex)),
        (
            "structured_outputs.choice",
            choice.map(|choices| Constraint::Choice(choices.0)),
        ),
        ("structured_outputs.grammar", grammar.map(Constraint::Lark)),
        ("structured_outputs.json_object", object),
    ];
    one_of(all_given(given).collect())
}
