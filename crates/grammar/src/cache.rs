//! Compiled grammars, kept for requests that ask for the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compile::{Grammar, source_bytes};
use crate::constraint::Constraint;

/// Grammars by their constraint, within a bound of bytes. The least recently used go first.
#[derive(Debug)]
pub struct Cache {
    entries: BTreeMap<Constraint, Entry>,
    bytes: usize,
    bytes_max: usize,
    /// Counts uses; the entry with the smallest number was used the longest ago.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    grammar: Arc<Grammar>,
    bytes: usize,
    last_use: u64,
}

impl Cache {
    /// An empty cache of at most `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            uses: 0,
        }
    }

    /// The grammar of this constraint, if it is kept.
    pub fn get(&mut self, constraint: &Constraint) -> Option<Arc<Grammar>> {
        self.uses += 1;
        let entry = self.entries.get_mut(constraint)?;
        entry.last_use = self.uses;
        Some(Arc::clone(&entry.grammar))
    }

    /// Keeps a grammar, and drops others for it. One that is larger than the cache is not kept.
    pub fn insert(&mut self, constraint: Constraint, grammar: Arc<Grammar>) {
        let bytes = grammar.bytes() + source_bytes(&constraint);
        if bytes > self.bytes_max || self.entries.contains_key(&constraint) {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            self.evict();
        }
        self.uses += 1;
        self.bytes += bytes;
        let entry = Entry {
            grammar,
            bytes,
            last_use: self.uses,
        };
        self.entries.insert(constraint, entry);
    }

    /// What is kept, as far as it is counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn evict(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use);
        let key = oldest.map(|(key, _)| key.clone());
        let entry = key.and_then(|key| self.entries.remove(&key));
        let entry = entry.expect("a cache that is over its bound is not empty");
        self.bytes -= entry.bytes;
    }
}
