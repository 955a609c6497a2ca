//! Answers of `/api/chat` and `/api/generate`: JSON, a line for each piece.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use kvist_base::Tokens;
use serde::Serialize;
use serde_json::json;

use super::dialect::{Dialect, DialectStream, End, Frames};
use super::turn::{Call, Ending, Said};
use crate::error::ApiError;
use crate::models::Served;
use crate::state::{App, Ticket};
use crate::wire::ollama::{OllamaAnswer, OllamaCall, OllamaEnd, OllamaFunction, OllamaReply};

/// Which of the two endpoints answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OllamaShape {
    /// With a message.
    Chat,
    /// With a response.
    Generate,
}

/// Words an answer.
pub(crate) struct OllamaWords {
    id: String,
    model: String,
    shape: OllamaShape,
}

/// What an answer or a piece of one says.
#[derive(Default)]
struct Content {
    text: String,
    thinking: Option<String>,
    calls: Vec<Call>,
}

impl Content {
    fn add(&mut self, said: Said) {
        match said {
            Said::Text(text) => self.text.push_str(&text),
            Said::Reasoning(text) => self.thinking.get_or_insert_default().push_str(&text),
            Said::Call(call) => self.calls.push(call),
        }
    }
}

impl OllamaWords {
    pub(crate) fn new(served: &Served, ticket: Ticket, shape: OllamaShape) -> Self {
        Self {
            id: ticket.id("ollama"),
            model: served.name.clone(),
            shape,
        }
    }

    /// The answer to a request that only wanted the model loaded.
    pub(crate) fn loaded(self) -> OllamaAnswer {
        let end = OllamaEnd {
            done_reason: "load",
            ..OllamaEnd::default()
        };
        self.answer(Content::default(), Some(end))
    }

    fn answer(&self, content: Content, end: Option<OllamaEnd>) -> OllamaAnswer {
        let (message, response, thinking) = match self.shape {
            OllamaShape::Chat => {
                let reply = OllamaReply {
                    role: "assistant",
                    content: content.text,
                    thinking: content.thinking,
                    tool_calls: content.calls.into_iter().map(call).collect(),
                };
                (Some(reply), None, None)
            }
            OllamaShape::Generate => (None, Some(content.text), content.thinking),
        };
        OllamaAnswer {
            model: self.model.clone(),
            created_at: timestamp(SystemTime::now()),
            message,
            response,
            thinking,
            done: end.is_some(),
            end,
        }
    }
}

fn call(call: Call) -> OllamaCall {
    OllamaCall {
        id: call.id,
        function: OllamaFunction {
            index: call.index,
            name: call.name,
            // The parser has read it as an object before.
            arguments: serde_json::from_str(&call.arguments).unwrap_or_default(),
        },
    }
}

fn end(end: &End) -> OllamaEnd {
    let (total, prompt, output) = end.times.passed();
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    OllamaEnd {
        done_reason: match end.ending {
            Ending::Length => "length",
            Ending::Stop | Ending::Calls | Ending::Cancelled => "stop",
        },
        total_duration: nanoseconds(total),
        load_duration: 0,
        prompt_eval_count: u64::from(end.finished.usage.prompt.0),
        prompt_eval_duration: nanoseconds(prompt),
        eval_count: u64::from(end.finished.usage.output.0),
        eval_duration: nanoseconds(output),
    }
}

fn push(frames: &mut Frames<Bytes>, line: &impl Serialize) {
    let line = serde_json::to_vec(line).map(|mut line| {
        line.push(b'\n');
        Bytes::from(line)
    });
    frames.push_back(line.map_err(axum::Error::new));
}

impl Dialect for OllamaWords {
    const PROMPT_FIELD: &'static str = "prompt";
    type Frame = Bytes;
    type Whole = OllamaAnswer;

    fn id(&self) -> &str {
        &self.id
    }

    fn begin(&mut self, _: Tokens, _: &mut Frames<Bytes>) {}

    fn say(&mut self, said: Said, frames: &mut Frames<Bytes>) {
        let mut content = Content::default();
        content.add(said);
        push(frames, &self.answer(content, None));
    }

    fn end(&mut self, ended: &End, frames: &mut Frames<Bytes>) {
        let last = self.answer(Content::default(), Some(end(ended)));
        push(frames, &last);
    }

    fn fail(&mut self, error: &ApiError, frames: &mut Frames<Bytes>) {
        push(frames, &json!({"error": error.told().message}));
    }

    fn whole(self, said: Vec<Said>, ended: &End) -> OllamaAnswer {
        let mut content = Content::default();
        said.into_iter().for_each(|each| content.add(each));
        self.answer(content, Some(end(ended)))
    }

    fn stream(_: &App, frames: DialectStream<Self>) -> Response {
        let media = [(header::CONTENT_TYPE, "application/x-ndjson")];
        (media, Body::from_stream(frames)).into_response()
    }
}

/// A time as RFC 3339 writes it, to the microsecond.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day, so many days after 1970-01-01. Years are counted from March, so that the
/// leap day is the last (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_767_225_845, "2026-01-01T00:04:05.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
