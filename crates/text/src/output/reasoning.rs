//! Where a model thinks before it answers.

use std::fmt;
use std::str::FromStr;

use super::format::UnknownFormat;
use super::{OutputPiece, say};

/// How a model marks its reasoning. Parses from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningFormat {
    /// `<think>…</think>`: most models.
    Think,
    /// The same from models that think always and may leave out the first mark.
    ThinkFirst,
    /// `[THINK]…[/THINK]`: Mistral.
    Mistral,
    /// `<seed:think>…</seed:think>`: Seed-OSS.
    Seed,
}

impl ReasoningFormat {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Think, Self::ThinkFirst, Self::Mistral, Self::Seed];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Think => "think",
            Self::ThinkFirst => "deepseek_r1",
            Self::Mistral => "mistral",
            Self::Seed => "seed_oss",
        }
    }

    /// The format whose marks a chat template has.
    pub(crate) fn of_template(source: &str) -> Option<Self> {
        let has = |format: Self| source.contains(format.close());
        [Self::Think, Self::Mistral, Self::Seed]
            .into_iter()
            .find(|format| has(*format))
    }

    pub(super) const fn open(self) -> &'static str {
        match self {
            Self::Think | Self::ThinkFirst => "<think>",
            Self::Mistral => "[THINK]",
            Self::Seed => "<seed:think>",
        }
    }

    pub(super) const fn close(self) -> &'static str {
        match self {
            Self::Think | Self::ThinkFirst => "</think>",
            Self::Mistral => "[/THINK]",
            Self::Seed => "</seed:think>",
        }
    }

    /// Whether a model that goes on from a prompt with this end is thinking, if it does not say so.
    fn is_open_after(self, prompt_tail: &str) -> bool {
        let tail = prompt_tail.trim_end();
        match self {
            Self::ThinkFirst => !tail.ends_with(self.close()),
            _ => tail.ends_with(self.open()),
        }
    }
}

impl fmt::Display for ReasoningFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ReasoningFormat {
    type Err = UnknownFormat;

    /// Also the names vLLM has for the same thing.
    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let name = match name {
            "qwen3" | "glm45" | "kimi_k2" | "deepseek_v3" => Self::Think.name(),
            other => other,
        };
        let mut all = Self::ALL.into_iter();
        let found = all.find(|format| format.name() == name);
        found.ok_or_else(|| UnknownFormat::new(name, Self::ALL.iter().map(|each| each.name())))
    }
}

/// What a character did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thought {
    /// It is taken care of.
    Taken,
    /// Reasoning is over, and the character is its last.
    Over,
    /// There is no reasoning. The text so far, which [`Thinking::take_held`] gives, is the answer's.
    None,
}

/// Reads the reasoning of one sequence, up to its end.
#[derive(Debug)]
pub(super) struct Thinking {
    format: ReasoningFormat,
    /// Whether text without the opening mark is reasoning.
    is_open: bool,
    at: At,
    /// White space, then the beginning of a mark: not known yet what they are.
    held: String,
    /// Bytes of the mark at the end of `held`.
    matched: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing but white space and perhaps the beginning of the opening mark.
    Start,
    /// In the reasoning, before its first visible character.
    Silent,
    /// In the reasoning.
    Inside,
}

impl Thinking {
    pub fn new(format: ReasoningFormat, prompt_tail: &str) -> Self {
        Self {
            is_open: format.is_open_after(prompt_tail),
            format,
            at: At::Start,
            held: String::new(),
            matched: 0,
        }
    }

    /// Whether what came so far is known to be reasoning.
    pub fn is_certain(&self) -> bool {
        self.at != At::Start
    }

    /// Takes the next character.
    pub fn push(&mut self, character: char, pieces: &mut Vec<OutputPiece>) -> Thought {
        match self.at {
            At::Start => self.begin(character, pieces),
            At::Silent | At::Inside => self.think(character, pieces),
        }
    }

    fn begin(&mut self, character: char, pieces: &mut Vec<OutputPiece>) -> Thought {
        let mark = self.format.open();
        if self.matched == 0 && character.is_whitespace() {
            self.held.push(character);
            return Thought::Taken;
        }
        if mark[self.matched..].starts_with(character) {
            self.held.push(character);
            self.matched += character.len_utf8();
            if self.matched == mark.len() {
                self.held.clear();
                self.matched = 0;
                self.at = At::Silent;
            }
            return Thought::Taken;
        }
        if !self.is_open {
            self.held.push(character);
            return Thought::None;
        }
        // The mark was in the prompt: what looked like the beginning of it is reasoning too.
        self.at = At::Silent;
        self.matched = 0;
        let held = std::mem::take(&mut self.held);
        let mut last = Thought::Taken;
        for character in held.chars().chain([character]) {
            last = self.think(character, pieces);
        }
        last
    }

    /// A character of the reasoning. White space goes out when something follows it, so that none
    /// is left at the end.
    fn think(&mut self, character: char, pieces: &mut Vec<OutputPiece>) -> Thought {
        let mark = self.format.close();
        loop {
            if mark[self.matched..].starts_with(character) {
                self.held.push(character);
                self.matched += character.len_utf8();
                if self.matched == mark.len() {
                    self.held.clear();
                    return Thought::Over;
                }
                return Thought::Taken;
            }
            if self.matched == 0 {
                break;
            }
            // No mark has its own first character inside, so nothing of it can begin another.
            self.matched = 0;
            self.release(pieces);
        }
        self.held.push(character);
        if !character.is_whitespace() {
            self.release(pieces);
        }
        Thought::Taken
    }

    fn release(&mut self, pieces: &mut Vec<OutputPiece>) {
        let held = std::mem::take(&mut self.held);
        let text = match self.at {
            At::Inside => held.as_str(),
            _ => held.trim_start(),
        };
        if !text.is_empty() {
            self.at = At::Inside;
            say(pieces, OutputPiece::Reasoning, text);
        }
    }

    /// What was held back before it was known whether there is reasoning.
    pub fn take_held(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// No more text comes.
    pub fn finish(&mut self, pieces: &mut Vec<OutputPiece>) {
        if self.is_certain() || self.is_open {
            let end = self.held.trim_end().len();
            self.held.truncate(end);
            self.release(pieces);
        }
    }
}
