//! A file's key-value pairs, asked for by name and type.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::WeightsError;
use crate::value::{Array, StrArray, Value};

/// The key-value pairs of a model. Getters check types: an `opt_` getter gives `None` for a key
/// that is absent, a `require_` getter an error; a value of another type is always an error.
///
/// Converters disagree about integer widths, so any integer that fits is accepted for a `u32`.
#[derive(Debug)]
pub struct Metadata {
    path: Arc<Path>,
    entries: Vec<(Box<str>, Value)>,
    /// Indices into `entries`, ordered by key.
    by_key: Vec<usize>,
}

/// A number for the whole model, or one for each layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum U32OrArray {
    /// The same for all layers.
    One(u32),
    /// Indexed by layer.
    PerLayer(Vec<u32>),
}

impl U32OrArray {
    /// The number for a layer, or `None` when the array is shorter than that.
    pub fn get(&self, layer_idx: usize) -> Option<u32> {
        match self {
            Self::One(value) => Some(*value),
            Self::PerLayer(values) => values.get(layer_idx).copied(),
        }
    }
}

impl Metadata {
    /// Refuses a key that occurs twice: readers would disagree on which one counts.
    pub(crate) fn new(
        path: Arc<Path>,
        entries: Vec<(Box<str>, Value)>,
    ) -> Result<Self, WeightsError> {
        let mut by_key: Vec<usize> = (0..entries.len()).collect();
        by_key.sort_unstable_by_key(|&idx| &*entries[idx].0);
        for pair in by_key.windows(2) {
            if entries[pair[0]].0 == entries[pair[1]].0 {
                return Err(WeightsError::Duplicate {
                    path: path.to_path_buf(),
                    what: "key",
                    name: entries[pair[0]].0.to_string(),
                });
            }
        }
        Ok(Self {
            path,
            entries,
            by_key,
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = self
            .by_key
            .binary_search_by_key(&key, |&idx| &*self.entries[idx].0)
            .ok()?;
        Some(&self.entries[self.by_key[found]].1)
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All pairs in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + '_ {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// An integer of any width that fits `u32`.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, WeightsError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let Some(given) = value.as_integer() else {
            return Err(self.wrong_type(key, "u32", value));
        };
        self.fit_u32(key, given).map(Some)
    }

    /// A floating-point number; an `f64` is rounded.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some(*value)),
            #[allow(clippy::cast_possible_truncation)] // rounding is what is promised
            Some(Value::F64(value)) => Ok(Some(*value as f32)),
            Some(other) => Err(self.wrong_type(key, "f32", other)),
        }
    }

    /// A truth value.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_type(key, "bool", other)),
        }
    }

    /// A string.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong_type(key, "string", other)),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&StrArray>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(strings))) => Ok(Some(strings)),
            Some(other) => Err(self.wrong_type(key, "array of string", other)),
        }
    }

    /// An array of `i32`.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::I32(items))) => Ok(Some(items)),
            Some(other) => Err(self.wrong_type(key, "array of i32", other)),
        }
    }

    /// An array of `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, WeightsError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(items))) => Ok(Some(items)),
            Some(other) => Err(self.wrong_type(key, "array of f32", other)),
        }
    }

    /// A number, or an array of one number a layer: some models give the head count so.
    pub fn u32_or_array(&self, key: &str) -> Result<Option<U32OrArray>, WeightsError> {
        let Some(Value::Array(array)) = self.get(key) else {
            return Ok(self.opt_u32(key)?.map(U32OrArray::One));
        };
        let Some(given) = array.as_integers() else {
            return Err(WeightsError::WrongType {
                path: self.path(),
                key: key.to_owned(),
                expected: "u32 or array of u32",
                found: format!("array of {}", array.item_type_name()),
            });
        };
        let values: Result<_, _> = given.into_iter().map(|n| self.fit_u32(key, n)).collect();
        Ok(Some(U32OrArray::PerLayer(values?)))
    }

    /// As [`Self::opt_u32`], and an error when the key is absent.
    pub fn require_u32(&self, key: &str) -> Result<u32, WeightsError> {
        self.opt_u32(key)?.ok_or_else(|| self.missing(key, "u32"))
    }

    /// As [`Self::opt_f32`], and an error when the key is absent.
    pub fn require_f32(&self, key: &str) -> Result<f32, WeightsError> {
        self.opt_f32(key)?.ok_or_else(|| self.missing(key, "f32"))
    }

    /// As [`Self::opt_str`], and an error when the key is absent.
    pub fn require_str(&self, key: &str) -> Result<&str, WeightsError> {
        self.opt_str(key)?
            .ok_or_else(|| self.missing(key, "string"))
    }

    /// As [`Self::strings`], and an error when the key is absent.
    pub fn require_strings(&self, key: &str) -> Result<&StrArray, WeightsError> {
        self.strings(key)?
            .ok_or_else(|| self.missing(key, "array of string"))
    }

    fn fit_u32(&self, key: &str, given: i128) -> Result<u32, WeightsError> {
        u32::try_from(given).map_err(|_| WeightsError::OutOfRange {
            path: self.path(),
            key: key.to_owned(),
            expected: "u32",
            given,
        })
    }

    fn missing(&self, key: &str, expected: &'static str) -> WeightsError {
        WeightsError::MissingKey {
            path: self.path(),
            key: key.to_owned(),
            expected,
        }
    }

    fn wrong_type(&self, key: &str, expected: &'static str, found: &Value) -> WeightsError {
        WeightsError::WrongType {
            path: self.path(),
            key: key.to_owned(),
            expected,
            found: found.type_name(),
        }
    }

    fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }
}
