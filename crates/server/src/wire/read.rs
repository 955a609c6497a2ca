//! Reads JSON objects field by field.
//!
//! A body is first split into its top-level fields without building a tree; each field is then read
//! straight into the type that wants it. That buys three things: an error names the field at fault,
//! fields nobody read are known by name, and a hostile body costs little more than its own size.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use super::depth::{DEPTH_MAX, TooDeep, check_depth};

/// Fields an object may have; far above any client, far below what fills memory.
pub(crate) const FIELDS_MAX: usize = 256;
/// Unread nested fields that are remembered by name.
const NESTED_UNREAD_MAX: usize = 16;
/// Largest unread value that is kept, in bytes of JSON. Longer ones are known by name only.
const UNREAD_VALUE_BYTES_MAX: usize = 256;

/// Why a body is not a request.
#[derive(Debug, Error, PartialEq)]
pub(crate) enum ReadError {
    /// The body is not JSON, or not an object.
    #[error("the body is not a JSON object: {detail} (line {line}, column {column})")]
    Syntax {
        detail: String,
        line: usize,
        column: usize,
    },
    /// A field does not have its type.
    #[error("{path}: {detail}")]
    Field { path: String, detail: String },
}

impl ReadError {
    fn syntax(error: &serde_json::Error) -> Self {
        Self::Syntax {
            detail: without_position(error),
            line: error.line(),
            column: error.column(),
        }
    }
}

/// The message alone: positions inside one field would mislead, as they count from its start.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A request body as read: the fields we know, and what else was there.
#[derive(Debug)]
pub(crate) struct Received<T> {
    /// The fields we know.
    pub(crate) body: T,
    /// Top-level fields nobody read.
    pub(crate) unread: Vec<Unread>,
    /// Paths of nested fields nobody read, the first few.
    pub(crate) unread_nested: Vec<String>,
}

/// A field nobody read.
#[derive(Debug)]
pub(crate) struct Unread {
    /// Its name.
    pub(crate) name: String,
    /// Its value, unless it is long.
    pub(crate) value: Option<Value>,
}

/// Reads a request body.
pub(crate) fn read_request<T: WireObject>(body: &[u8]) -> Result<Received<T>, ReadError> {
    check_depth(body).map_err(|TooDeep { line, column }| ReadError::Syntax {
        detail: format!("more than {DEPTH_MAX} objects and lists inside each other"),
        line,
        column,
    })?;
    let mut object: Object<'_> =
        serde_json::from_slice(body).map_err(|error| ReadError::syntax(&error))?;
    let mut reader = Reader::default();
    let body = T::from_object(&mut object, &mut reader)?;
    let unread = object.fields.into_iter().map(|(name, raw)| Unread {
        name,
        value: (raw.get().len() <= UNREAD_VALUE_BYTES_MAX)
            .then(|| serde_json::from_str(raw.get()).ok())
            .flatten(),
    });
    Ok(Received {
        body,
        unread: unread.collect(),
        unread_nested: reader.unread,
    })
}

/// Where reading is, for errors, and what it passed over.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    path: String,
    unread: Vec<String>,
}

/// One step into a value.
#[derive(Clone, Copy)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
}

impl Reader {
    /// Runs `read` one step further in.
    fn within<T>(
        &mut self,
        segment: Segment<'_>,
        read: impl FnOnce(&mut Self) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let outer_len = self.path.len();
        self.path = self.child(segment);
        let result = read(self);
        self.path.truncate(outer_len);
        result
    }

    fn child(&self, segment: Segment<'_>) -> String {
        match segment {
            Segment::Field(name) if self.path.is_empty() => name.to_owned(),
            Segment::Field(name) => format!("{}.{name}", self.path),
            Segment::Index(index) => format!("{}[{index}]", self.path),
        }
    }

    /// An error at the current path.
    pub(crate) fn error(&self, detail: impl fmt::Display) -> ReadError {
        ReadError::Field {
            path: self.path.clone(),
            detail: detail.to_string(),
        }
    }

    /// Reads `raw` by its type's own `Deserialize`.
    pub(crate) fn plain<'a, T: Deserialize<'a>>(&self, raw: &'a RawValue) -> Result<T, ReadError> {
        serde_json::from_str(raw.get()).map_err(|error| self.error(without_position(&error)))
    }
}

