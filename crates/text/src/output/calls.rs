//! Tells a model's calls from its words, a character at a time.
//!
//! A call is said when it is complete. What only looks like one (half a call, broken JSON, a mark
//! in a sentence) is text, as it was written. Every character is looked at once: what turns out not
//! to be a call is not searched for others.

use crate::automaton::Automaton;
use crate::trie::{NodeIdx, Trie};

use super::call::{ToolCall, ToolSpec};
use super::format::{Body, ToolFormat};
use super::json::{JsonScanner, JsonStep};
use super::{OutputPiece, say};

/// What a finished mark is, by its number in the automaton.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Open,
    Section,
    Close,
}

/// The tools a request may use, and how the model calls them.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolsSpec {
    /// How the model writes calls.
    pub format: ToolFormat,
    /// What may be called.
    pub tools: Vec<ToolSpec>,
    /// Calls that are said; the model's further ones are dropped.
    pub calls_max: usize,
}

/// Reads the answer of one sequence.
pub(super) struct Calls {
    spec: ToolsSpec,
    marks: Automaton,
    kinds: Vec<Mark>,
    at: NodeIdx,
    /// The beginning of a mark, perhaps.
    held: String,
    /// White space and section marks: dropped if a call follows, text if something else does.
    pending: String,
    before: Before,
    block: Option<Block>,
    calls: usize,
}

/// What the answer said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Text,
    Call,
}

/// What may become a call.
struct Block {
    /// All of it, for the case that it does not.
    text: String,
    /// Bytes of the opening mark in `text`.
    mark_len: usize,
    body: Reading,
}

enum Reading {
    /// Before the JSON.
    Head,
    /// In the JSON, which begins at this byte of the text.
    Json(usize, JsonScanner),
    /// Up to a closing mark.
    Marked,
}

impl Calls {
    pub fn new(spec: ToolsSpec) -> Self {
        let marks = spec.format.marks();
        let mut trie = Trie::new();
        let mut kinds = Vec::new();
        for (texts, kind) in [
            (marks.opens, Mark::Open),
            (marks.sections, Mark::Section),
            (marks.closes, Mark::Close),
        ] {
            for text in texts {
                let number = u32::try_from(kinds.len()).expect("formats have a handful of marks");
                trie.insert(text.as_bytes(), number);
                kinds.push(kind);
            }
        }
        Self {
            spec,
            marks: Automaton::new(trie),
            kinds,
            at: Automaton::START,
            held: String::new(),
            pending: String::new(),
            before: Before::Nothing,
            block: None,
            calls: 0,
        }
    }

    /// Takes the next character.
    pub fn push(&mut self, character: char, pieces: &mut Vec<OutputPiece>) {
        let Some(block) = &self.block else {
            return self.talk(character, pieces);
        };
        match block.body {
            Reading::Marked => self.gather_marked(character, pieces),
            Reading::Head | Reading::Json(..) => self.gather_json(character, pieces),
        }
    }

    /// No more text comes: what is not complete is text. White space behind a call is nothing.
    pub fn finish(&mut self, pieces: &mut Vec<OutputPiece>) {
        self.give_up(pieces);
        let held = std::mem::take(&mut self.held);
        self.pending.push_str(&held);
        let is_blank = self.pending.trim().is_empty();
        if !(is_blank && self.calls > 0) {
            self.flush(pieces);
        }
    }

    /// A character outside of calls.
    fn talk(&mut self, character: char, pieces: &mut Vec<OutputPiece>) {
        let is_quiet = self.held.trim().is_empty() && self.before != Before::Text;
        if is_quiet && self.spec.format.marks().bare.contains(&character) {
            let space = std::mem::take(&mut self.held);
            self.pending.push_str(&space);
            self.open_block("");
            return self.gather_json(character, pieces);
        }
        self.at = self.marks.step_char(self.at, character);
        self.held.push(character);
        match self.marks.completed(self.at) {
            Some((len, number)) => {
                let mark = self.held.split_off(self.held.len() - len);
                self.at = Automaton::START;
                self.release(pieces);
                self.mark(&mark, self.kinds[number], pieces);
            }
            None => {
                // A mark begins with the first byte of a character, so this cut is between two.
                let held = self.marks.held_len(self.at);
                let mark = self.held.split_off(self.held.len() - held);
                self.release(pieces);
                self.held = mark;
            }
        }
    }

    fn mark(&mut self, mark: &str, kind: Mark, pieces: &mut Vec<OutputPiece>) {
        match kind {
            Mark::Open => self.open_block(mark),
            Mark::Section => self.pending.push_str(mark),
            Mark::Close if self.before == Before::Call => {}
            Mark::Close => {
                self.held.push_str(mark);
                self.release(pieces);
            }
        }
    }

