//! `kvist inspect`: what a model file holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kvist_base::Bytes;
use kvist_weights::{Array, GgufFile, Value};
use serde_json::{Map, Value as Json, json};

use crate::args::InspectArgs;
use crate::environment::Environment;
use crate::error::{CliError, output_error};
use crate::exit::Exit;
use crate::model_ref;
use crate::terminal::print;

/// Items of an array that are shown: vocabularies have hundreds of thousands.
const ITEMS_SHOWN: usize = 4;
/// Characters of a string that are shown in the table: chat templates have thousands.
const CHARS_SHOWN: usize = 60;

pub(crate) fn run(args: &InspectArgs, environment: &Environment) -> Result<Exit, CliError> {
    let path = model_ref::resolve(&args.model, environment)?;
    let file = GgufFile::open_header(&path)?;
    let text = match (args.json, args.tensors) {
        (true, tensors) => {
            let mut json = as_json(&file);
            if tensors {
                json["tensors"] = tensors_json(&file);
            }
            format!("{json:#}\n")
        }
        (false, true) => header_text(&file) + &metadata_text(&file) + &tensors_text(&file),
        (false, false) => header_text(&file) + &metadata_text(&file),
    };
    print(&text).map_err(|error| output_error(&error))?;
    Ok(Exit::Ok)
}

/// Number and size of tensors by type.
fn types(file: &GgufFile) -> BTreeMap<&'static str, (usize, Bytes)> {
    let mut types = BTreeMap::new();
    for tensor in file.tensors() {
        let (count, bytes) = types
            .entry(tensor.ggml_type.name())
            .or_insert((0, Bytes::ZERO));
        *count += 1;
        *bytes += tensor.bytes;
    }
    types
}

fn header_text(file: &GgufFile) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, here and below.
    for path in file.paths() {
        let _ = writeln!(text, "File      {}", path.display());
    }
    let _ = writeln!(
        text,
        "Format    GGUF version {}, {}",
        file.version(),
        file.file_bytes()
    );
    let _ = writeln!(
        text,
        "Tensors   {}, {}",
        file.tensors().len(),
        file.tensor_bytes()
    );
    for (name, (count, bytes)) in types(file) {
        let _ = writeln!(text, "          {name:<8} {count:>5}  {bytes}");
    }
    if !file.is_complete() {
        let _ = writeln!(text, "Note      the file ends before its last tensor");
    }
    text
}

fn metadata_text(file: &GgufFile) -> String {
    let mut text = format!("\nMetadata  {} keys\n", file.metadata().len());
    for (key, value) in file.metadata().iter() {
        let _ = writeln!(
            text,
            "  {:<44} {:<16} {}",
            one_line(key),
            value.type_name(),
            short(value)
        );
    }
    text
}

fn tensors_text(file: &GgufFile) -> String {
    let mut text = String::from("\n");
    let _ = writeln!(
        text,
        "  {:<40} {:<8} {:>22} {:>12}",
        "tensor", "type", "shape", "size"
    );
    for tensor in file.tensors() {
        let shape: Vec<String> = tensor.dims.iter().map(usize::to_string).collect();
        let (name, size) = (one_line(&tensor.name), tensor.bytes.to_string());
        let (kind, shape) = (tensor.ggml_type.name(), shape.join(" x "));
        let _ = writeln!(text, "  {name:<40} {kind:<8} {shape:>22} {size:>12}");
    }
    text
}

/// The value on one line, cut where it is long.
fn short(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let line = one_line(text);
            match line.char_indices().nth(CHARS_SHOWN) {
                Some((end, _)) => format!("{}… ({} bytes)", &line[..end], text.len()),
                None => line,
            }
        }
        Value::Array(array) => {
            let items: Vec<String> = first_items(array).iter().map(Json::to_string).collect();
            let more = if array.len() > items.len() {
                ", …"
            } else {
                ""
            };
            format!("[{}{more}] ({} items)", items.join(", "), array.len())
        }
        scalar => scalar_json(scalar).to_string(),
    }
}

/// Line ends and tabs would break the table; other control characters are dealt with on printing.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\t', "\\t")
}

