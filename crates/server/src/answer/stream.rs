//! An answer as server-sent events.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::response::sse::Event;
use futures_core::Stream;
use kvist_engine::{RequestHandle, StreamEvent};

use super::prompt::ScoreShare;
use super::{Answer, EventResult};
use crate::error::ApiError;
use crate::generate::Tally;
use crate::term::Term;
use crate::validate::StreamUsage;
use crate::wire::common::Usage;

/// What a stream ends with.
pub(super) struct End {
    pub(super) usage: StreamUsage,
    pub(super) tally: Tally,
    /// Held as long as log-probabilities of prompts may be waiting here.
    pub(super) _scores: ScoreShare,
}

/// Pieces of all alternatives as they come, then usage if asked for, then `[DONE]`.
///
/// A fault, or the end of its time, ends the stream with an error object and without `[DONE]`, which is how OpenAI's clients
/// tell a broken answer from a whole one. Dropping the stream cancels what is still running.
pub(super) struct AnswerStream<A> {
    answer: A,
    alternatives: Vec<Alternative>,
    /// What each alternative has taken so far.
    so_far: Vec<Usage>,
    ready: VecDeque<EventResult>,
    term: Term,
    end: End,
    state: State,
}

/// One alternative.
enum Alternative {
    /// Nothing came yet.
    Silent(RequestHandle),
    /// Its opening was sent.
    Open(RequestHandle),
    /// Its end was sent.
    Ended,
}

#[derive(PartialEq, Eq)]
enum State {
    /// Alternatives are running.
    Running,
    /// All that will be sent is in `ready`.
    Closed,
}

impl<A: Answer> AnswerStream<A> {
    pub(super) fn new(answer: A, handles: Vec<RequestHandle>, (term, end): (Term, End)) -> Self {
        let so_far = handles.iter().map(|handle| {
            let prompt_tokens = u64::from(handle.prompt_len().0);
            Usage {
                prompt_tokens,
                total_tokens: prompt_tokens,
                ..Usage::default()
            }
        });
        Self {
            so_far: so_far.collect(),
            answer,
            alternatives: handles.into_iter().map(Alternative::Silent).collect(),
            ready: VecDeque::new(),
            term,
            end,
            state: State::Running,
        }
    }

    /// Takes what every alternative has to say now; each will wake the task when it has more.
    fn gather(&mut self, context: &mut Context<'_>) {
        for index in 0..self.alternatives.len() {
            while let Alternative::Silent(handle) | Alternative::Open(handle) =
                &mut self.alternatives[index]
            {
                let Poll::Ready(event) = handle.poll_next(context) else {
                    break;
                };
                self.take(index, event);
            }
        }
        if self.state == State::Running
            && self
                .alternatives
                .iter()
                .all(|each| matches!(each, Alternative::Ended))
        {
            self.close();
        }
    }

    fn take(&mut self, index: usize, event: Option<StreamEvent>) {
        match event {
            Some(StreamEvent::Delta(delta)) => {
                self.open(index);
                self.grow(index, delta.tokens.len() as u64);
                self.ready.extend(self.answer.delta(index, delta));
            }
            Some(StreamEvent::Finished(finished)) => {
                self.open(index);
                self.grow(index, 0);
                self.end.tally.add(index, &finished);
                self.ready.extend(self.answer.end(index, &finished));
                self.alternatives[index] = Alternative::Ended;
            }
            Some(StreamEvent::Failed(fault)) => {
                self.fail(&ApiError::failed(&self.answer.heading().id, Some(&fault)));
            }
            None => self.fail(&ApiError::failed(&self.answer.heading().id, None)),
        }
    }

    /// Says in the heading what an alternative has taken, with these tokens more.
    fn grow(&mut self, index: usize, tokens: u64) {
        let usage = &mut self.so_far[index];
        usage.completion_tokens += tokens;
        usage.total_tokens += tokens;
        self.answer.heading_mut().so_far = Some(*usage);
    }

    /// Sends the opening of an alternative before its first event.
    fn open(&mut self, index: usize) {
        let alternative = &mut self.alternatives[index];
        match std::mem::replace(alternative, Alternative::Ended) {
            Alternative::Silent(handle) => {
                *alternative = Alternative::Open(handle);
                self.grow(index, 0);
                self.ready.extend(self.answer.opening(index));
            }
            other => *alternative = other,
        }
    }

    fn close(&mut self) {
        if self.end.usage != StreamUsage::Omit {
            self.ready
                .push_back(self.answer.usage(self.end.tally.usage()));
        }
        self.ready.push_back(Ok(Event::default().data("[DONE]")));
        self.state = State::Closed;
    }

    fn fail(&mut self, error: &ApiError) {
        // Dropping the handles cancels the alternatives that still run.
        self.alternatives.fill_with(|| Alternative::Ended);
        self.ready
            .push_back(Event::default().json_data(error.body()));
        self.state = State::Closed;
    }
}

impl<A: Answer> Stream for AnswerStream<A> {
    type Item = EventResult;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<EventResult>> {
        let this = self.get_mut();
        if this.ready.is_empty() && this.state == State::Running {
            this.gather(context);
        }
        // What is ready is sent first: a client that reads slowly still gets all there was.
        if this.ready.is_empty()
            && this.state == State::Running
            && let Poll::Ready(error) = this.term.poll(context)
        {
            this.fail(&error);
        }
        match this.ready.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if this.state == State::Closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
