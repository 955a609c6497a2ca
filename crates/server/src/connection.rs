//! A connection that gives up on clients who send or read too slowly.
//!
//! ```text
//!            first byte            headers complete          answer sent
//! Idle ────────────────────► Head ──────────────────► Serving ──────────► Idle
//!   │ idle_time_max            │ header_time_max         │ a write waits stall_time_max
//!   ▼                          ▼                         ▼
//! closed                      408, closed               closed: its request is cancelled
//! ```

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::config::HttpLimits;

/// Bytes to and from a client, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Nothing, since then.
    Idle(Instant),
    /// Sending headers, since then.
    Head(Instant),
    /// Waiting for its answer or taking it.
    Serving,
}

#[derive(Debug)]
struct State {
    doing: Doing,
    /// Who reads, to be woken when there is another time to watch.
    reader: Option<Waker>,
}

/// What a connection and the requests on it tell each other.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<Mutex<State>>);

impl Watch {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            doing: Doing::Idle(Instant::now()),
            reader: None,
        })))
    }

    /// Critical sections copy and assign: a panic leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's headers are complete. It is over when the guard, or the body that takes it along,
    /// is dropped.
    pub(crate) fn begin(&self) -> InService {
        self.lock().doing = Doing::Serving;
        InService(self.clone())
    }
}

/// A request being served.
#[derive(Debug)]
pub(crate) struct InService(Watch);

impl InService {
    /// Holds on until the response is sent.
    pub(crate) fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(Sending { body, _until: self }))
    }
}

impl Drop for InService {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.doing = Doing::Idle(Instant::now());
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A response's body, and what is to be dropped with it.
struct Sending {
    body: Body,
    _until: InService,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The wire of a connection. It fails when its time is up, and with it all that was asked for over it.
pub(crate) struct Wire<S> {
    stream: S,
    watch: Watch,
    times: Times,
    /// Runs while the client is expected to send.
    read_timer: Pin<Box<Sleep>>,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    idle: Duration,
    head: Duration,
    stall: Duration,
}

/// What a client reads whose headers did not come. Nothing is known of it but that it speaks HTTP.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 127\r\n\r\n\
    {\"error\":{\"message\":\"the request headers did not arrive in time\",\"type\":\"timeout_error\",\
    \"param\":null,\"code\":\"request_timeout\"}}";

impl<S: Stream> Wire<S> {
    pub(crate) fn new(stream: S, watch: Watch, limits: &HttpLimits) -> Self {
        Self {
            stream,
            watch,
            times: Times {
                idle: limits.idle_time_max,
                head: limits.header_time_max,
                stall: limits.stall_time_max,
            },
            read_timer: Box::pin(sleep(limits.idle_time_max)),
            stall: None,
        }
    }

    /// The client has sent nothing yet that it should send. `Ready` when it had its time.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.watch.lock();
        state.reader = Some(context.waker().clone());
        let doing = state.doing;
        drop(state);
        let until = match doing {
            Doing::Serving => return Poll::Pending,
            Doing::Idle(since) => since + self.times.idle,
            Doing::Head(since) => since + self.times.head,
        };
        if self.read_timer.deadline() != until {
            self.read_timer.set(sleep_until(until));
        }
        ready!(self.read_timer.as_mut().poll(context));
        if matches!(doing, Doing::Idle(_)) {
            // As if the client had closed an idle connection.
            return Poll::Ready(Ok(()));
        }
        tracing::debug!("closing a connection whose client sends headers too slowly");
        // A few bytes that the system's empty buffer takes at once; if not, the client is past help.
        let _ = Pin::new(&mut self.stream).poll_write(context, TOO_SLOW);
        let _ = Pin::new(&mut self.stream).poll_flush(context);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Passes a write's result on, and watches the time while it is pending.
    fn watch_write<T>(
        &mut self,
        write: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stall = None;
            return write;
        }
        let time_max = self.times.stall;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(time_max)));
        ready!(stall.as_mut().poll(context));
        tracing::info!("closing a connection whose client stopped reading");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: Stream> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            return self.poll_patience(context);
        }
        if buffer.filled().len() > before {
            let mut state = self.watch.lock();
            if matches!(state.doing, Doing::Idle(_)) {
                state.doing = Doing::Head(Instant::now());
            }
        }
        read
    }
}

impl<S: Stream> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch_write(write, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch_write(write, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(context);
        self.watch_write(flush, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch_write(shutdown, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_408_is_whole() {
        let text = std::str::from_utf8(TOO_SLOW).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "request_timeout");
    }
}
