//! Metadata values: thirteen types, arrays included, read once and owned.

use std::fmt;

use crate::cursor::{CountLimit, Cursor};
use crate::error::WeightsError;
use crate::limits;

/// A metadata value, typed as the file types it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is the type's name
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Box<str>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one item type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is the item type's name
pub enum Array {
    U8(Box<[u8]>),
    I8(Box<[i8]>),
    U16(Box<[u16]>),
    I16(Box<[i16]>),
    U32(Box<[u32]>),
    I32(Box<[i32]>),
    F32(Box<[f32]>),
    Bool(Box<[bool]>),
    String(StrArray),
    Array(Box<[Array]>),
    U64(Box<[u64]>),
    I64(Box<[i64]>),
    F64(Box<[f64]>),
}

/// Many strings in two allocations: vocabularies hold hundreds of thousands.
///
/// ```text
/// text  "the" "cat" "sat"   one after another
/// ends    3     6     9     string i is text[ends[i-1]..ends[i]]
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StrArray {
    text: Box<str>,
    ends: Box<[usize]>,
}

impl StrArray {
    /// How many strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String number `idx`, or `None` past the end.
    pub fn get(&self, idx: usize) -> Option<&str> {
        let end = *self.ends.get(idx)?;
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] };
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let text = &self.text[start..end];
            start = end;
            text
        })
    }
}

impl<S: AsRef<str>> FromIterator<S> for StrArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for string in strings {
            text.push_str(string.as_ref());
            ends.push(text.len());
        }
        Self {
            text: text.into(),
            ends: ends.into(),
        }
    }
}

/// The format's `enum gguf_metadata_value_type`.
pub(crate) mod type_id {
    pub(crate) const U8: u32 = 0;
    pub(crate) const I8: u32 = 1;
    pub(crate) const U16: u32 = 2;
    pub(crate) const I16: u32 = 3;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const F32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
    pub(crate) const U64: u32 = 10;
    pub(crate) const I64: u32 = 11;
    pub(crate) const F64: u32 = 12;
}

impl Value {
    /// The type's name for messages: `u32`, `string`, `array of i32`.
    pub fn type_name(&self) -> String {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(array) => return format!("array of {}", array.item_type_name()),
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
        .to_owned()
    }

    /// The number, if this is an integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(n) => n.into(),
            Self::I8(n) => n.into(),
            Self::U16(n) => n.into(),
            Self::I16(n) => n.into(),
            Self::U32(n) => n.into(),
            Self::I32(n) => n.into(),
            Self::U64(n) => n.into(),
            Self::I64(n) => n.into(),
            _ => return None,
        })
    }

    pub(crate) fn read(cursor: &mut Cursor, key: &str, type_id: u32) -> Result<Self, WeightsError> {
        let what = format_args!("value of key {key:?}");
        Ok(match type_id {
            type_id::U8 => Self::U8(cursor.u8(what)?),
            type_id::I8 => Self::I8(cursor.i8(what)?),
            type_id::U16 => Self::U16(cursor.u16(what)?),
            type_id::I16 => Self::I16(cursor.i16(what)?),
            type_id::U32 => Self::U32(cursor.u32(what)?),
            type_id::I32 => Self::I32(cursor.i32(what)?),
            type_id::F32 => Self::F32(cursor.f32(what)?),
            type_id::BOOL => {
                let byte = cursor.u8(what)?;
                Self::Bool(read_bool(byte, cursor, key)?)
            }
            type_id::STRING => Self::String(cursor.string(limits::STRING_BYTES_MAX, what)?.into()),
            type_id::ARRAY => Self::Array(Array::read(cursor, key, 1)?),
            type_id::U64 => Self::U64(cursor.u64(what)?),
            type_id::I64 => Self::I64(cursor.i64(what)?),
            type_id::F64 => Self::F64(cursor.f64(what)?),
            _ => return Err(unknown_value_type(cursor, key, type_id)),
        })
    }
}

impl Array {
    /// How many items.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(items) => items.len(),
            Self::I8(items) => items.len(),
            Self::U16(items) => items.len(),
            Self::I16(items) => items.len(),
            Self::U32(items) => items.len(),
            Self::I32(items) => items.len(),
            Self::F32(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::String(items) => items.len(),
            Self::Array(items) => items.len(),
            Self::U64(items) => items.len(),
            Self::I64(items) => items.len(),
            Self::F64(items) => items.len(),
        }
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item type's name for messages.
    pub fn item_type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// The numbers, if the items are integers of any width.
    pub fn as_integers(&self) -> Option<Vec<i128>> {
        fn widen<T: Copy + Into<i128>>(items: &[T]) -> Option<Vec<i128>> {
            Some(items.iter().map(|&item| item.into()).collect())
        }
        match self {
            Self::U8(items) => widen(items),
            Self::I8(items) => widen(items),
            Self::U16(items) => widen(items),
            Self::I16(items) => widen(items),
            Self::U32(items) => widen(items),
            Self::I32(items) => widen(items),
            Self::U64(items) => widen(items),
            Self::I64(items) => widen(items),
            _ => None,
        }
    }