/// A type a field can have.
pub(crate) trait WireValue: Sized {
    /// Reads the value; errors carry the reader's path.
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError>;
}

/// A type read from an object's fields, all optional.
pub(crate) trait WireObject: Sized {
    /// Takes its fields out of the object.
    fn from_object(object: &mut Object<'_>, reader: &mut Reader) -> Result<Self, ReadError>;
}

impl<T: WireObject> WireValue for T {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        let mut object: Object<'_> = reader.plain(raw)?;
        let value = T::from_object(&mut object, reader)?;
        object.close(reader);
        Ok(value)
    }
}

/// Fields nobody has read yet. Of a name given twice the last value counts, as in most JSON
/// readers.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    fields: BTreeMap<String, &'a RawValue>,
}

impl Object<'_> {
    /// The field `name`; `None` when it is absent or null.
    pub(crate) fn take<T: WireValue>(
        &mut self,
        reader: &mut Reader,
        name: &str,
    ) -> Result<Option<T>, ReadError> {
        match self.fields.remove(name) {
            Some(raw) if raw.get() != "null" => reader
                .within(Segment::Field(name), |reader| T::read(raw, reader))
                .map(Some),
            _ => Ok(None),
        }
    }

    /// Remembers the names of nested fields nobody read.
    fn close(self, reader: &mut Reader) {
        for name in self.fields.keys() {
            if reader.unread.len() == NESTED_UNREAD_MAX {
                break;
            }
            reader.unread.push(reader.child(Segment::Field(name)));
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = BTreeMap<String, &'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    fields.insert(name, value);
                    if fields.len() > FIELDS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "more than {FIELDS_MAX} fields"
                        )));
                    }
                }
                Ok(fields)
            }
        }

        deserializer
            .deserialize_map(Fields)
            .map(|fields| Self { fields })
    }
}

/// A list of at most `MAX` items. `MAX` only keeps a small body from becoming a large list; the
/// limits a client should know are checked later, with better words.
#[derive(Debug, Default)]
pub(crate) struct List<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T: WireValue, const MAX: usize> WireValue for List<T, MAX> {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        let Raws::<'_, MAX>(raws) = reader.plain(raw)?;
        let mut items = Vec::with_capacity(raws.len());
        for (index, raw) in raws.into_iter().enumerate() {
            let item = reader.within(Segment::Index(index), |reader| T::read(raw, reader))?;
            items.push(item);
        }
        Ok(Self(items))
    }
}

/// The items of a list, unread.
struct Raws<'a, const MAX: usize>(Vec<&'a RawValue>);

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for Raws<'a, MAX> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<const MAX: usize>;

        impl<'de, const MAX: usize> Visitor<'de> for Items<MAX> {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == MAX {
                        return Err(A::Error::custom(format_args!("more than {MAX} items")));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }

        deserializer.deserialize_seq(Items::<MAX>).map(Self)
    }
}

/// Types whose `Deserialize` says all there is to say.
macro_rules! plain_values {
    ($($ty:ty),*) => {$(
        impl WireValue for $ty {
            fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
                reader.plain(raw)
            }
        }
    )*};
}
pub(crate) use plain_values;

plain_values!(String, bool, f32);

/// Declares a wire type: a struct of optional fields, read by name. A leading `..name: Type` is a
/// group of fields that live in the same JSON object.
macro_rules! wire_object {
    (
        $(#[$doc:meta])*
        pub(crate) struct $Name:ident {
            $(..$group:ident: $Group:ty,)?
            $($(#[$field_doc:meta])* $field:ident: $Field:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(crate) struct $Name {
            $(pub(crate) $group: $Group,)?
            $($(#[$field_doc])* pub(crate) $field: Option<$Field>,)*
        }

        impl $crate::wire::read::WireObject for $Name {
            fn from_object(
                object: &mut $crate::wire::read::Object<'_>,
                reader: &mut $crate::wire::read::Reader,
            ) -> Result<Self, $crate::wire::read::ReadError> {
                Ok(Self {
                    $($group: $crate::wire::read::WireObject::from_object(object, reader)?,)?
                    $($field: object.take(reader, stringify!($field))?,)*
                })
            }
        }
    };
}
pub(crate) use wire_object;
