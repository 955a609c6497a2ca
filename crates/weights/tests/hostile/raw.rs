//! Writes GGUF without any check, field by field, and remembers where counts and lengths are.

use std::ops::Range;

/// A file under construction. Counts in the header are those of what was added, until they are
/// overwritten with [`Raw::set`].
#[derive(Clone)]
pub struct Raw {
    pub bytes: Vec<u8>,
    /// Where each count, length, type, dimension and offset is.
    pub fields: Vec<Range<usize>>,
}

pub const TENSOR_COUNT: Range<usize> = 8..16;
pub const KV_COUNT: Range<usize> = 16..24;

impl Raw {
    pub fn new() -> Self {
        let mut raw = Self {
            bytes: b"GGUF".to_vec(),
            fields: Vec::new(),
        };
        raw.u32(3).u64(0).u64(0);
        raw
    }

    /// Overwrites a field with the low bytes of `value`.
    pub fn set(&mut self, field: Range<usize>, value: u64) -> &mut Self {
        let len = field.len();
        self.bytes[field].copy_from_slice(&value.to_le_bytes()[..len]);
        self
    }

    fn increment(&mut self, field: Range<usize>) {
        let count = u64::from_le_bytes(self.bytes[field.clone()].try_into().unwrap());
        self.set(field, count + 1);
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.fields.push(self.bytes.len()..self.bytes.len() + 4);
        self.put(value.to_le_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.fields.push(self.bytes.len()..self.bytes.len() + 8);
        self.put(value.to_le_bytes())
    }

    pub fn put(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.bytes.extend(bytes.as_ref());
        self
    }

    pub fn string(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.u64(text.as_ref().len() as u64).put(text)
    }

    /// A key and its type; the value is to follow.
    pub fn key(&mut self, key: impl AsRef<[u8]>, type_id: u32) -> &mut Self {
        self.increment(KV_COUNT);
        self.string(key).u32(type_id)
    }

    /// An item type and a count; the items are to follow.
    pub fn array(&mut self, item_type: u32, count: u64) -> &mut Self {
        self.u32(item_type).u64(count)
    }

    /// A tensor info: name, dimensions, type and offset.
    pub fn tensor(
        &mut self,
        name: &str,
        dims: &[u64],
        (ggml_type, offset): (u32, u64),
    ) -> &mut Self {
        self.increment(TENSOR_COUNT);
        self.string(name).u32(dims.len() as u32);
        for &dim in dims {
            self.u64(dim);
        }
        self.u32(ggml_type).u64(offset)
    }

    /// Zeros up to a multiple of `alignment`.
    pub fn pad(&mut self, alignment: usize) -> &mut Self {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(alignment), 0);
        self
    }
}
