//! One alternative's output, told apart: what every dialect words in its own way.

use std::collections::VecDeque;

use kvist_base::{FinishReason, mix64};
use kvist_engine::{Delta, Finished, OutputParser, OutputPiece, RequestHandle, ToolFormat};

use crate::generate::Output;
use crate::state::Ticket;
use crate::validate::{self, Reasoning};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Reasoning(String),
    Text(String),
    Call(Call),
}

/// A call of a tool, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Which of the answer's calls, from 0.
    pub(crate) index: usize,
    pub(crate) id: String,
    pub(crate) name: String,
    /// A JSON object.
    pub(crate) arguments: String,
}

/// How the output of a call is read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    spec: kvist_engine::OutputSpec,
    reasoning: Reasoning,
    ticket: Ticket,
}

impl Reading {
    pub(crate) fn new(call: &validate::Call, ticket: Ticket) -> Self {
        Self {
            spec: call.output.clone(),
            reasoning: call.reasoning,
            ticket,
        }
    }

    /// Whether reasoning is looked for.
    pub(crate) fn finds_reasoning(&self) -> bool {
        self.spec.reasoning.is_some()
    }

    /// For the alternative with this number, which this handle brings.
    pub(crate) fn turn(&self, number: usize, handle: &RequestHandle) -> Turn {
        Turn {
            parser: OutputParser::new(&self.spec, handle.prompt_tail()),
            reasoning: self.reasoning,
            reasoning_tokens: 0,
            text_len: 0,
            undecided: VecDeque::new(),
            calls: 0,
            ids: CallIds {
                ticket: self.ticket,
                number,
                is_short: self
                    .spec
                    .tools
                    .as_ref()
                    .is_some_and(|tools| tools.format == ToolFormat::Mistral),
            },
        }
    }
}

/// Reads one alternative from its first delta to its end.
pub(crate) struct Turn {
    parser: OutputParser,
    reasoning: Reasoning,
    reasoning_tokens: u64,
    /// Bytes of text so far.
    text_len: u64,
    /// Where the tokens begin, in bytes of text, of which it is not known yet whether they are
    /// reasoning.
    undecided: VecDeque<u64>,
    calls: usize,
    ids: CallIds,
}

impl Turn {
    /// What a delta says.
    pub(crate) fn take(&mut self, delta: &Delta) -> Vec<Said> {
        self.read(&delta.text, &delta.text_lens)
    }

    /// What a whole output says.
    pub(crate) fn take_all(&mut self, output: &Output) -> Vec<Said> {
        let mut said = self.read(&output.text, &output.text_lens);
        said.extend(self.finish());
        said
    }

    /// What is left to say at the end.
    pub(crate) fn finish(&mut self) -> Vec<Said> {
        let pieces = self.parser.finish();
        self.say(pieces)
    }

    fn read(&mut self, text: &str, text_lens: &[usize]) -> Vec<Said> {
        let is_counting = self.parser.may_reason();
        if is_counting {
            for len in text_lens {
                self.undecided.push_back(self.text_len);
                self.text_len += *len as u64;
            }
        }
        let pieces = self.parser.feed(text);
        if is_counting {
            self.count();
        }
        self.say(pieces)
    }

    /// A token is reasoning if its text begins in it.
    fn count(&mut self) {
        let end = self.parser.reasoning_bytes();
        while self.undecided.front().is_some_and(|start| *start < end) {
            self.undecided.pop_front();
            self.reasoning_tokens += 1;
        }
        if !self.parser.may_reason() {
            self.undecided.clear();
        }
    }

    fn say(&mut self, pieces: Vec<OutputPiece>) -> Vec<Said> {
        let mut said = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                OutputPiece::Reasoning(_) if self.reasoning == Reasoning::Hide => {}
                OutputPiece::Reasoning(text) => said.push(Said::Reasoning(text)),
                OutputPiece::Text(text) => said.push(Said::Text(text)),
                OutputPiece::Call(call) => {
                    let index = self.calls;
                    self.calls += 1;
                    said.push(Said::Call(Call {
                        index,
                        id: call.id.unwrap_or_else(|| self.ids.id(index)),
                        name: call.name,
                        arguments: call.arguments,
                    }));
                }
            }
        }
        said
    }

    /// Tokens of the output that were reasoning.
    pub(crate) fn reasoning_tokens(&self) -> u64 {
        self.reasoning_tokens
    }

    /// How it ended.
    pub(crate) fn ending(&self, finished: &Finished) -> Ending {
        match finished.reason {
            FinishReason::Stop if self.calls > 0 => Ending::Calls,
            FinishReason::Stop => Ending::Stop,
            FinishReason::Length => Ending::Length,
            FinishReason::Cancelled => Ending::Cancelled,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Stop,
    /// It waits for what the tools say.
    Calls,
    Length,
    Cancelled,
}

impl Ending {
    /// The word of the OpenAI API.
    pub(crate) fn openai_name(self) -> &'static str {
        match self {
            Self::Stop => FinishReason::Stop.wire_name(),
            Self::Calls => "tool_calls",
            Self::Length => FinishReason::Length.wire_name(),
            Self::Cancelled => FinishReason::Cancelled.wire_name(),
        }
    }
}

/// Ids for the calls of one alternative.
#[derive(Clone, Copy, Debug)]
struct CallIds {
    ticket: Ticket,
    number: usize,
    /// Mistral's templates take nine letters and digits, and nothing else.
    is_short: bool,
}

impl CallIds {
    fn id(self, index: usize) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        let place = mix64(((self.number as u64) << 32) ^ index as u64);
        let mut rest = mix64(self.ticket.unique() ^ place);
        let len = if self.is_short { 9 } else { 13 };
        let digits = (0..len).map(|_| {
            let digit = char::from(DIGITS[(rest % 32) as usize]);
            rest /= 32;
            digit
        });
        let prefix = if self.is_short { "" } else { "call_" };
        prefix.chars().chain(digits).collect()
    }
}
