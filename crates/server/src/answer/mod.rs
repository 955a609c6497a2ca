//! The two shapes an answer has, each whole and in pieces.

pub(crate) mod anthropic;
mod chat;
mod completion;
pub(crate) mod dialect;
pub(crate) mod ollama;
pub(crate) mod responses;
mod stream;
pub(crate) mod turn;

pub(crate) use chat::ChatAnswer;
pub(crate) use completion::CompletionAnswer;

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use kvist_engine::{Delta, Finished, RequestHandle, StoppedBy};
use serde::Serialize;

use self::stream::AnswerStream;
use crate::body::BodyShare;
use crate::error::ApiError;
use crate::generate::{Output, Tally, collect, submit};
use crate::models::Served;
use crate::state::{App, Ticket, now_seconds};
use crate::term::Term;
use crate::validate::{Call, Delivery};
use crate::wire::common::{StopReason, Usage};

/// How one endpoint words its answers.
pub(crate) trait Answer: Send + Unpin + 'static {
    /// The request field that holds the prompt.
    const PROMPT_FIELD: &'static str;
    /// What a whole answer is.
    type Whole: Serialize;

    /// The alternatives run: nothing has come of them yet.
    fn begin(&mut self, _handles: &[RequestHandle]) {}
    /// What is the same in all pieces.
    fn heading(&self) -> &Heading;
    /// All alternatives at once, in order.
    fn whole(self, outputs: Vec<Output>, usage: Usage) -> Self::Whole;
    /// The piece an alternative begins with, if any.
    fn opening(&mut self, index: usize) -> Option<EventResult>;
    /// New output of an alternative; `None` if there is nothing to see.
    fn delta(&mut self, index: usize, delta: Delta) -> Option<EventResult>;
    /// The end of an alternative: whatever was held back, then the only piece with a finish reason.
    fn end(&mut self, index: usize, finished: &Finished) -> Vec<EventResult>;
    /// What all alternatives took.
    fn usage(&mut self, usage: Usage) -> EventResult;
}

/// A piece of a stream; writing one as JSON does not fail in practice, but the type says it may.
pub(crate) type EventResult = Result<Event, axum::Error>;

/// What is the same in all pieces of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Heading {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Heading {
    pub(crate) fn new(served: &Served, ticket: Ticket, prefix: &str) -> Self {
        Self {
            id: ticket.id(prefix),
            created: now_seconds(),
            model: served.name.clone(),
        }
    }
}

/// Runs a call on the model it is for, and answers it. `share` is the memory of the call's body.
/// Dropping the future or the response's body cancels the call.
pub(crate) async fn answer<A: Answer>(
    app: &App,
    (served, call): (Served, Call),
    mut answer: A,
    share: BodyShare,
) -> Result<Response, ApiError> {
    let Call {
        delivery, choices, ..
    } = call;
    let handles = submit(app, (&served, call), A::PROMPT_FIELD).await?;
    // The prompts are tokens now; what they were received in is gone.
    drop(share);
    answer.begin(&handles);
    let mut term = Term::new(app, handles.iter().map(RequestHandle::progress).collect());
    let tally = Tally::new(choices);
    match delivery {
        Delivery::Whole => {
            let (outputs, tally) = tokio::select! {
                collected = collect_all(handles, tally, &answer.heading().id) => collected?,
                error = term.over() => return Err(error),
            };
            Ok(Json(answer.whole(outputs, tally.usage())).into_response())
        }
        Delivery::Stream(usage) => {
            let end = stream::End { usage, tally };
            let stream = AnswerStream::new(answer, handles, (term, end));
            let ping = KeepAlive::new().interval(app.limits.stream_ping_interval);
            Ok(Sse::new(stream).keep_alive(ping).into_response())
        }
    }
}

/// Waits for all alternatives. Dropping the future cancels those that still run.
async fn collect_all(
    handles: Vec<RequestHandle>,
    mut tally: Tally,
    id: &str,
) -> Result<(Vec<Output>, Tally), ApiError> {
    let mut outputs = Vec::with_capacity(handles.len());
    for (index, handle) in handles.into_iter().enumerate() {
        let output = collect(handle, id).await?;
        tally.add(index, &output.finished);
        outputs.push(output);
    }
    Ok((outputs, tally))
}

/// The caller's stop condition that matched, on the wire.
fn stop_reason(finished: &Finished) -> Option<StopReason> {
    finished
        .stopped_by
        .as_ref()
        .map(|stopped_by| match stopped_by {
            StoppedBy::Text(text) => StopReason::Text(text.clone()),
            StoppedBy::Token(token) => StopReason::Token(token.0),
        })
}

/// Bytes as text, each byte that is not UTF-8 marked.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where token texts come from: the model that answers, which stays loaded as long as this lives.
#[derive(Clone, Debug)]
struct Vocabulary(Served);

impl Vocabulary {
    fn bytes(&self, token: kvist_base::TokenId) -> Vec<u8> {
        self.0.engine.token_bytes(token)
    }
}
