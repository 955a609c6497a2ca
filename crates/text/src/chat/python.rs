//! How Python writes values: `str`, `repr` and `json.dumps`.
//!
//! Models were trained on what Hugging Face's Python rendered, so `{{ true }}` must print `True`
//! and a tool's description must be JSON with Python's spacing.

use std::fmt::{self, Write};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Nesting that is written. Requests cannot nest deeper than their JSON parser allows; a template
/// could, until the stack overflows.
const DEPTH_MAX: usize = 256;

/// Arguments of Python's `json.dumps`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JsonOptions {
    /// Spaces an inner line is indented by; none means everything on one line.
    pub indent: Option<usize>,
    /// Write characters beyond ASCII as `\uXXXX`.
    pub ensure_ascii: bool,
    /// Order maps by key.
    pub sort_keys: bool,
}

/// `str(value)`; nothing for undefined values, as Jinja has it.
pub(super) fn write_str(out: &mut impl Write, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => Ok(out.write_str(value.as_str().unwrap_or_default())?),
        _ => Writer {
            out,
            style: Style::Repr,
        }
        .value(value, 0),
    }
}

/// `json.dumps(value, …)`.
pub(super) fn to_json(value: &Value, options: JsonOptions) -> Result<String, Error> {
    let mut text = String::new();
    Writer {
        out: &mut text,
        style: Style::Json(options),
    }
    .value(value, 0)?;
    Ok(text)
}

#[derive(Clone, Copy)]
enum Style {
    Repr,
    Json(JsonOptions),
}

struct Writer<'o, W> {
    out: &'o mut W,
    style: Style,
}

impl<W: Write> Writer<'_, W> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            let detail = format!("a value is nested more than {DEPTH_MAX} deep");
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
        match value.kind() {
            ValueKind::None => self.word("None", "null"),
            ValueKind::Bool if value.is_true() => self.word("True", "true"),
            ValueKind::Bool => self.word("False", "false"),
            ValueKind::Number => self.number(value),
            ValueKind::String => Ok(self.string(value.as_str().unwrap_or_default())?),
            ValueKind::Seq | ValueKind::Iterable => self.seq(value, depth),
            ValueKind::Map => self.map(value, depth),
            kind => match self.style {
                Style::Repr => Ok(write!(self.out, "{value}")?),
                Style::Json(_) => Err(not_json(kind)),
            },
        }
    }

    fn word(&mut self, repr: &str, json: &str) -> Result<(), Error> {
        Ok(self.out.write_str(match self.style {
            Style::Repr => repr,
            Style::Json(_) => json,
        })?)
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            return Ok(write!(self.out, "{value}")?);
        }
        let number = f64::try_from(value.clone())?;
        let name = |repr, json| match self.style {
            Style::Repr => repr,
            Style::Json(_) => json,
        };
        Ok(match number {
            _ if number.is_nan() => self.out.write_str(name("nan", "NaN")),
            f64::INFINITY => self.out.write_str(name("inf", "Infinity")),
            f64::NEG_INFINITY => self.out.write_str(name("-inf", "-Infinity")),
            _ => write_float(self.out, number),
        }?)
    }

    fn string(&mut self, text: &str) -> fmt::Result {
        match self.style {
            Style::Repr => write_repr(self.out, text),
            Style::Json(options) => write_json_string(self.out, text, options.ensure_ascii),
        }
    }

    fn seq(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let (open, close) = match self.style {
            Style::Repr if value.is_tuple() => ('(', ')'),
            _ => ('[', ']'),
        };
        self.out.write_char(open)?;
        let mut count = 0;
        for item in value.try_iter()? {
            self.separate(count, depth + 1)?;
            self.value(&item, depth + 1)?;
            count += 1;
        }
        if open == '(' && count == 1 {
            self.out.write_char(',')?;
        }
        Ok(self.close(close, count, depth)?)
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if matches!(
            self.style,
            Style::Json(JsonOptions {
                sort_keys: true,
                ..
            })
        ) {
            keys.sort();
        }
        self.out.write_char('{')?;
        for (count, key) in keys.iter().enumerate() {
            self.separate(count, depth + 1)?;
            self.key(key, depth + 1)?;
            self.out.write_str(": ")?;
            self.value(&value.get_item(key)?, depth + 1)?;
        }
        Ok(self.close('}', keys.len(), depth)?)
    }

    /// JSON's keys are strings: Python converts numbers, booleans and none.
    fn key(&mut self, key: &Value, depth: usize) -> Result<(), Error> {
        let quoted = matches!(self.style, Style::Json(_)) && key.kind() != ValueKind::String;
        if !quoted {
            return self.value(key, depth);
        }
        if !matches!(
            key.kind(),
            ValueKind::Number | ValueKind::Bool | ValueKind::None
        ) {
            return Err(not_json(key.kind()));
        }
        self.out.write_char('"')?;
        self.value(key, depth)?;
        Ok(self.out.write_char('"')?)
    }

    /// What stands before item `index` of a list or map.
    fn separate(&mut self, index: usize, depth: usize) -> fmt::Result {
        match self.style {
            Style::Json(JsonOptions {
                indent: Some(indent),
                ..
            }) => {
                let comma = if index > 0 { "," } else { "" };
                write!(self.out, "{comma}\n{:1$}", "", indent * depth)
            }
            _ if index > 0 => self.out.write_str(", "),
            _ => Ok(()),
        }
    }

    fn close(&mut self, bracket: char, items: usize, depth: usize) -> fmt::Result {
        if let Style::Json(JsonOptions {
            indent: Some(indent),
            ..
        }) = self.style
            && items > 0
        {
            write!(self.out, "\n{:1$}", "", indent * depth)?;
        }
        self.out.write_char(bracket)
    }
}

fn not_json(kind: ValueKind) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("{kind} cannot be written as JSON"),
    )
}

/// The shortest digits that read back the same, with Python's choice of notation: an exponent
/// below -4 and from 16 on.
fn write_float(out: &mut impl Write, number: f64) -> fmt::Result {
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    let fixed = number.to_string();
    let fraction = if fixed.contains('.') { "" } else { ".0" };
    write!(out, "{fixed}{fraction}")
}

/// A string in single quotes, or in double quotes if it contains only the former.
fn write_repr(out: &mut impl Write, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            _ if c == quote => write!(out, "\\{c}")?,
            _ if c.is_control() || (c.is_whitespace() && c != ' ') => match u32::from(c) {
                point @ ..=0xFF => write!(out, "\\x{point:02x}")?,
                point => write!(out, "\\u{point:04x}")?,
            },
            _ => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

fn write_json_string(out: &mut impl Write, text: &str, ensure_ascii: bool) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            ..' ' => write!(out, "\\u{:04x}", u32::from(c))?,
            _ if ensure_ascii && !matches!(c, ' '..='~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            _ => out.write_char(c)?,
        }
    }
    out.write_char('"')
}
