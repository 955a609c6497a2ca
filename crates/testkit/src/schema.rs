//! Small JSON schemas from seeds, and a check of values against them.
//!
//! The check is written from the specification, for the keywords the schemas use, and shares nothing
//! with what it is to judge.

use kvist_base::mix64;
use serde_json::{Map, Value, json};

/// Levels a schema may have.
const DEPTH_MAX: u32 = 3;
/// Names of properties.
const NAMES: [&str; 6] = ["a", "name", "x y", "größe", "quo\"te", "n"];
/// Texts of enumerations.
const WORDS: [&str; 5] = ["red", "green", "", "a\nb", "ß"];

/// The splitmix64 stream of a seed.
struct Stream(u64);

impl Stream {
    #[allow(clippy::cast_possible_truncation)] // smaller than `end`
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mix64(self.0) % u64::from(end)) as u32
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        let idx = self.below(u32::try_from(texts.len()).unwrap_or(u32::MAX));
        texts[idx as usize]
    }
}

/// The schema of a seed: bounded in everything, so that outputs drawn at random come to an end.
pub fn schema(seed: u64) -> Value {
    let mut stream = Stream(mix64(seed));
    let mut root = node(&mut stream, 0);
    if let Value::Object(fields) = &mut root {
        // A definition for references; one level deep, so that nothing recurs without end.
        fields.insert("$defs".to_owned(), json!({ "leaf": leaf(&mut stream) }));
    }
    root
}

fn node(stream: &mut Stream, depth: u32) -> Value {
    if depth == DEPTH_MAX {
        return leaf(stream);
    }
    match stream.below(if depth == 0 { 3 } else { 7 }) {
        0 | 1 => object(stream, depth),
        2 => array(stream, depth),
        3 => json!({ "anyOf": [node(stream, depth + 1), leaf(stream)] }),
        4 => json!({ "$ref": "#/$defs/leaf" }),
        _ => leaf(stream),
    }
}

fn object(stream: &mut Stream, depth: u32) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for _ in 0..=stream.below(3) {
        let name = stream.one_of(&NAMES);
        if properties.contains_key(name) {
            continue;
        }
        properties.insert(name.to_owned(), node(stream, depth + 1));
        if stream.coin() {
            required.push(name);
        }
    }
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}

fn array(stream: &mut Stream, depth: u32) -> Value {
    let min = stream.below(3);
    let max = min + stream.below(3);
    json!({
        "type": "array", "items": node(stream, depth + 1), "minItems": min, "maxItems": max,
    })
}

fn leaf(stream: &mut Stream) -> Value {
    match stream.below(8) {
        0 => json!({ "type": "boolean" }),
        1 => json!({ "type": "null" }),
        2 => {
            let min = i64::from(stream.below(200)) - 100;
            let max = min + i64::from(stream.below(1000));
            json!({ "type": "integer", "minimum": min, "maximum": max })
        }
        3 => json!({ "type": "number", "minimum": 0, "maximum": 10 }),
        4 => {
            let min = stream.below(3);
            let max = min + stream.below(8);
            json!({ "type": "string", "minLength": min, "maxLength": max })
        }
        5 => json!({ "enum": [stream.one_of(&WORDS), 7, null] }),
        6 => json!({ "const": stream.one_of(&WORDS) }),
        _ => json!({ "type": ["boolean", "null"] }),
    }
}

/// Whether `value` is of `schema`, one of [`schema`]'s own.
///
/// # Panics
/// If the schema has a keyword that is not among those.
pub fn is_of(schema: &Value, value: &Value) -> bool {
    holds(schema, schema, value)
}

