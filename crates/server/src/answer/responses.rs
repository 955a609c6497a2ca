//! Answers of `POST /v1/responses`.

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use kvist_base::Tokens;
use kvist_engine::ChatMessage;
use serde_json::{Value, json};

use super::Heading;
use super::dialect::{Dialect, DialectStream, End, Frames};
use super::turn::{Call, Ending, Said};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::models::Served;
use crate::state::{App, Ticket};
use crate::store::StoredResponse;
use crate::validate::shown_call;
use crate::wire::responses::{ContentPart, Echoed, OutputItem, ResponseObject, ResponseUsage};

const COMPLETED: &str = "completed";
const IN_PROGRESS: &str = "in_progress";
const INCOMPLETE: &str = "incomplete";

/// Words a response, and keeps it.
pub(crate) struct ResponseWords {
    app: App,
    heading: Heading,
    echoed: Echoed,
    owner: Caller,
    /// The conversation the answer is added to.
    messages: Vec<ChatMessage>,
    events: u64,
    /// Items that are complete.
    output: Vec<OutputItem>,
    open: Option<Open>,
}

/// The item that grows.
struct Open {
    kind: Kind,
    id: String,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
}

impl Kind {
    fn part(self, text: String) -> ContentPart {
        match self {
            Self::Reasoning => ContentPart::ReasoningText { text },
            Self::Text => ContentPart::OutputText {
                text,
                annotations: [],
                logprobs: [],
            },
        }
    }

    fn item(self, id: &str, content: Vec<ContentPart>, status: &'static str) -> OutputItem {
        let id = id.to_owned();
        match self {
            Self::Reasoning => OutputItem::Reasoning {
                id,
                summary: [],
                content,
                status,
            },
            Self::Text => OutputItem::Message {
                id,
                role: "assistant",
                content,
                status,
            },
        }
    }

    /// Where events about its text begin.
    fn event(self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_text",
            Self::Text => "response.output_text",
        }
    }
}

impl ResponseWords {
    pub(crate) fn new(
        (app, served): (&App, &Served),
        (ticket, owner): (Ticket, Caller),
        (messages, echoed): (Vec<ChatMessage>, Echoed),
    ) -> Self {
        let mut heading = Heading::plain(served, ticket, "resp");
        heading.id = heading.id.replace('-', "_");
        Self {
            app: app.clone(),
            heading,
            echoed,
            owner,
            messages,
            events: 0,
            output: Vec::new(),
            open: None,
        }
    }

    /// An id for the next item.
    fn item_id(&self, prefix: &str) -> String {
        let own = self.heading.id.strip_prefix("resp_").unwrap_or_default();
        format!("{prefix}_{own}{:02}", self.output.len())
    }

    fn object(&self, status: &'static str) -> ResponseObject {
        ResponseObject {
            id: self.heading.id.clone(),
            object: "response",
            created_at: self.heading.created,
            status,
            error: None,
            incomplete_details: None,
            model: self.heading.model.clone(),
            output: self.output.clone(),
            truncation: "disabled",
            text: json!({"format": {"type": "text"}}),
            reasoning: json!({"effort": null, "summary": null}),
            usage: None,
            echoed: self.echoed.clone(),
        }
    }

    fn event(&mut self, name: &str, mut body: Value, frames: &mut Frames<Event>) {
        body["type"] = json!(name);
        body["sequence_number"] = json!(self.events);
        self.events += 1;
        frames.push_back(Event::default().event(name).json_data(body));
    }

    /// An event about the whole response.
    fn response_event(&mut self, name: &str, object: &ResponseObject, frames: &mut Frames<Event>) {
        self.event(name, json!({"response": object}), frames);
    }

    fn item_event(&mut self, name: &str, item: &OutputItem, frames: &mut Frames<Event>) {
        let body = json!({"output_index": self.output.len(), "item": item});
        self.event(name, body, frames);
    }

    /// An event about the text of the open item.
    fn part_event(&mut self, name: &str, (id, more): (&str, Value), frames: &mut Frames<Event>) {
        let mut body =
            json!({"item_id": id, "output_index": self.output.len(), "content_index": 0});
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        self.event(name, body, frames);
    }

