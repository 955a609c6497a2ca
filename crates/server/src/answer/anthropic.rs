//! Answers of `POST /v1/messages`.

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use kvist_base::Tokens;
use kvist_engine::{Finished, StoppedBy};
use serde_json::Map;

use super::Heading;
use super::dialect::{Dialect, DialectStream, End, Frames};
use super::turn::{Ending, Said};
use crate::dialects::anthropic_error;
use crate::error::ApiError;
use crate::models::Served;
use crate::state::{App, Ticket};
use crate::wire::anthropic::{
    AnswerBlock, BlockDelta, MessageAnswer, MessageEnd, MessageEvent, MessageUsage,
};

/// Words a message.
pub(crate) struct MessageWords {
    heading: Heading,
    prompt: Tokens,
    /// Blocks begun so far.
    blocks: usize,
    open: Option<Kind>,
}

/// What the open block is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
}

impl MessageWords {
    pub(crate) fn new(served: &Served, ticket: Ticket) -> Self {
        Self {
            heading: Heading::plain(served, ticket, "msg"),
            prompt: Tokens::ZERO,
            blocks: 0,
            open: None,
        }
    }

    fn message(&self, usage: MessageUsage) -> MessageAnswer {
        MessageAnswer {
            id: self.heading.id.clone(),
            kind: "message",
            role: "assistant",
            model: self.heading.model.clone(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage,
        }
    }

    /// Begins a block, unless one of this kind is open.
    fn open(&mut self, kind: Kind, block: AnswerBlock, frames: &mut Frames<Event>) {
        if self.open != Some(kind) {
            self.close(frames);
            self.start(block, frames);
            self.open = Some(kind);
        }
    }

    fn start(&mut self, block: AnswerBlock, frames: &mut Frames<Event>) {
        push(
            frames,
            &MessageEvent::ContentBlockStart {
                index: self.blocks,
                content_block: block,
            },
        );
        self.blocks += 1;
    }

    fn delta(&self, delta: BlockDelta<'_>, frames: &mut Frames<Event>) {
        let index = self.blocks.saturating_sub(1);
        push(frames, &MessageEvent::ContentBlockDelta { index, delta });
    }

    fn stop(&self, frames: &mut Frames<Event>) {
        let index = self.blocks.saturating_sub(1);
        push(frames, &MessageEvent::ContentBlockStop { index });
    }

    fn close(&mut self, frames: &mut Frames<Event>) {
        if self.open.take().is_some() {
            self.stop(frames);
        }
    }
}

fn push(frames: &mut Frames<Event>, event: &MessageEvent<'_>) {
    frames.push_back(Event::default().event(event.name()).json_data(event));
}

impl Dialect for MessageWords {
    const PROMPT_FIELD: &'static str = "messages";
    type Frame = Event;
    type Whole = MessageAnswer;

    fn id(&self) -> &str {
        &self.heading.id
    }

    fn begin(&mut self, prompt: Tokens, frames: &mut Frames<Event>) {
        self.prompt = prompt;
        let message = self.message(MessageUsage {
            input_tokens: u64::from(prompt.0),
            ..MessageUsage::default()
        });
        push(frames, &MessageEvent::MessageStart { message });
    }

    fn say(&mut self, said: Said, frames: &mut Frames<Event>) {
        match said {
            Said::Reasoning(thinking) => {
                self.open(Kind::Thinking, thinking_block(String::new()), frames);
                let thinking = &thinking;
                self.delta(BlockDelta::Thinking { thinking }, frames);
            }
            Said::Text(text) => {
                let empty = String::new();
                self.open(Kind::Text, AnswerBlock::Text { text: empty }, frames);
                self.delta(BlockDelta::Text { text: &text }, frames);
            }
            Said::Call(call) => {
                self.close(frames);
                let (id, name) = (call.id, call.name);
                let input = Map::new();
                self.start(AnswerBlock::ToolUse { id, name, input }, frames);
                let partial_json = &call.arguments;
                self.delta(BlockDelta::InputJson { partial_json }, frames);
                self.stop(frames);
            }
        }
    }

    fn end(&mut self, end: &End, frames: &mut Frames<Event>) {
        self.close(frames);
        let (stop_reason, stop_sequence) = stop(end);
        let delta = MessageEnd {
            stop_reason: Some(stop_reason),
            stop_sequence,
        };
        let usage = usage(&end.finished);
        push(frames, &MessageEvent::MessageDelta { delta, usage });
        push(frames, &MessageEvent::MessageStop {});
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames<Event>) {
        let body = anthropic_error(&error.told());
        frames.push_back(Event::default().event("error").json_data(body));
    }

    fn whole(self, said: Vec<Said>, end: &End) -> MessageAnswer {
        let (stop_reason, stop_sequence) = stop(end);
        let blocks = said.into_iter().map(|each| match each {
            Said::Reasoning(thinking) => thinking_block(thinking),
            Said::Text(text) => AnswerBlock::Text { text },
            Said::Call(call) => AnswerBlock::ToolUse {
                id: call.id,
                name: call.name,
                // The parser has read it as an object before.
                input: serde_json::from_str(&call.arguments).unwrap_or_default(),
            },
        });
        MessageAnswer {
            content: blocks.collect(),
            stop_reason: Some(stop_reason),
            stop_sequence,
            ..self.message(usage(&end.finished))
        }
    }

    fn stream(app: &App, frames: DialectStream<Self>) -> Response {
        let ping = Event::default().event("ping").data(r#"{"type": "ping"}"#);
        let ping = KeepAlive::new()
            .interval(app.limits.stream_ping_interval)
            .event(ping);
        Sse::new(frames).keep_alive(ping).into_response()
    }
}

fn thinking_block(thinking: String) -> AnswerBlock {
    AnswerBlock::Thinking {
        thinking,
        signature: "",
    }
}

/// Why a message ended, and the stop sequence that ended it.
fn stop(end: &End) -> (&'static str, Option<String>) {
    match (&end.finished.stopped_by, end.ending) {
        (Some(StoppedBy::Text(text)), _) => ("stop_sequence", Some(text.clone())),
        (_, Ending::Calls) => ("tool_use", None),
        (_, Ending::Length) => ("max_tokens", None),
        (_, Ending::Stop | Ending::Cancelled) => ("end_turn", None),
    }
}

fn usage(finished: &Finished) -> MessageUsage {
    let usage = finished.usage;
    let hit = u64::from(usage.prefix_hit.0);
    MessageUsage {
        input_tokens: u64::from(usage.prompt.0).saturating_sub(hit),
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: hit,
        output_tokens: u64::from(usage.output.0),
    }
}
