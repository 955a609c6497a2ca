//! What a model says, told apart: reasoning, text, and calls of tools.
//!
//! State machines that look at every character once. The result depends on the text alone, not on
//! how it was cut into deltas, but for where texts are cut.

mod call;
mod calls;
mod format;
mod json;
mod reasoning;
#[cfg(test)]
mod tests;

pub use call::{ToolCall, ToolSpec};
pub use calls::ToolsSpec;
pub use format::{ToolFormat, UnknownFormat};
pub use reasoning::ReasoningFormat;

use calls::Calls;
use reasoning::{Thinking, Thought};

/// What to look for in the output of a request. With neither, all is text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputSpec {
    /// How the model marks its reasoning, if it does.
    pub reasoning: Option<ReasoningFormat>,
    /// The tools it may call, if there are any.
    pub tools: Option<ToolsSpec>,
}

impl OutputSpec {
    /// The texts the output is told apart by. Some are special tokens of the vocabulary, and have
    /// to be in the text although others are left out.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> {
        let reasoning = self.reasoning.map(|format| [format.open(), format.close()]);
        let format = self.tools.as_ref().map(|tools| tools.format);
        let tools = format.map(|format| {
            let marks = format.marks();
            let lists = [
                marks.opens,
                marks.sections,
                marks.closes,
                format.inner_marks(),
            ];
            lists.into_iter().flatten().copied()
        });
        let reasoning = reasoning.into_iter().flatten();
        reasoning.chain(tools.into_iter().flatten())
    }
}

/// A piece of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputPiece {
    /// What the model thinks before it answers, without white space around it.
    Reasoning(String),
    /// What it says.
    Text(String),
    /// A tool it calls, complete.
    Call(ToolCall),
}

/// Tells one sequence's output apart as it is produced.
pub struct OutputParser {
    thinking: Option<Thinking>,
    calls: Option<Calls>,
    /// White space behind the reasoning is not part of the answer.
    skips_space: bool,
    /// Bytes fed so far.
    fed: u64,
    /// Of these, how many are reasoning.
    reasoning_bytes: u64,
}

impl OutputParser {
    /// For an output that continues a prompt with this end.
    pub fn new(spec: &OutputSpec, prompt_tail: &str) -> Self {
        Self {
            thinking: spec
                .reasoning
                .map(|format| Thinking::new(format, prompt_tail)),
            calls: spec.tools.clone().map(Calls::new),
            skips_space: false,
            fed: 0,
            reasoning_bytes: 0,
        }
    }

    /// Takes the next text. Text that may belong to a mark is held back.
    pub fn feed(&mut self, text: &str) -> Vec<OutputPiece> {
        let mut pieces = Vec::new();
        for (index, character) in text.char_indices() {
            if self.thinking.is_none() {
                self.answer(&text[index..], &mut pieces);
                break;
            }
            self.fed += character.len_utf8() as u64;
            self.think(character, &mut pieces);
        }
        pieces
    }

    /// What is left when no more text comes. Half a call is text.
    pub fn finish(&mut self) -> Vec<OutputPiece> {
        let mut pieces = Vec::new();
        if let Some(mut thinking) = self.thinking.take() {
            thinking.finish(&mut pieces);
            let held = thinking.take_held();
            self.answer(&held, &mut pieces);
        }
        if let Some(calls) = &mut self.calls {
            calls.finish(&mut pieces);
        }
        pieces
    }

    /// Whether more of the output may be reasoning.
    pub fn may_reason(&self) -> bool {
        self.thinking.is_some()
    }

    /// Bytes of the text so far that are reasoning, its marks included.
    pub fn reasoning_bytes(&self) -> u64 {
        self.reasoning_bytes
    }

    fn think(&mut self, character: char, pieces: &mut Vec<OutputPiece>) {
        let Some(thinking) = &mut self.thinking else {
            return;
        };
        let thought = thinking.push(character, pieces);
        if thinking.is_certain() {
            self.reasoning_bytes = self.fed;
        }
        match thought {
            Thought::Taken => {}
            Thought::Over => {
                self.thinking = None;
                self.skips_space = true;
            }
            Thought::None => {
                let held = thinking.take_held();
                self.thinking = None;
                self.answer(&held, pieces);
            }
        }
    }

    fn answer(&mut self, mut text: &str, pieces: &mut Vec<OutputPiece>) {
        if self.skips_space {
            text = text.trim_start();
            self.skips_space = text.is_empty();
        }
        match &mut self.calls {
            None => say(pieces, OutputPiece::Text, text),
            Some(calls) => text
                .chars()
                .for_each(|character| calls.push(character, pieces)),
        }
    }
}

/// Adds text to the last piece if it is of the same kind.
fn say(pieces: &mut Vec<OutputPiece>, kind: fn(String) -> OutputPiece, text: &str) {
    if text.is_empty() {
        return;
    }
    let new = kind(text.to_owned());
    match (pieces.last_mut(), new) {
        (Some(OutputPiece::Text(last)), OutputPiece::Text(more))
        | (Some(OutputPiece::Reasoning(last)), OutputPiece::Reasoning(more)) => {
            last.push_str(&more);
        }
        (_, new) => pieces.push(new),
    }
}
