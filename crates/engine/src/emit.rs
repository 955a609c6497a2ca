//! The engine's end of a client's event channel, and the client's.
//!
//! A list behind a lock with a waker: no async runtime is known here, and both an async server and
//! a blocking caller can wait on it. The queue is bounded by construction: a sequence emits at most
//! one event a token and one at its end, so a request can hold `output_max + 1` events and no more.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use kvist_base::{FinishReason, TokenId, Tokens};
use kvist_sample::{Scored, TokenLogprob};

use crate::error::EngineFault;

/// One thing that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// Output grew.
    Delta(Delta),
    /// The output is complete. Nothing follows.
    Finished(Finished),
    /// The engine failed this request. Nothing follows.
    Failed(EngineFault),
}

/// A piece of output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// New text; empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// The tokens behind it, in order.
    pub tokens: Vec<TokenId>,
    /// For each of them, bytes of the text that became certain with it.
    pub text_lens: Vec<usize>,
    /// One entry a token when the request asked for log-probabilities, else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// When the request asked for log-probabilities of its prompt: those of the next of its tokens, the
    /// second one first. All of them come before any output.
    pub prompt_logprobs: Vec<Scored>,
}

/// Log-probabilities (natural log, of the unmodified distribution) at one output position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The chosen token.
    pub chosen: TokenLogprob,
    /// The most likely tokens, most likely first.
    pub top: Vec<TokenLogprob>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// The stop string or stop token that ended it, when it was not the model's own end token.
    pub stopped_by: Option<StoppedBy>,
    /// What it took.
    pub usage: Usage,
}

/// The caller's own stop condition that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoppedBy {
    /// A stop string.
    Text(String),
    /// A stop token.
    Token(TokenId),
}

/// Tokens a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: Tokens,
    /// Tokens produced.
    pub output: Tokens,
    /// Prompt tokens whose KV came from another sequence's blocks.
    pub prefix_hit: Tokens,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<StreamEvent>,
    waker: Option<Waker>,
    /// No event will be pushed any more.
    ended: bool,
    /// Nobody will read any more.
    abandoned: bool,
    /// A step has computed, or computes, something of the request.
    begun: bool,
}

#[derive(Debug, Default)]
struct Channel {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

impl Channel {
    /// A panicking holder leaves a queue that is still whole: every critical section is one push or pop.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let waker = queue.waker.take();
        drop(queue);
        self.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connected pair.
pub(crate) fn channel() -> (Emitter, EventStream) {
    let channel = Arc::new(Channel::default());
    (
        Emitter {
            channel: Arc::clone(&channel),
        },
        EventStream { channel },
    )
}

/// The engine's end. Dropping it without a final event tells the reader that the engine is gone.
#[derive(Debug)]
pub(crate) struct Emitter {
    channel: Arc<Channel>,
}

impl Emitter {
    /// Whether the reader has gone; its sequence should be cancelled.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.channel.lock().abandoned
    }

    /// Notes that a step is about to compute something of the request.
    pub(crate) fn begin(&self) {
        self.channel.lock().begun = true;
    }

    /// Appends an event. Text of a delta whose predecessor is still unread joins it, so a slow
    /// reader costs one growing event rather than one a token.
    pub(crate) fn emit(&self, event: StreamEvent) {
        let mut queue = self.channel.lock();
        if queue.abandoned {
            return;
        }
        match (queue.events.back_mut(), event) {
            (Some(StreamEvent::Delta(last)), StreamEvent::Delta(next)) => {
                last.text.push_str(&next.text);
                last.tokens.extend(next.tokens);
                last.text_lens.extend(next.text_lens);
                last.logprobs.extend(next.logprobs);
                last.prompt_logprobs.extend(next.prompt_logprobs);
            }
            (_, event) => queue.events.push_back(event),
        }
        self.channel.wake(queue);
    }
}

impl Drop for Emitter {
    fn drop(&mut self) {
        let mut queue = self.channel.lock();
        queue.ended = true;
        self.channel.wake(queue);
    }
}

/// The caller's end. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct EventStream {
    channel: Arc<Channel>,
}

impl EventStream {
    pub(crate) fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.channel))
    }

    /// The next event, `None` after the last.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<StreamEvent>> {
        let mut queue = self.channel.lock();
        if let Some(event) = queue.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// The next event, waiting for it on this thread; `None` after the last.
    pub(crate) fn recv(&mut self) -> Option<StreamEvent> {
        let mut queue = self.channel.lock();
        loop {
            if let Some(event) = queue.events.pop_front() {
                return Some(event);
            }
            if queue.ended {
                return None;
            }
            queue = self
                .channel
                .arrived
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells how far a request is, whoever reads its events.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Channel>);

impl Progress {
    /// Whether the request has had its turn: a request that has not is waiting.
    pub fn has_begun(&self) -> bool {
        self.0.lock().begun
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let mut queue = self.channel.lock();
        queue.abandoned = true;
        queue.events.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> StreamEvent {
        StreamEvent::Delta(Delta {
            text: text.to_owned(),
            ..Delta::default()
        })
    }

    #[test]
    fn unread_deltas_join_and_the_end_follows_them() {
        let (emitter, mut stream) = channel();
        emitter.emit(text("ab"));
        emitter.emit(text("cd"));
        drop(emitter);
        assert_eq!(stream.recv(), Some(text("abcd")));
        assert_eq!(stream.recv(), None);
    }

    #[test]
    fn a_dropped_reader_is_seen_and_holds_nothing() {
        let (emitter, stream) = channel();
        assert!(!emitter.is_abandoned());
        drop(stream);
        assert!(emitter.is_abandoned());
        emitter.emit(text("nobody reads this"));
        assert!(emitter.channel.lock().events.is_empty());
    }

    #[test]
    fn a_reader_on_another_thread_wakes() {
        let (emitter, mut stream) = channel();
        let reader = std::thread::spawn(move || {
            let mut seen = String::new();
            while let Some(StreamEvent::Delta(delta)) = stream.recv() {
                seen.push_str(&delta.text);
            }
            seen
        });
        for piece in ["one ", "two ", "three"] {
            emitter.emit(text(piece));
        }
        drop(emitter);
        assert_eq!(
            reader.join().expect("the reader does not panic"),
            "one two three"
        );
    }

    #[test]
    fn polling_registers_a_waker_and_yields_in_order() {
        let (emitter, mut stream) = channel();
        let mut context = Context::from_waker(Waker::noop());
        assert!(stream.poll_next(&mut context).is_pending());
        emitter.emit(text("x"));
        assert_eq!(stream.poll_next(&mut context), Poll::Ready(Some(text("x"))));
        drop(emitter);
        assert_eq!(stream.poll_next(&mut context), Poll::Ready(None));
    }
}
