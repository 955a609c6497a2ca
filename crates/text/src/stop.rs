//! Where a text must end.

use crate::automaton::Automaton;
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
/// was cut into deltas. Text that may be the beginning of a stop string is held back. The time is
/// linear in the text.
pub struct StopMatcher {
    automaton: Automaton,
    at: NodeIdx,
    /// The last bytes of the text, if they are the beginning of a stop string.
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
        Ok(Self {
            automaton: Automaton::new(trie),
            at: Automaton::START,
            held: String::new(),
            matched: None,
        })
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
            self.at = self.automaton.step(self.at, byte);
            if let Some((len, index)) = self.automaton.completed(self.at) {
                self.matched = Some(index);
                text.truncate(seen + offset + 1 - len);
                return StopVerdict {
                    emit: text,
                    matched: self.matched,
                };
            }
        }
        // A stop string begins with the first byte of a character, so this cut is between two.
        self.held = text.split_off(text.len() - self.automaton.held_len(self.at));
        StopVerdict {
            emit: text,
            matched: None,
        }
    }

    /// The text held back, when no more comes. Empty after a match.
    pub fn finish(&mut self) -> String {
        self.at = Automaton::START;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests;
