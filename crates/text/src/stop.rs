//! Where a text must end.

use std::collections::VecDeque;

use crate::error::TextError;
use crate::trie::{NodeIdx, Trie};

/// Bytes that all stop strings of a request may have together.
pub const STOPS_BYTES_MAX: usize = 64 * 1024;

/// What a piece of text means for the stop strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopVerdict {
    /// Text that is certain not to belong to a stop string.
    pub emit: String,
    /// The stop string that ended the text, by its position in the list. Nothing is emitted after.
    pub matched: Option<usize>,
}

/// Watches one sequence's text for stop strings, across any boundaries it arrives in.
///
/// The text ends where the *first stop string to be completed* begins; if several are completed by
/// the same byte, the longest of them counts. The verdict depends on the text alone, not on how it
/// was cut into deltas. Text that may be the beginning of a stop string is held back.
///
/// An Aho-Corasick automaton (Aho and Corasick 1975): the time is linear in the text.
pub struct StopMatcher {
    trie: Trie,
    /// By node: the node of the longest proper suffix that is also in the trie.
    suffix: Vec<NodeIdx>,
    /// By node: length of its string.
    depth: Vec<usize>,
    /// By node: the longest stop string its string ends with, as (length, position in the list).
    completed: Vec<Option<(usize, usize)>>,
    at: NodeIdx,
    /// The last `depth[at]` bytes of the text: the beginning of a stop string.
    held: String,
    matched: Option<usize>,
}

impl StopMatcher {
    /// For one sequence. An empty list is fine: everything is emitted at once.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`], or [`TextError::StopsTooLong`] beyond 64 KiB in all.
    #[allow(clippy::needless_pass_by_value)] // the list is the matcher's: callers have no use for it
    pub fn new(stops: Vec<String>) -> Result<Self, TextError> {
        let given = stops.iter().map(String::len).sum();
        if given > STOPS_BYTES_MAX {
            return Err(TextError::StopsTooLong {
                limit: STOPS_BYTES_MAX,
                given,
            });
        }
        let mut trie = Trie::new();
        for (index, stop) in stops.iter().enumerate() {
            if stop.is_empty() {
                return Err(TextError::EmptyStop { index });
            }
            let number = u32::try_from(index).expect("fewer stop strings than bytes in them");
            trie.insert(stop.as_bytes(), number);
        }
        Ok(Self::automaton(trie))
    }

    /// Links each node to its longest suffix, in breadth-first order so that the suffix, being
    /// shorter, is complete when it is needed.
    fn automaton(trie: Trie) -> Self {
        let len = trie.len();
        let mut this = Self {
            trie,
            suffix: vec![Trie::ROOT; len],
            depth: vec![0; len],
            completed: vec![None; len],
            at: Trie::ROOT,
            held: String::new(),
            matched: None,
        };
        let mut queue = VecDeque::from([Trie::ROOT]);
        while let Some(parent) = queue.pop_front() {
            for edge in 0..this.trie.children(parent).len() {
                let (byte, node) = this.trie.children(parent)[edge];
                let suffix = match parent {
                    Trie::ROOT => Trie::ROOT,
                    _ => this.step(this.suffix[parent as usize], byte),
                };
                let depth = this.depth[parent as usize] + 1;
                let own = this.trie.value(node).map(|index| (depth, index as usize));
                this.depth[node as usize] = depth;
                this.suffix[node as usize] = suffix;
                this.completed[node as usize] = own.or(this.completed[suffix as usize]);
                queue.push_back(node);
            }
        }
        this
    }

    /// The node of the longest suffix of `node`'s string plus `byte` that is in the trie.
    fn step(&self, mut node: NodeIdx, byte: u8) -> NodeIdx {
        loop {
            if let Some(next) = self.trie.child(node, byte) {
                return next;
            }
            if node == Trie::ROOT {
                return Trie::ROOT;
            }
            node = self.suffix[node as usize];
        }
    }

    /// Takes the next piece of text. After a match nothing more is emitted.
    pub fn feed(&mut self, delta: &str) -> StopVerdict {
        if self.matched.is_some() {
            return StopVerdict {
                emit: String::new(),
                matched: self.matched,
            };
        }
        let mut text = std::mem::take(&mut self.held);
        let seen = text.len();
        text.push_str(delta);
        for (offset, byte) in delta.bytes().enumerate() {
            self.at = self.step(self.at, byte);
            if let Some((len, index)) = self.completed[self.at as usize] {
                self.matched = Some(index);
                text.truncate(seen + offset + 1 - len);
                return StopVerdict {
                    emit: text,
                    matched: self.matched,
                };
            }
        }
        // A stop string begins with the first byte of a character, so this cut is between two.
        self.held = text.split_off(text.len() - self.depth[self.at as usize]);
        StopVerdict {
            emit: text,
            matched: None,
        }
    }

    /// The text held back, when no more comes. Empty after a match.
    pub fn finish(&mut self) -> String {
        self.at = Trie::ROOT;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests;
