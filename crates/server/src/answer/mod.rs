//! The two shapes an answer has, each whole and in pieces.

pub(crate) mod anthropic;
mod chat;
mod completion;
pub(crate) mod dialect;
pub(crate) mod ollama;
mod prompt;
pub(crate) mod responses;
mod stream;
pub(crate) mod turn;

pub(crate) use chat::ChatAnswer;
pub(crate) use completion::CompletionAnswer;
pub(crate) use prompt::{REQUEST_SCORES_MAX, SCORES_MAX};

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use kvist_base::TokenId;
use kvist_engine::{Delta, Finished, RequestHandle, StoppedBy};
use serde::Serialize;

use self::stream::AnswerStream;
use crate::body::BodyShare;
use crate::error::ApiError;
use crate::generate::{Output, Tally, collect, likeliest, submit};
use crate::models::Served;
use crate::state::{App, Ticket, now_seconds};
use crate::term::Term;
use crate::validate::{Call, Delivery, Spelling, StreamUsage};
use crate::wire::common::{StopReason, Usage};

/// How one endpoint words its answers.
pub(crate) trait Answer: Send + Unpin + 'static {
    /// The request field that holds the prompt.
    const PROMPT_FIELD: &'static str;
    /// What a whole answer is.
    type Whole: Serialize;

    /// The call has become these requests, in order: nothing has come of them yet.
    fn begin(&mut self, handles: &[RequestHandle]);
    /// What is the same in all pieces.
    fn heading(&self) -> &Heading;
    /// The same, to be kept up to date.
    fn heading_mut(&mut self) -> &mut Heading;
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
    pub(crate) fingerprint: String,
    usage: StreamUsage,
    /// What the alternative that speaks has taken so far, where that is told.
    so_far: Option<Usage>,
}

impl Heading {
    pub(crate) fn new(
        served: &Served,
        call: &Call,
        (ticket, prefix): (Ticket, &'static str),
    ) -> Self {
        let plain = Self::plain(served, ticket, prefix);
        Self {
            id: match &call.told.request_id {
                Some(id) => format!("{prefix}-{id}"),
                None => plain.id,
            },
            usage: match call.delivery {
                Delivery::Whole => StreamUsage::Omit,
                Delivery::Stream(usage) => usage,
            },
            ..plain
        }
    }

    /// Of a dialect that has its own way to tell what was taken.
    pub(crate) fn plain(served: &Served, ticket: Ticket, prefix: &str) -> Self {
        Self {
            id: ticket.id(prefix),
            created: now_seconds(),
            model: served.name.clone(),
            fingerprint: fingerprint(served),
            usage: StreamUsage::Omit,
            so_far: None,
        }
    }

    /// The usage a piece carries; `total` in the last one. Left out where nobody asked.
    fn piece_usage(&self, total: Option<Usage>) -> Option<Option<Usage>> {
        match self.usage {
            StreamUsage::Omit => None,
            StreamUsage::Include => Some(total),
            StreamUsage::Continuous => Some(total.or(self.so_far)),
        }
    }
}

/// Stands for all that outputs depend on beside requests: equal seeds give equal outputs where it is
/// the same.
pub(crate) fn fingerprint(served: &Served) -> String {
    format!("kvist-{}", served.engine.info().fingerprint)
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
        delivery,
        choices,
        kept,
        ..
    } = call;
    let scored = call.settings.prompt_options.logprobs;
    let handles = submit(app, (&served, call), A::PROMPT_FIELD).await?;
    let scores = prompt::share(app, &handles, scored)?;
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
            let outputs = likeliest(outputs, (choices, kept));
            Ok(Json(answer.whole(outputs, tally.usage())).into_response())
        }
        Delivery::Stream(usage) => {
            let end = stream::End {
                usage,
                tally,
                _scores: scores,
            };
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
struct Vocabulary {
    served: Served,
    spelling: Spelling,
}

impl Vocabulary {
    fn new(served: &Served, call: &Call) -> Self {
        Self {
            served: served.clone(),
            spelling: call.told.spelling,
        }
    }

    fn bytes(&self, token: TokenId) -> Vec<u8> {
        self.served.engine.token_bytes(token)
    }

    /// What tokens spell, each byte that is not UTF-8 marked.
    fn text(&self, tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes(*token)).collect();
        lossy(&bytes)
    }

    /// A token as log-probabilities name it; `text` is its own way to be written.
    fn name(&self, token: TokenId, text: impl FnOnce() -> String) -> String {
        match self.spelling {
            Spelling::Text => text(),
            Spelling::Ids => format!("token_id:{token}"),
        }
    }
}

/// Token ids on the wire.
fn ids(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}
