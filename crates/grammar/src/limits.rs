//! Bounds of a constraint, checked before anything is compiled.

use llguidance::api::ParserLimits;
use serde_json::Value;

use crate::constraint::{Constraint, TaggedJson};
use crate::error::ConstraintError;

/// Bytes a JSON schema may have.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Levels of arrays and objects in a JSON schema's text.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// Bytes a regular expression may have.
pub const REGEX_BYTES_MAX: usize = 4 << 10;
/// Texts to choose from.
pub const CHOICES_MAX: usize = 1024;
/// Bytes they may have together.
pub const CHOICE_BYTES_MAX: usize = 64 << 10;
/// Bytes a grammar may have.
pub const LARK_BYTES_MAX: usize = 32 << 10;
/// Definitions a grammar may have.
pub const LARK_RULES_MAX: usize = 1000;
/// Alternatives of [`TaggedJson`].
pub const ALTERNATIVES_MAX: usize = 128;
/// Bytes its texts and schemas may have together.
pub const TAGGED_BYTES_MAX: usize = 256 << 10;

/// Work and memory, in llguidance's units. Half its defaults where they are seconds or hundreds of
/// megabytes; larger than what published schemas need by a factor of ten.
pub(crate) fn parser_limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        // 20 ms on one core.
        initial_lexer_fuel: 1_000_000,
        // 14 ms.
        step_lexer_fuel: 200_000,
        // 2.5 ms.
        step_max_items: 50_000,
        // A sequence keeps 1 to 2 kB for each; hundreds are usual.
        max_lexer_states: 10_000,
        max_grammar_size: 250_000,
        precompute_large_lexemes: true,
        // Errors are for clients: without the parser's state.
        verbose_errors: false,
    }
}

/// Counts and lengths.
pub(crate) fn check(constraint: &Constraint) -> Result<(), ConstraintError> {
    match constraint {
        Constraint::JsonObject => Ok(()),
        Constraint::JsonSchema(schema) => schema_bytes(schema),
        Constraint::Regex(regex) => {
            filled("the regular expression", regex.len())?;
            let what = "the length of the regular expression in bytes";
            at_most(what, REGEX_BYTES_MAX, regex.len())
        }
        Constraint::Choice(choices) => {
            filled("the list of choices", choices.len())?;
            at_most("the number of choices", CHOICES_MAX, choices.len())?;
            let shortest = choices.iter().map(String::len).min();
            filled("each choice", shortest.unwrap_or(0))?;
            let given = choices.iter().map(String::len).sum();
            let what = "the length of all choices together in bytes";
            at_most(what, CHOICE_BYTES_MAX, given)
        }
        Constraint::Lark(grammar) => {
            filled("the grammar", grammar.trim().len())?;
            let what = "the length of the grammar in bytes";
            at_most(what, LARK_BYTES_MAX, grammar.len())?;
            let rules = grammar.lines().filter(|line| line.contains(':')).count();
            at_most("the number of rules", LARK_RULES_MAX, rules)
        }
        Constraint::TaggedJson(tagged) => check_tagged(tagged),
    }
}

fn check_tagged(tagged: &TaggedJson) -> Result<(), ConstraintError> {
    let TaggedJson {
        alternatives,
        separator,
    } = tagged;
    filled("the list of alternatives", alternatives.len())?;
    let what = "the number of alternatives";
    at_most(what, ALTERNATIVES_MAX, alternatives.len())?;
    for alternative in alternatives {
        schema_bytes(&alternative.schema)?;
    }
    let lens = alternatives
        .iter()
        .map(|each| each.begin.len() + each.schema.len() + each.end.len());
    let given = lens.sum::<usize>() + separator.as_ref().map_or(0, String::len);
    let what = "the length of all alternatives together in bytes";
    at_most(what, TAGGED_BYTES_MAX, given)
}

fn schema_bytes(schema: &str) -> Result<(), ConstraintError> {
    let what = "the length of the JSON schema in bytes";
    at_most(what, SCHEMA_BYTES_MAX, schema.len())
}

/// The schema as a tree. Reading it bounds the depth by that of serde_json, before ours is counted.
pub(crate) fn schema_tree(text: &str) -> Result<Value, ConstraintError> {
    let tree: Value = serde_json::from_str(text).map_err(|error| ConstraintError::Invalid {
        what: "JSON schema",
        reason: format!("it is not JSON: {error}"),
    })?;
    at_most(
        "the depth of the JSON schema",
        SCHEMA_DEPTH_MAX,
        depth(&tree),
    )?;
    Ok(tree)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn at_most(what: &'static str, limit: usize, given: usize) -> Result<(), ConstraintError> {
    if given <= limit {
        return Ok(());
    }
    Err(ConstraintError::TooLarge { what, limit, given })
}

fn filled(what: &'static str, len: usize) -> Result<(), ConstraintError> {
    if len > 0 {
        return Ok(());
    }
    Err(ConstraintError::Empty { what })
}
