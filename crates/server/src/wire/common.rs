//! What chat and plain completions share on the wire.

use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::constraint::{Choices, JsonText, ResponseFormat, StructuredOutputs};
use super::extras::ExtraFields;
use super::read::{List, ReadError, Reader, WireValue, plain_values, wire_object};

/// Items a list of scalars may have before it is refused unread.
pub(crate) const SCALARS_MAX: usize = 4096;

wire_object! {
    /// Fields both completion endpoints take, with the same meaning.
    pub(crate) struct GenerationFields {
        ..extras: ExtraFields,
        model: String,
        max_tokens: Integer,
        temperature: f32,
        top_p: f32,
        top_k: Integer,
        min_p: f32,
        repetition_penalty: f32,
        presence_penalty: f32,
        frequency_penalty: f32,
        seed: Integer,
        stop: OneOrMany,
        stop_token_ids: List<Integer, SCALARS_MAX>,
        logit_bias: LogitBias,
        n: Integer,
        min_tokens: Integer,
        ignore_eos: bool,
        skip_special_tokens: bool,
        stream: bool,
        stream_options: StreamOptions,
        cache_salt: String,
        priority: Integer,
        user: String,
        response_format: ResponseFormat,
        structured_outputs: StructuredOutputs,
        guided_json: JsonText,
        guided_regex: String,
        guided_choice: Choices,
        guided_grammar: String,
    }
}

wire_object! {
    /// How a stream is framed.
    pub(crate) struct StreamOptions {
        include_usage: bool,
        continuous_usage_stats: bool,
    }
}

/// A whole number, however it is spelled: some clients send `16.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Integer, E> {
                i64::try_from(value).map(Integer).map_err(|_| {
                    E::custom(format_args!(
                        "{value} is larger than any 64-bit signed integer"
                    ))
                })
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Integer, E> {
                /// Up to here every whole number has its own f64.
                const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
                if value.fract() != 0.0 || value.abs() > EXACT_MAX {
                    return Err(E::custom(format_args!("{value} is not an integer")));
                }
                #[allow(clippy::cast_possible_truncation)] // whole and within 2^53
                Ok(Integer(value as i64))
            }
        }

        deserializer.deserialize_any(Whole)
    }
}

/// One string or a list of them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct OneOrMany(pub(crate) Vec<String>);

impl WireValue for OneOrMany {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        match raw.get().as_bytes().first() {
            Some(b'"') => Ok(Self(vec![reader.plain(raw)?])),
            Some(b'[') => List::<String, SCALARS_MAX>::read(raw, reader).map(|list| Self(list.0)),
            _ => Err(reader.error("expected a string or a list of strings")),
        }
    }
}

/// A map from token id, as a string, to what is added to its logit.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct LogitBias(pub(crate) Vec<(String, f32)>);

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = LogitBias;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token ids and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() == SCALARS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "more than {SCALARS_MAX} entries"
                        )));
                    }
                    entries.push(entry);
                }
                Ok(LogitBias(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Any JSON object of modest size, for a template's arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SmallObject(pub(crate) Map<String, Value>);

impl SmallObject {
    /// A tree can be thirty times as large as its text, so the text is kept short.
    pub(crate) const BYTES_MAX: usize = 64 << 10;
}

impl WireValue for SmallObject {
    fn read(raw: &RawValue, reader: &mut Reader) -> Result<Self, ReadError> {
        let given = raw.get().len();
        if given > Self::BYTES_MAX {
            let limit = Self::BYTES_MAX;
            return Err(reader.error(format_args!(
                "{given} bytes of JSON, at most {limit} are taken"
            )));
        }
        reader.plain(raw).map(Self)
    }
}

/// Token ids, read without a tree: they can be the whole body.
pub(crate) struct TokenList(pub(crate) Vec<u32>);

impl<'de> Deserialize<'de> for TokenList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;

        impl<'de> Visitor<'de> for Ids {
            type Value = TokenList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of token ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TokenList, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(TokenList(ids))
            }
        }

        deserializer.deserialize_seq(Ids)
    }
}

plain_values!(Integer, LogitBias);

/// Tokens a response took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) total_tokens: u64,
    /// Left out while it is not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_tokens_details: Option<PromptTokensDetails>,
    /// There when the answer was searched for reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completion_tokens_details: Option<CompletionTokensDetails>,
}

/// What part of the prompt cost nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PromptTokensDetails {
    pub(crate) cached_tokens: u64,
}

/// What part of the output was reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct CompletionTokensDetails {
    pub(crate) reasoning_tokens: u64,
}

/// The stop condition of the caller's that matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Text(String),
    Token(u32),
}

/// A list of pairs written as a JSON object, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pairs(pub(crate) Vec<(String, f32)>);

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
