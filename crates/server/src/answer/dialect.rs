//! Answers of the dialects that word one alternative in pieces of their own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use kvist_base::Tokens;
use kvist_engine::{Finished, RequestHandle, StreamEvent};
use serde::Serialize;

use super::turn::{Ending, Reading, Said, Turn};
use crate::body::BodyShare;
use crate::error::ApiError;
use crate::generate::{collect, submit};
use crate::models::Served;
use crate::state::App;
use crate::validate::{Call, Delivery};

/// How a dialect words an answer.
pub(crate) trait Dialect: Send + Unpin + 'static {
    /// The request field that holds the prompt.
    const PROMPT_FIELD: &'static str;
    /// A piece of a stream.
    type Frame: Send + Unpin + 'static;
    /// What a whole answer is.
    type Whole: Serialize;

    /// The name under which a fault is logged.
    fn id(&self) -> &str;
    /// The answer begins, after a prompt of this length.
    fn begin(&mut self, prompt: Tokens, frames: &mut Frames<Self::Frame>);
    /// More of the answer.
    fn say(&mut self, said: Said, frames: &mut Frames<Self::Frame>);
    /// The answer is complete.
    fn end(&mut self, end: &End, frames: &mut Frames<Self::Frame>);
    /// The answer will not be completed.
    fn fail(&mut self, error: &ApiError, frames: &mut Frames<Self::Frame>);
    /// All of it at once.
    fn whole(self, said: Vec<Said>, end: &End) -> Self::Whole;
    /// A response that sends frames as they come.
    fn stream(app: &App, frames: DialectStream<Self>) -> Response
    where
        Self: Sized;
}

/// Pieces of a stream, in order.
pub(crate) type Frames<F> = VecDeque<Result<F, axum::Error>>;

/// How an answer ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) ending: Ending,
    pub(crate) finished: Finished,
    pub(crate) reasoning_tokens: u64,
    pub(crate) times: Times,
}

/// How long an answer took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    begun: Instant,
    first: Option<Instant>,
}

impl Times {
    fn start() -> Self {
        Self {
            begun: Instant::now(),
            first: None,
        }
    }

    /// Until now; until the first token; from there until now.
    pub(crate) fn passed(&self) -> (Duration, Duration, Duration) {
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        (now - self.begun, first - self.begun, now - first)
    }
}

impl End {
    fn of(turn: &Turn, finished: Finished, times: Times) -> Self {
        Self {
            ending: turn.ending(&finished),
            finished,
            reasoning_tokens: turn.reasoning_tokens(),
            times,
        }
    }
}

/// Runs a call for one alternative, and answers it in a dialect. As [`answer`](super::answer).
pub(crate) async fn answer_in<D: Dialect>(
    app: &App,
    (served, call): (Served, Call),
    (mut dialect, reading): (D, Reading),
    share: BodyShare,
) -> Result<Response, ApiError> {
    let delivery = call.delivery;
    let mut times = Times::start();
    let mut handles = submit(app, (&served, call), D::PROMPT_FIELD).await?;
    drop(share);
    let handle = handles.pop().ok_or(ApiError::EngineStopped)?;
    let mut turn = reading.turn(0, &handle);
    match delivery {
        Delivery::Whole => {
            let mut frames = Frames::new();
            dialect.begin(handle.prompt_len(), &mut frames);
            let output = collect(handle, dialect.id()).await?;
            times.first = output.first_at;
            let said = turn.take_all(&output);
            let end = End::of(&turn, output.finished, times);
            Ok(Json(dialect.whole(said, &end)).into_response())
        }
        Delivery::Stream(_) => {
            let mut frames = Frames::new();
            dialect.begin(handle.prompt_len(), &mut frames);
            let stream = DialectStream {
                dialect,
                state: State::Running(handle),
                _served: served,
                turn,
                frames,
                times,
            };
            Ok(D::stream(app, stream))
        }
    }
}

/// One answer in a dialect's pieces. Dropping it cancels the request.
pub(crate) struct DialectStream<D: Dialect> {
    dialect: D,
    state: State,
    turn: Turn,
    frames: Frames<D::Frame>,
    times: Times,
    /// The model stays loaded as long as it answers.
    _served: Served,
}

enum State {
    Running(RequestHandle),
    /// All that will be sent is in `frames`.
    Closed,
}

impl<D: Dialect> DialectStream<D> {
    fn gather(&mut self, context: &mut Context<'_>) {
        while let State::Running(handle) = &mut self.state {
            let Poll::Ready(event) = handle.poll_next(context) else {
                return;
            };
            self.take(event);
        }
    }

    fn take(&mut self, event: Option<StreamEvent>) {
        match event {
            Some(StreamEvent::Delta(delta)) => {
                self.times.first.get_or_insert_with(Instant::now);
                let said = self.turn.take(&delta);
                self.say(said);
            }
            Some(StreamEvent::Finished(finished)) => {
                let said = self.turn.finish();
                self.say(said);
                let end = End::of(&self.turn, finished, self.times);
                self.dialect.end(&end, &mut self.frames);
                self.state = State::Closed;
            }
            Some(StreamEvent::Failed(fault)) => {
                self.fail(&ApiError::failed(self.dialect.id(), Some(&fault)));
            }
            None => self.fail(&ApiError::failed(self.dialect.id(), None)),
        }
    }

    fn say(&mut self, said: Vec<Said>) {
        for each in said {
            self.dialect.say(each, &mut self.frames);
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.dialect.fail(error, &mut self.frames);
        self.state = State::Closed;
    }
}

impl<D: Dialect> Stream for DialectStream<D> {
    type Item = Result<D::Frame, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.frames.is_empty() {
            this.gather(context);
        }
        match (this.frames.pop_front(), &this.state) {
            (Some(frame), _) => Poll::Ready(Some(frame)),
            (None, State::Closed) => Poll::Ready(None),
            (None, State::Running(..)) => Poll::Pending,
        }
    }
}
