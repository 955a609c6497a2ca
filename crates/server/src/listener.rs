//! Accepts connections within bounds.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::config::HttpLimits;

/// A listener that keeps at most `connections_max` connections open; the rest wait in the system's
/// queue.
pub(crate) struct BoundedListener {
    inner: TcpListener,
    places: Arc<Semaphore>,
    stall_time_max: Duration,
}

impl BoundedListener {
    pub(crate) fn new(inner: TcpListener, limits: &HttpLimits) -> Self {
        let places = limits.connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            inner,
            places: Arc::new(Semaphore::new(places)),
            stall_time_max: limits.stall_time_max,
        }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("this semaphore is never closed");
        // The trait's own implementation waits out errors such as too many open files.
        let (stream, address) = Listener::accept(&mut self.inner).await;
        // Events of a stream are small and must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        (Connection::new(stream, place, self.stall_time_max), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that fails when its client does not read for too long: dropping it cancels the
/// request whose answer nobody takes.
pub(crate) struct Connection {
    stream: TcpStream,
    stall_time_max: Duration,
    /// Runs while a write is waiting.
    stall: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, stall_time_max: Duration) -> Self {
        Self {
            stream,
            stall_time_max,
            stall: None,
            _place: place,
        }
    }

    /// Passes a write's result on, and watches the time while it is pending.
    fn watch<T>(
        &mut self,
        write: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stall = None;
            return write;
        }
        let time_max = self.stall_time_max;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(time_max)));
        ready!(stall.as_mut().poll(context));
        tracing::info!("closing a connection whose client stopped reading");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(write, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(write, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(flush, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(shutdown, context)
    }
}