    /// What is held is text, unless it is white space, of which that is not known yet.
    fn release(&mut self, pieces: &mut Vec<OutputPiece>) {
        let held = std::mem::take(&mut self.held);
        let end = held.trim_end().len();
        if end > 0 {
            self.pending.push_str(&held[..end]);
            self.flush(pieces);
            self.before = Before::Text;
        }
        self.pending.push_str(&held[end..]);
    }

    fn flush(&mut self, pieces: &mut Vec<OutputPiece>) {
        let text = std::mem::take(&mut self.pending);
        say(pieces, OutputPiece::Text, &text);
    }

    fn open_block(&mut self, mark: &str) {
        self.block = Some(Block {
            text: mark.to_owned(),
            mark_len: mark.len(),
            body: match self.spec.format.body() {
                Body::Json => Reading::Head,
                Body::Marked => Reading::Marked,
            },
        });
    }

    /// What looked like a call is none.
    fn give_up(&mut self, pieces: &mut Vec<OutputPiece>) {
        if let Some(block) = self.block.take() {
            self.pending.push_str(&block.text);
            self.flush(pieces);
            self.before = Before::Text;
        }
        self.at = Automaton::START;
    }

    fn gather_json(&mut self, character: char, pieces: &mut Vec<OutputPiece>) {
        let format = self.spec.format;
        let Some(block) = &mut self.block else {
            return;
        };
        let step = match &mut block.body {
            Reading::Json(_, scanner) => scan(scanner, character),
            _ => {
                let head = &block.text[block.mark_len..];
                if format.json_begins(head, character) {
                    let mut scanner = JsonScanner::new();
                    let step = scan(&mut scanner, character);
                    block.body = Reading::Json(block.text.len(), scanner);
                    step
                } else if format.head_takes(head, character) {
                    JsonStep::More
                } else {
                    JsonStep::Broken
                }
            }
        };
        match step {
            JsonStep::More => block.text.push(character),
            JsonStep::Done => {
                block.text.push(character);
                self.close_json(pieces);
            }
            JsonStep::Broken => {
                self.give_up(pieces);
                self.talk(character, pieces);
            }
        }
    }

    fn close_json(&mut self, pieces: &mut Vec<OutputPiece>) {
        let calls = self.block.as_ref().and_then(|block| {
            let Reading::Json(start, _) = block.body else {
                return None;
            };
            let (head, json) = block.text[block.mark_len..].split_at(start - block.mark_len);
            let calls = self.spec.format.json_calls(head, json)?;
            // Without a mark, an object that has a name may be anything.
            let is_known = |call: &ToolCall| self.spec.tools.iter().any(|t| t.name == call.name);
            (block.mark_len > 0 || calls.iter().all(is_known)).then_some(calls)
        });
        self.close(calls, pieces);
    }

    /// A character of a body that ends with a mark.
    fn gather_marked(&mut self, character: char, pieces: &mut Vec<OutputPiece>) {
        self.at = self.marks.step_char(self.at, character);
        let Some(block) = &mut self.block else {
            return;
        };
        block.text.push(character);
        let Some((len, number)) = self.marks.completed(self.at) else {
            return;
        };
        self.at = Automaton::START;
        match self.kinds[number] {
            Mark::Close => {
                let body = &block.text[block.mark_len..block.text.len() - len];
                let call = self.spec.format.marked_call(body, &self.spec.tools);
                self.close(call.map(|call| vec![call]), pieces);
            }
            Mark::Open | Mark::Section => {
                // The call before was never closed.
                let mark = block.text.split_off(block.text.len() - len);
                self.give_up(pieces);
                self.mark(&mark, self.kinds[number], pieces);
            }
        }
    }

    fn close(&mut self, calls: Option<Vec<ToolCall>>, pieces: &mut Vec<OutputPiece>) {
        let Some(calls) = calls else {
            return self.give_up(pieces);
        };
        self.block = None;
        self.at = Automaton::START;
        self.pending.clear();
        self.before = Before::Call;
        let room = self.spec.calls_max.saturating_sub(self.calls);
        self.calls += calls.len();
        pieces.extend(calls.into_iter().take(room).map(OutputPiece::Call));
    }
}

/// Takes the bytes of a character. Only its last can be the last of a value.
fn scan(scanner: &mut JsonScanner, character: char) -> JsonStep {
    let mut bytes = [0; 4];
    for byte in character.encode_utf8(&mut bytes).bytes() {
        match scanner.push(byte) {
            JsonStep::More => {}
            other => return other,
        }
    }
    JsonStep::More
}
