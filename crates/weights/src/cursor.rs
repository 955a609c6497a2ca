//! Reading little-endian fields from bytes that may lie about their lengths.

use std::fmt;
use std::path::Path;

use crate::error::WeightsError;
use crate::limits;

/// A position in a file's bytes. Every read is checked against what is left; `what` names the
/// field for the error and is formatted only then.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    pub(crate) path: &'a Path,
}

/// What a count may be: at most `max`, and at most what the bytes left can hold.
pub(crate) struct CountLimit {
    pub(crate) max: u64,
    pub(crate) item_bytes_min: u64,
}

macro_rules! little_endian {
    ($($name:ident -> $int:ty;)*) => {
        $(pub(crate) fn $name(&mut self, what: fmt::Arguments) -> Result<$int, WeightsError> {
            Ok(<$int>::from_le_bytes(self.array(what)?))
        })*
    };
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], path: &'a Path) -> Self {
        Self {
            bytes,
            position: 0,
            path,
        }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.position as u64
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or(&[])
    }

    pub(crate) fn take(
        &mut self,
        len: u64,
        what: fmt::Arguments,
    ) -> Result<&'a [u8], WeightsError> {
        let rest = self.rest();
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let Some(taken) = taken else {
            return Err(self.truncated(len, what));
        };
        self.position += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: fmt::Arguments) -> Result<[u8; N], WeightsError> {
        let Some(&bytes) = self.rest().first_chunk::<N>() else {
            return Err(self.truncated(N as u64, what));
        };
        self.position += N;
        Ok(bytes)
    }

    little_endian! {
        u8 -> u8;
        i8 -> i8;
        u16 -> u16;
        i16 -> i16;
        u32 -> u32;
        i32 -> i32;
        f32 -> f32;
        u64 -> u64;
        i64 -> i64;
        f64 -> f64;
    }

    /// A count of items that must follow. After this, allocating for that many items is no more
    /// than a fixed multiple of the file's own size.
    pub(crate) fn count(
        &mut self,
        limit: &CountLimit,
        what: fmt::Arguments,
    ) -> Result<u64, WeightsError> {
        let given = self.u64(what)?;
        if given > limit.max {
            return Err(WeightsError::TooMany {
                path: self.path.to_path_buf(),
                what: what.to_string(),
                limit: limit.max,
                given,
            });
        }
        self.require(given.saturating_mul(limit.item_bytes_min), what)?;
        Ok(given)
    }

    /// Checks that so many bytes are left.
    pub(crate) fn require(&self, needed: u64, what: fmt::Arguments) -> Result<(), WeightsError> {
        if needed > self.rest().len() as u64 {
            return Err(self.truncated(needed, what));
        }
        Ok(())
    }

    /// The bytes of a length-prefixed string, not yet known to be UTF-8.
    fn string_bytes(&mut self, max: u64, what: fmt::Arguments) -> Result<&'a [u8], WeightsError> {
        let given = self.u64(what)?;
        if given > max {
            return Err(WeightsError::TooLong {
                path: self.path.to_path_buf(),
                what: what.to_string(),
                limit: max,
                given,
            });
        }
        self.take(given, what)
    }

    pub(crate) fn string(
        &mut self,
        max: u64,
        what: fmt::Arguments,
    ) -> Result<&'a str, WeightsError> {
        let bytes = self.string_bytes(max, what)?;
        std::str::from_utf8(bytes).map_err(|err| WeightsError::NotUtf8 {
            path: self.path.to_path_buf(),
            what: what.to_string(),
            at: err.valid_up_to(),
        })
    }

    /// How many bytes of text the next `count` strings hold; reads nothing.
    pub(crate) fn text_bytes(
        &self,
        count: u64,
        what: fmt::Arguments,
    ) -> Result<usize, WeightsError> {
        let mut ahead = Cursor {
            bytes: self.bytes,
            position: self.position,
            path: self.path,
        };
        let mut total = 0;
        for _ in 0..count {
            // No overflow: the texts are disjoint ranges of one slice.
            total += ahead.string_bytes(limits::STRING_BYTES_MAX, what)?.len();
        }
        Ok(total)
    }

    fn truncated(&self, needed: u64, what: fmt::Arguments) -> WeightsError {
        WeightsError::Truncated {
            path: self.path.to_path_buf(),
            what: what.to_string(),
            needed,
            left: self.rest().len() as u64,
        }
    }
}
