//! Answers of `POST /v1/chat/completions`.

use axum::response::sse::Event;
use kvist_engine::{Delta, Finished, TokenLogprob, TokenLogprobs};

use super::{Answer, EventResult, Heading, Vocabulary, lossy, stop_reason};
use crate::generate::Output;
use crate::models::Served;
use crate::state::Ticket;
use crate::validate::{Call, Delivery, StreamUsage};
use crate::wire::chat::{
    AssistantMessage, ChatChoice, ChatChunkChoice, ChatCompletion, ChatCompletionChunk, ChatDelta,
    ChatLogprobs, ChatTokenLogprob, ChatTokenLogprobs,
};
use crate::wire::common::Usage;

const ASSISTANT: &str = "assistant";

/// Words a chat answer.
pub(crate) struct ChatAnswer {
    heading: Heading,
    vocabulary: Vocabulary,
    /// How many of the likeliest tokens go with each position, if log-probabilities were asked for.
    top_logprobs: Option<usize>,
    usage: StreamUsage,
}

impl ChatAnswer {
    pub(crate) fn new(served: &Served, call: &Call, ticket: Ticket) -> Self {
        Self {
            heading: Heading::new(served, ticket, "chatcmpl"),
            vocabulary: Vocabulary(served.clone()),
            top_logprobs: call.settings.sampling.logprobs.map(|count| count as usize),
            usage: match call.delivery {
                Delivery::Whole => StreamUsage::Omit,
                Delivery::Stream(usage) => usage,
            },
        }
    }

    fn logprobs(&self, entries: &[TokenLogprobs]) -> Option<ChatLogprobs> {
        let count = self.top_logprobs?;
        // The engine adds a chosen token that is not among the likeliest; here it has its own
        // place.
        let position = |entry: &TokenLogprobs| ChatTokenLogprobs {
            chosen: self.token(&entry.chosen),
            top_logprobs: entry
                .top
                .iter()
                .take(count)
                .map(|each| self.token(each))
                .collect(),
        };
        Some(ChatLogprobs {
            content: entries.iter().map(position).collect(),
        })
    }

    fn token(&self, entry: &TokenLogprob) -> ChatTokenLogprob {
        let bytes = self.vocabulary.bytes(entry.token);
        ChatTokenLogprob {
            token: lossy(&bytes),
            logprob: entry.logprob,
            bytes,
        }
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> EventResult {
        Event::default().json_data(ChatCompletionChunk {
            id: &self.heading.id,
            object: "chat.completion.chunk",
            created: self.heading.created,
            model: &self.heading.model,
            choices,
            usage: (self.usage == StreamUsage::Include).then_some(usage),
        })
    }

    fn piece(&self, index: usize, delta: ChatDelta) -> ChatChunkChoice {
        ChatChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
        }
    }
}

impl Answer for ChatAnswer {
    const PROMPT_FIELD: &'static str = "messages";
    type Whole = ChatCompletion;

    fn heading(&self) -> &Heading {
        &self.heading
    }

    fn whole(self, outputs: Vec<Output>, usage: Usage) -> ChatCompletion {
        let choice = |(index, output): (usize, Output)| ChatChoice {
            index,
            logprobs: self.logprobs(&output.logprobs),
            finish_reason: output.finished.reason.wire_name(),
            stop_reason: stop_reason(&output.finished),
            message: AssistantMessage {
                role: ASSISTANT,
                content: output.text,
                refusal: None,
            },
        };
        ChatCompletion {
            choices: outputs.into_iter().enumerate().map(choice).collect(),
            id: self.heading.id,
            object: "chat.completion",
            created: self.heading.created,
            model: self.heading.model,
            usage,
        }
    }

    fn opening(&mut self, index: usize) -> Option<EventResult> {
        let delta = ChatDelta {
            role: Some(ASSISTANT),
            content: Some(String::new()),
        };
        Some(self.chunk(vec![self.piece(index, delta)], None))
    }

    fn delta(&mut self, index: usize, delta: Delta) -> Option<EventResult> {
        if delta.text.is_empty() && delta.logprobs.is_empty() {
            return None;
        }
        let logprobs = self.logprobs(&delta.logprobs);
        let delta = ChatDelta {
            role: None,
            content: Some(delta.text),
        };
        let choice = ChatChunkChoice {
            logprobs,
            ..self.piece(index, delta)
        };
        Some(self.chunk(vec![choice], None))
    }

    fn end(&mut self, index: usize, finished: &Finished) -> EventResult {
        let choice = ChatChunkChoice {
            finish_reason: Some(finished.reason.wire_name()),
            stop_reason: stop_reason(finished),
            ..self.piece(index, ChatDelta::default())
        };
        self.chunk(vec![choice], None)
    }

    fn usage(&mut self, usage: Usage) -> EventResult {
        self.chunk(Vec::new(), Some(usage))
    }
}