fn holds(root: &Value, schema: &Value, value: &Value) -> bool {
    let fields = schema.as_object().expect("a schema is an object");
    fields.iter().all(|(keyword, rule)| match &**keyword {
        "$defs" => true,
        "$ref" => {
            let pointer = rule.as_str().and_then(|text| text.strip_prefix('#'));
            let target = pointer.and_then(|pointer| root.pointer(pointer));
            holds(root, target.expect("a reference into the schema"), value)
        }
        "anyOf" => items(rule).iter().any(|each| holds(root, each, value)),
        "enum" => items(rule).contains(value),
        "const" => rule == value,
        "type" => match rule {
            Value::Array(kinds) => kinds.iter().any(|kind| is_a(kind, value)),
            kind => is_a(kind, value),
        },
        "minimum" => value.as_f64().is_none_or(|n| n >= number(rule)),
        "maximum" => value.as_f64().is_none_or(|n| n <= number(rule)),
        "minLength" => value
            .as_str()
            .is_none_or(|text| chars(text) >= number(rule)),
        "maxLength" => value
            .as_str()
            .is_none_or(|text| chars(text) <= number(rule)),
        "minItems" => value
            .as_array()
            .is_none_or(|list| len(list) >= number(rule)),
        "maxItems" => value
            .as_array()
            .is_none_or(|list| len(list) <= number(rule)),
        "items" => value
            .as_array()
            .is_none_or(|list| list.iter().all(|item| holds(root, rule, item))),
        "required" => value.as_object().is_none_or(|object| {
            let names = items(rule).iter().filter_map(Value::as_str);
            names.into_iter().all(|name| object.contains_key(name))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            let known = object
                .iter()
                .filter_map(|(name, value)| Some((rule.get(name)?, value)));
            known
                .into_iter()
                .all(|(rule, value)| holds(root, rule, value))
        }),
        "additionalProperties" => {
            assert_eq!(rule, &Value::Bool(false), "no other value is used");
            let known = &fields["properties"];
            value
                .as_object()
                .is_none_or(|object| object.keys().all(|name| known.get(name).is_some()))
        }
        other => panic!("the check does not know {other}"),
    })
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        _ => panic!("the check does not know the type {kind}"),
    }
}

fn items(rule: &Value) -> &[Value] {
    rule.as_array().expect("a list")
}

fn number(rule: &Value) -> f64 {
    rule.as_f64().expect("a number")
}

#[allow(clippy::cast_precision_loss)] // texts of tests are short
fn chars(text: &str) -> f64 {
    text.chars().count() as f64
}

#[allow(clippy::cast_precision_loss)] // and so are lists
fn len(list: &[Value]) -> f64 {
    list.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_knows_every_keyword_of_the_schemas() {
        for seed in 0..500 {
            let schema = schema(seed);
            for value in [json!({}), json!([]), json!(null), json!({"a": [1, "x"]})] {
                // It may hold or not, but is decided.
                let _ = is_of(&schema, &value);
            }
        }
    }

    #[test]
    fn what_breaks_a_rule_does_not_pass() {
        let schema = json!({
            "type": "object", "required": ["n"], "additionalProperties": false,
            "properties": {
                "n": {"type": "integer", "minimum": 1, "maximum": 3},
                "s": {"type": "string", "minLength": 1, "maxLength": 2},
                "l": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "minItems": 1, "maxItems": 2},
            },
            "$defs": {"leaf": {"anyOf": [{"const": "é"}, {"enum": [7, null]}]}},
        });
        for good in [
            json!({"n": 1}),
            json!({"n": 3, "s": "éé", "l": ["é", 7]}),
            json!({"n": 2.0, "l": [null]}),
        ] {
            assert!(is_of(&schema, &good), "{good}");
        }
        for bad in [
            json!({}),
            json!([]),
            json!({"n": 0}),
            json!({"n": 4}),
            json!({"n": 1.5}),
            json!({"n": "1"}),
            json!({"n": 1, "m": 1}),
            json!({"n": 1, "s": ""}),
            json!({"n": 1, "s": "abc"}),
            json!({"n": 1, "l": []}),
            json!({"n": 1, "l": [7, 7, 7]}),
            json!({"n": 1, "l": ["e"]}),
        ] {
            assert!(!is_of(&schema, &bad), "{bad}");
        }
    }
}
