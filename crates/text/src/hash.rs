//! A quick hash for maps whose keys come from the model file.
//!
//! There is nobody to defend against: whoever writes the model file decides everything anyway. A
//! map's order is never observed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use kvist_base::mix64;

/// A map from parts of the vocabulary.
pub(crate) type VocabMap<K, V> = HashMap<K, V, BuildHasherDefault<VocabHasher>>;

/// Mixes eight bytes at a time.
#[derive(Default)]
pub(crate) struct VocabHasher(u64);

impl Hasher for VocabHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for &word in words {
            self.write_u64(u64::from_le_bytes(word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length tells "a" from "a\0".
        self.write_u64(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix64(self.0.rotate_left(5) ^ word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
