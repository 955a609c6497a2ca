//! What fuzz targets need of this room: its reader of requests and its writer of streams, without an
//! engine. Compiled with the feature `fuzzing` only.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use axum::body::HttpBody as _;
use axum::response::IntoResponse as _;
use axum::response::sse::{Event, Sse};
use futures_core::Stream;
use kvist_engine::{ChatTraits, ToolFormat};
use serde_json::{Value, json};

use crate::auth::Caller;
use crate::config::{FairShare, HttpLimits, Parsers, UnknownFields};
use crate::error::ApiError;
use crate::validate::{self, Circumstances};
use crate::wire::read::{WireObject, read_request};

/// Endpoints that read a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/completions`.
    Completion,
    /// `PUT /v1/memory`.
    Memory,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Completion, Self::Memory];
}

/// Reads and checks a body as the endpoint does.
///
/// # Errors
/// Status and body of the answer instead.
pub fn check(endpoint: Endpoint, body: &[u8]) -> Result<(), (u16, Value)> {
    let limits = HttpLimits::default();
    // A template that knows of everything, so that everything is checked.
    let traits = ChatTraits {
        tools: Some(ToolFormat::Hermes),
        ..ChatTraits::default()
    };
    let around = Circumstances {
        limits: &limits,
        vocab_len: 512,
        seed: 1,
        now_seconds: 0,
        caller: Caller::default(),
        fair_share: FairShare::Off,
        traits: Some(&traits),
        parsers: Parsers::default(),
        output_default: None,
        unknown_fields: UnknownFields::Report,
    };
    let checked = match endpoint {
        Endpoint::Chat => reading(body, |received| validate::chat(received, around).map(drop)),
        Endpoint::Completion => reading(body, |received| {
            validate::completion(received, around).map(drop)
        }),
        Endpoint::Memory => reading(body, |received| validate::budget(&received).map(drop)),
    };
    checked.map_err(|error| {
        let body = serde_json::to_value(error.body()).unwrap_or_default();
        (error.into_response().status().as_u16(), body)
    })
}

fn reading<T: WireObject>(
    body: &[u8],
    check: impl FnOnce(crate::wire::read::Received<T>) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    check(read_request(body)?)
}

/// Events that are there already.
struct Ready(std::vec::IntoIter<Event>);

impl Stream for Ready {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

/// The bytes of a stream whose events bring these texts.
///
/// # Panics
/// Never, unless a text cannot be written as JSON.
pub fn stream_of(texts: &[String]) -> Vec<u8> {
    let event = |text: &String| {
        let delta = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
        let event = Event::default().json_data(delta);
        event.expect("a string can be written as JSON")
    };
    let mut events: Vec<Event> = texts.iter().map(event).collect();
    events.push(Event::default().data("[DONE]"));
    let mut body = Sse::new(Ready(events.into_iter()))
        .into_response()
        .into_body();
    let mut bytes = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
        bytes.extend(frame.into_data().unwrap_or_default());
    }
    bytes
}