    fn text(&mut self, kind: Kind, text: &str, frames: &mut Frames<Event>) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close(COMPLETED, frames);
            let id = self.item_id(if kind == Kind::Text { "msg" } else { "rs" });
            let item = kind.item(&id, Vec::new(), IN_PROGRESS);
            self.item_event("response.output_item.added", &item, frames);
            let part = json!({"part": kind.part(String::new())});
            self.part_event("response.content_part.added", (id.as_str(), part), frames);
            let text = String::new();
            self.open = Some(Open { kind, id, text });
        }
        let Some(mut open) = self.open.take() else {
            return;
        };
        open.text.push_str(text);
        let name = format!("{}.delta", kind.event());
        let delta = text_body(kind, "delta", text);
        self.part_event(&name, (open.id.as_str(), delta), frames);
        self.open = Some(open);
    }

    /// Ends the open item, if there is one.
    fn close(&mut self, status: &'static str, frames: &mut Frames<Event>) {
        let Some(Open { kind, id, text }) = self.open.take() else {
            return;
        };
        let name = format!("{}.done", kind.event());
        self.part_event(&name, (id.as_str(), text_body(kind, "text", &text)), frames);
        let part = kind.part(text);
        let body = json!({"part": part});
        self.part_event("response.content_part.done", (id.as_str(), body), frames);
        let item = kind.item(&id, vec![part], status);
        self.item_event("response.output_item.done", &item, frames);
        self.output.push(item);
    }

    fn call(&mut self, call: &Call, frames: &mut Frames<Event>) {
        self.close(COMPLETED, frames);
        let id = self.item_id("fc");
        let item = |arguments: &str, status| OutputItem::FunctionCall {
            id: id.clone(),
            call_id: call.id.clone(),
            name: call.name.clone(),
            arguments: arguments.to_owned(),
            status,
        };
        self.item_event("response.output_item.added", &item("", IN_PROGRESS), frames);
        let index = self.output.len();
        let body = json!({"item_id": id, "output_index": index, "delta": call.arguments});
        self.event("response.function_call_arguments.delta", body, frames);
        let body = json!({
            "item_id": id, "output_index": index, "name": call.name, "arguments": call.arguments,
        });
        self.event("response.function_call_arguments.done", body, frames);
        let item = item(&call.arguments, COMPLETED);
        self.item_event("response.output_item.done", &item, frames);
        self.output.push(item);
    }

    /// The complete response, which is kept if it was asked to be.
    fn finish(&mut self, end: &End, frames: &mut Frames<Event>) -> ResponseObject {
        let is_cut = end.ending == Ending::Length;
        let status = if is_cut { INCOMPLETE } else { COMPLETED };
        self.close(status, frames);
        let mut object = self.object(status);
        object.incomplete_details = is_cut.then(|| json!({"reason": "max_output_tokens"}));
        object.usage = Some(usage(end));
        if self.echoed.store {
            let mut messages = std::mem::take(&mut self.messages);
            messages.push(answer_message(&self.output));
            self.app.responses.put(StoredResponse {
                answer: object.clone(),
                messages,
                owner: self.owner,
            });
        }
        object
    }
}

fn text_body(kind: Kind, key: &str, text: &str) -> Value {
    let mut body = json!({key: text});
    if kind == Kind::Text {
        body["logprobs"] = json!([]);
    }
    body
}

fn usage(end: &End) -> ResponseUsage {
    let usage = end.finished.usage;
    ResponseUsage {
        input_tokens: u64::from(usage.prompt.0),
        input_tokens_details: json!({"cached_tokens": usage.prefix_hit.0}),
        output_tokens: u64::from(usage.output.0),
        output_tokens_details: json!({"reasoning_tokens": end.reasoning_tokens}),
        total_tokens: u64::from(usage.total().0),
    }
}

/// The answer as the next request's conversation has it.
fn answer_message(output: &[OutputItem]) -> ChatMessage {
    let mut message = ChatMessage {
        role: "assistant".to_owned(),
        ..ChatMessage::default()
    };
    let mut calls = Vec::new();
    for item in output {
        match item {
            OutputItem::Reasoning { content, .. } => {
                let text = Value::String(texts(content));
                message.extra.insert("reasoning_content".to_owned(), text);
            }
            OutputItem::Message { content, .. } => {
                let text = message.content.get_or_insert_default();
                text.push_str(&texts(content));
            }
            OutputItem::FunctionCall {
                call_id,
                name,
                arguments,
                ..
            } => {
                // The parser has read them as an object before.
                let arguments = serde_json::from_str(arguments).unwrap_or_default();
                calls.push(shown_call(Some(call_id.clone()), name.clone(), arguments));
            }
        }
    }
    if !calls.is_empty() {
        message
            .extra
            .insert("tool_calls".to_owned(), Value::Array(calls));
    }
    message
}

fn texts(parts: &[ContentPart]) -> String {
    let text = |part: &ContentPart| match part {
        ContentPart::OutputText { text, .. } | ContentPart::ReasoningText { text } => text.clone(),
    };
    parts.iter().map(text).collect()
}

impl Dialect for ResponseWords {
    const PROMPT_FIELD: &'static str = "input";
    type Frame = Event;
    type Whole = ResponseObject;

    fn id(&self) -> &str {
        &self.heading.id
    }

    fn begin(&mut self, _: Tokens, frames: &mut Frames<Event>) {
        let object = self.object(IN_PROGRESS);
        self.response_event("response.created", &object, frames);
        self.response_event("response.in_progress", &object, frames);
    }

    fn say(&mut self, said: Said, frames: &mut Frames<Event>) {
        match said {
            Said::Reasoning(text) => self.text(Kind::Reasoning, &text, frames),
            Said::Text(text) => self.text(Kind::Text, &text, frames),
            Said::Call(call) => self.call(&call, frames),
        }
    }

    fn end(&mut self, end: &End, frames: &mut Frames<Event>) {
        let object = self.finish(end, frames);
        let name = format!("response.{}", object.status);
        self.response_event(&name, &object, frames);
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames<Event>) {
        self.close(INCOMPLETE, frames);
        let mut object = self.object("failed");
        let message = error.told().message;
        object.error = Some(json!({"code": "server_error", "message": message}));
        self.response_event("response.failed", &object, frames);
    }

    /// What a stream would have said last.
    fn whole(mut self, said: Vec<Said>, end: &End) -> ResponseObject {
        let mut unsent = Frames::new();
        for each in said {
            self.say(each, &mut unsent);
            unsent.clear();
        }
        self.finish(end, &mut unsent)
    }

    fn stream(app: &App, frames: DialectStream<Self>) -> Response {
        let ping = KeepAlive::new().interval(app.limits.stream_ping_interval);
        Sse::new(frames).keep_alive(ping).into_response()
    }
}