fn as_json(file: &GgufFile) -> Json {
    let paths: Vec<_> = file
        .paths()
        .iter()
        .map(|path| path.to_string_lossy())
        .collect();
    let types: Map<String, Json> = types(file)
        .into_iter()
        .map(|(name, (count, bytes))| (name.to_owned(), json!({"count": count, "bytes": bytes.0})))
        .collect();
    let metadata: Map<String, Json> = file
        .metadata()
        .iter()
        .map(|(key, value)| (key.to_owned(), value_json(value)))
        .collect();
    json!({
        "files": paths,
        "version": file.version(),
        "file_bytes": file.file_bytes().0,
        "tensor_bytes": file.tensor_bytes().0,
        "tensor_count": file.tensors().len(),
        "is_complete": file.is_complete(),
        "types": types,
        "metadata": metadata,
    })
}

fn tensors_json(file: &GgufFile) -> Json {
    let tensor = |tensor: &kvist_weights::TensorInfo| {
        json!({
            "name": tensor.name,
            "type": tensor.ggml_type.name(),
            "dims": tensor.dims.to_vec(),
            "bytes": tensor.bytes.0,
        })
    };
    file.tensors().iter().map(tensor).collect()
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::Array(array) => json!({
            "type": value.type_name(),
            "len": array.len(),
            "first": first_items(array),
        }),
        scalar => scalar_json(scalar),
    }
}

/// JSON has no number for infinities and NaN: they become null.
fn scalar_json(value: &Value) -> Json {
    match value {
        Value::U8(n) => json!(n),
        Value::I8(n) => json!(n),
        Value::U16(n) => json!(n),
        Value::I16(n) => json!(n),
        Value::U32(n) => json!(n),
        Value::I32(n) => json!(n),
        Value::F32(n) => f32_json(*n),
        Value::Bool(flag) => json!(flag),
        Value::String(text) => json!(text),
        Value::U64(n) => json!(n),
        Value::I64(n) => json!(n),
        Value::F64(n) => json!(n),
        Value::Array(array) => json!(first_items(array)),
    }
}

/// The shortest number that means this `f32`, rather than all digits of its 64-bit copy.
fn f32_json(number: f32) -> Json {
    json!(number.to_string().parse::<f64>().ok())
}

fn first_items(array: &Array) -> Vec<Json> {
    fn first<T: serde::Serialize>(items: &[T]) -> Vec<Json> {
        items
            .iter()
            .take(ITEMS_SHOWN)
            .map(|item| json!(item))
            .collect()
    }
    match array {
        Array::U8(items) => first(items),
        Array::I8(items) => first(items),
        Array::U16(items) => first(items),
        Array::I16(items) => first(items),
        Array::U32(items) => first(items),
        Array::I32(items) => first(items),
        Array::F32(items) => items
            .iter()
            .take(ITEMS_SHOWN)
            .map(|&n| f32_json(n))
            .collect(),
        Array::Bool(items) => first(items),
        Array::String(items) => items
            .iter()
            .take(ITEMS_SHOWN)
            .map(|item| json!(item))
            .collect(),
        Array::Array(items) => items
            .iter()
            .take(ITEMS_SHOWN)
            .map(|item| json!(first_items(item)))
            .collect(),
        Array::U64(items) => first(items),
        Array::I64(items) => first(items),
        Array::F64(items) => first(items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_and_counted() {
        let numbers = Value::Array(Array::U32((1..=9).collect()));
        assert_eq!(short(&numbers), "[1, 2, 3, 4, …] (9 items)");
        let text = Value::String("é".repeat(100).into());
        assert_eq!(
            short(&text),
            format!("{}… (200 bytes)", "é".repeat(CHARS_SHOWN))
        );
        assert_eq!(short(&Value::String("a\nb".into())), "a\\nb");
        assert_eq!(short(&Value::Bool(true)), "true");
        assert_eq!(short(&Value::F32(0.1)), "0.1");
        assert_eq!(short(&Value::F32(f32::NAN)), "null");
        let strings = Value::Array(Array::String(["x", "\u{1b}[2J"].iter().collect()));
        assert_eq!(short(&strings), "[\"x\", \"\\u001b[2J\"] (2 items)");
    }
}
