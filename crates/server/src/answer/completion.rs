//! Answers of `POST /v1/completions`.

use std::fmt::Write as _;

use axum::response::sse::Event;
use kvist_engine::{Delta, Finished, Prompt, TokenLogprob, TokenLogprobs};

use super::{Answer, EventResult, Heading, Vocabulary, lossy, stop_reason};
use crate::generate::Output;
use crate::models::Served;
use crate::state::Ticket;
use crate::validate::{Call, Delivery, Echo, StreamUsage};
use crate::wire::common::{Pairs, Usage};
use crate::wire::completion::{Completion, CompletionChoice, CompletionChunk, CompletionLogprobs};

const OBJECT: &str = "text_completion";

/// Words a plain completion.
pub(crate) struct CompletionAnswer {
    heading: Heading,
    vocabulary: Vocabulary,
    logprobs: bool,
    usage: StreamUsage,
    /// Text the alternatives of each prompt begin with, if they begin with their prompt.
    echoed: Option<Vec<String>>,
    choices: usize,
    /// Characters of the tokens sent so far, by alternative.
    offsets: Vec<usize>,
}

impl CompletionAnswer {
    pub(crate) fn new(served: &Served, call: &Call, ticket: Ticket) -> Self {
        let vocabulary = Vocabulary(served.clone());
        let echoed = (call.echo == Echo::PromptFirst).then(|| {
            call.prompts
                .iter()
                .map(|prompt| prompt_text(&vocabulary, prompt))
                .collect()
        });
        Self {
            heading: Heading::new(served, ticket, "cmpl"),
            vocabulary,
            logprobs: call.settings.sampling.logprobs.is_some(),
            usage: match call.delivery {
                Delivery::Whole => StreamUsage::Omit,
                Delivery::Stream(usage) => usage,
            },
            echoed,
            choices: call.choices,
            offsets: vec![0; call.prompts.len() * call.choices],
        }
    }

    fn echoed(&self, index: usize) -> Option<&str> {
        self.echoed
            .as_ref()
            .map(|texts| texts[index / self.choices].as_str())
    }

    fn logprobs(&mut self, index: usize, entries: &[TokenLogprobs]) -> Option<CompletionLogprobs> {
        if !self.logprobs {
            return None;
        }
        let mut lists = CompletionLogprobs::default();
        for entry in entries {
            let token = token_text(&self.vocabulary.bytes(entry.chosen.token));
            let offset = &mut self.offsets[index];
            lists.text_offset.push(*offset);
            *offset += token.chars().count();
            lists.tokens.push(token);
            lists.token_logprobs.push(entry.chosen.logprob);
            lists.top_logprobs.push(self.likeliest(entry));
        }
        Some(lists)
    }

    /// The likeliest tokens and the chosen one, which the engine adds if it is not among them.
    fn likeliest(&self, entry: &TokenLogprobs) -> Pairs {
        let pair =
            |each: &TokenLogprob| (token_text(&self.vocabulary.bytes(each.token)), each.logprob);
        Pairs(entry.top.iter().map(pair).collect())
    }

    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> EventResult {
        Event::default().json_data(CompletionChunk {
            id: &self.heading.id,
            object: OBJECT,
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: (self.usage == StreamUsage::Include).then_some(usage),
        })
    }
}

fn piece(index: usize, text: String) -> CompletionChoice {
    CompletionChoice {
        index,
        text,
        logprobs: None,
        finish_reason: None,
        stop_reason: None,
    }
}

impl Answer for CompletionAnswer {
    const PROMPT_FIELD: &'static str = "prompt";
    type Whole = Completion;

    fn heading(&self) -> &Heading {
        &self.heading
    }

    fn whole(mut self, outputs: Vec<Output>, usage: Usage) -> Completion {
        let mut choices = Vec::with_capacity(outputs.len());
        for (index, output) in outputs.into_iter().enumerate() {
            let text = match self.echoed(index) {
                Some(prompt) => format!("{prompt}{}", output.text),
                None => output.text,
            };
            choices.push(CompletionChoice {
                logprobs: self.logprobs(index, &output.logprobs),
                finish_reason: Some(output.finished.reason.wire_name()),
                stop_reason: stop_reason(&output.finished),
                ..piece(index, text)
            });
        }
        Completion {
            id: self.heading.id,
            object: OBJECT,
            created: self.heading.created,
            model: self.heading.model,
            choices,
            usage,
        }
    }

    fn opening(&mut self, index: usize) -> Option<EventResult> {
        let prompt = self.echoed(index)?.to_owned();
        Some(self.chunk(vec![piece(index, prompt)], None))
    }

    fn delta(&mut self, index: usize, delta: Delta) -> Option<EventResult> {
        if delta.text.is_empty() && delta.logprobs.is_empty() {
            return None;
        }
        let logprobs = self.logprobs(index, &delta.logprobs);
        Some(self.chunk(
            vec![CompletionChoice {
                logprobs,
                ..piece(index, delta.text)
            }],
            None,
        ))
    }

    fn end(&mut self, index: usize, finished: &Finished) -> Vec<EventResult> {
        let choice = CompletionChoice {
            finish_reason: Some(finished.reason.wire_name()),
            stop_reason: stop_reason(finished),
            ..piece(index, String::new())
        };
        vec![self.chunk(vec![choice], None)]
    }

    fn usage(&mut self, usage: Usage) -> EventResult {
        self.chunk(Vec::new(), Some(usage))
    }
}

/// A prompt as the client wrote it, or as its tokens spell it.
fn prompt_text(vocabulary: &Vocabulary, prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => {
            let bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|token| vocabulary.bytes(*token))
                .collect();
            lossy(&bytes)
        }
        // This endpoint has no conversations.
        Prompt::Chat(_) => String::new(),
    }
}

/// A token as this endpoint writes it: `bytes:\xe2\x80` where it is not whole characters, so that
/// different tokens stay different keys.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            let _ = write!(text, "\\x{byte:02x}"); // a String takes everything
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_characters_are_spelled_as_bytes() {
        assert_eq!(token_text("né".as_bytes()), "né");
        assert_eq!(token_text(&[0xe2, 0x80]), "bytes:\\xe2\\x80");
    }
}