    /// Reads an array; `depth` is 1 for one that is not inside another.
    fn read(cursor: &mut Cursor, key: &str, depth: u64) -> Result<Self, WeightsError> {
        if depth > limits::NESTING_MAX {
            return Err(WeightsError::TooMany {
                path: cursor.path.to_path_buf(),
                what: format!("arrays within arrays in key {key:?}"),
                limit: limits::NESTING_MAX,
                given: depth,
            });
        }
        let item_type = cursor.u32(format_args!("item type of key {key:?}"))?;
        let Some(item_bytes_min) = item_bytes_min(item_type) else {
            return Err(unknown_value_type(cursor, key, item_type));
        };
        let max = if item_type == type_id::ARRAY {
            limits::NESTED_ITEMS_MAX
        } else {
            u64::MAX
        };
        let what = format_args!("array of key {key:?}");
        let count = cursor.count(
            &CountLimit {
                max,
                item_bytes_min,
            },
            what,
        )?;
        match item_type {
            type_id::STRING => read_strings(cursor, key, count).map(Self::String),
            type_id::ARRAY => {
                let items: Result<_, _> = (0..count)
                    .map(|_| Self::read(cursor, key, depth + 1))
                    .collect();
                items.map(Self::Array)
            }
            type_id::BOOL => {
                let bytes = cursor.take(count, what)?;
                let items: Result<_, _> = bytes
                    .iter()
                    .map(|&byte| read_bool(byte, cursor, key))
                    .collect();
                items.map(Self::Bool)
            }
            _ => {
                // Not more than the bytes left: `count` was checked against them above.
                let bytes = cursor.take(count.saturating_mul(item_bytes_min), what)?;
                numbers(item_type, bytes).ok_or_else(|| unknown_value_type(cursor, key, item_type))
            }
        }
    }
}

/// The fewest bytes an item takes: all of it for a number, the length for a string, the type and
/// count for an array. `None` for a type outside the format.
fn item_bytes_min(item_type: u32) -> Option<u64> {
    Some(match item_type {
        type_id::U8 | type_id::I8 | type_id::BOOL => 1,
        type_id::U16 | type_id::I16 => 2,
        type_id::U32 | type_id::I32 | type_id::F32 => 4,
        type_id::U64 | type_id::I64 | type_id::F64 | type_id::STRING => 8,
        type_id::ARRAY => 12,
        _ => return None,
    })
}

fn numbers(item_type: u32, bytes: &[u8]) -> Option<Array> {
    fn items<const N: usize, T>(bytes: &[u8], from: fn([u8; N]) -> T) -> Box<[T]> {
        bytes
            .as_chunks::<N>()
            .0
            .iter()
            .map(|&chunk| from(chunk))
            .collect()
    }
    Some(match item_type {
        type_id::U8 => Array::U8(bytes.into()),
        type_id::I8 => Array::I8(items(bytes, i8::from_le_bytes)),
        type_id::U16 => Array::U16(items(bytes, u16::from_le_bytes)),
        type_id::I16 => Array::I16(items(bytes, i16::from_le_bytes)),
        type_id::U32 => Array::U32(items(bytes, u32::from_le_bytes)),
        type_id::I32 => Array::I32(items(bytes, i32::from_le_bytes)),
        type_id::F32 => Array::F32(items(bytes, f32::from_le_bytes)),
        type_id::U64 => Array::U64(items(bytes, u64::from_le_bytes)),
        type_id::I64 => Array::I64(items(bytes, i64::from_le_bytes)),
        type_id::F64 => Array::F64(items(bytes, f64::from_le_bytes)),
        _ => return None,
    })
}

fn read_strings(cursor: &mut Cursor, key: &str, count: u64) -> Result<StrArray, WeightsError> {
    let text_bytes = cursor.text_bytes(count, format_args!("strings of key {key:?}"))?;
    let mut text = String::with_capacity(text_bytes);
    let mut ends = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for idx in 0..count {
        let what = format_args!("string {idx} of key {key:?}");
        text.push_str(cursor.string(limits::STRING_BYTES_MAX, what)?);
        ends.push(text.len());
    }
    Ok(StrArray {
        text: text.into(),
        ends: ends.into(),
    })
}

fn read_bool(byte: u8, cursor: &Cursor, key: &str) -> Result<bool, WeightsError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        given => Err(WeightsError::BadBool {
            path: cursor.path.to_path_buf(),
            what: format!("value of key {key:?}"),
            given,
        }),
    }
}

fn unknown_value_type(cursor: &Cursor, key: &str, given: u32) -> WeightsError {
    WeightsError::UnknownValueType {
        path: cursor.path.to_path_buf(),
        key: key.to_owned(),
        given,
    }
}

impl fmt::Display for Value {
    /// Scalars as they are; arrays as their type and length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(n) => n.fmt(f),
            Self::I8(n) => n.fmt(f),
            Self::U16(n) => n.fmt(f),
            Self::I16(n) => n.fmt(f),
            Self::U32(n) => n.fmt(f),
            Self::I32(n) => n.fmt(f),
            Self::F32(n) => n.fmt(f),
            Self::Bool(b) => b.fmt(f),
            Self::String(text) => f.write_str(text),
            Self::Array(array) => write!(f, "[{}; {}]", array.item_type_name(), array.len()),
            Self::U64(n) => n.fmt(f),
            Self::I64(n) => n.fmt(f),
            Self::F64(n) => n.fmt(f),
        }
    }
}

macro_rules! value_from {
    ($($source:ty => $variant:ident,)*) => {
        $(impl From<$source> for Value {
            fn from(value: $source) -> Self { Self::$variant(value.into()) }
        })*
    };
}

value_from! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    u64 => U64, i64 => I64, f64 => F64, &str => String, String => String, Array => Array,
}

macro_rules! array_from {
    ($($item:ty => $variant:ident,)*) => {
        $(impl From<Vec<$item>> for Value {
            fn from(items: Vec<$item>) -> Self { Self::Array(Array::$variant(items.into())) }
        })*
    };
}

array_from! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    u64 => U64, i64 => I64, f64 => F64, Array => Array,
}

impl From<StrArray> for Value {
    fn from(strings: StrArray) -> Self {
        Self::Array(Array::String(strings))
    }
}
