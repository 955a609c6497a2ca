//! Takes connections, serves HTTP on them, and stops without losing an answer.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kvist_engine::EngineStatus;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tower::Service as _;

use crate::connection::{Stream, Watch, Wire};
use crate::lifecycle::Phase;
use crate::state::App;
use crate::tls::Tls;

/// Pause after the system refused a connection, for want of files or memory.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);
/// How often it is asked whether the engine is still there.
const ENGINE_LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Time in which those who are cut off may take the news.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);

/// The listening server.
pub(crate) struct Front {
    listener: TcpListener,
    app: App,
    router: Router,
    tls: Option<Arc<Tls>>,
    places: Arc<Semaphore>,
}

/// Held by a connection that the end of serving has to wait for.
type Awaited = mpsc::Sender<Infallible>;

impl Front {
    pub(crate) fn new(
        listener: TcpListener,
        (app, router): (App, Router),
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let places = app.limits.connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            listener,
            app,
            router,
            tls,
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Serves until `shutdown` resolves or the engine fails; then leaves, drains and ends.
    pub(crate) async fn run(&self, shutdown: impl Future<Output = ()>) {
        let (awaited, mut all_gone) = mpsc::channel(1);
        let limits = &self.app.limits;
        let has_failed = tokio::select! {
            () = self.accept(Some(&awaited)) => false,
            () = shutdown => false,
            () = self.engine_fails() => true,
        };
        self.app.lifecycle.advance(Phase::Leaving);
        if !has_failed {
            let _ = timeout(limits.drain_delay, self.accept(Some(&awaited))).await;
        }
        self.app.models.drain();
        self.app.lifecycle.advance(Phase::Draining);
        drop(awaited);
        // Probes are still answered, and whoever comes now is told to go elsewhere.
        let drained = tokio::select! {
            () = self.accept(None) => Ok(None),
            gone = timeout(limits.drain_time_max, all_gone.recv()) => gone,
        };
        if drained.is_err() {
            let time_max = limits.drain_time_max;
            tracing::warn!(?time_max, "requests are still running; ending them");
            self.app.lifecycle.advance(Phase::Ending);
            let _ = timeout(FAREWELL_TIME_MAX, all_gone.recv()).await;
        }
    }

    async fn engine_fails(&self) {
        while !matches!(self.app.models.status(), EngineStatus::Failed(_)) {
            sleep(ENGINE_LOOK_INTERVAL).await;
        }
    }

    /// Takes connections, for ever.
    async fn accept(&self, awaited: Option<&Awaited>) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await;
            let place = place.expect("this semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, (place, awaited.cloned())),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "a connection cannot be accepted");
                    sleep(REFUSAL_PAUSE).await;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, held: (OwnedSemaphorePermit, Option<Awaited>)) {
        // Events of a stream are small and must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let (app, router, tls) = (self.app.clone(), self.router.clone(), self.tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, (app, router)).await,
                Some(tls) => {
                    let time_max = app.limits.header_time_max;
                    match timeout(time_max, tls.accept(stream)).await {
                        Ok(Ok(stream)) => serve(stream, (app, router)).await,
                        Ok(Err(error)) => tracing::debug!(%error, "no TLS with this client"),
                        Err(_) => tracing::debug!("a client was too slow to agree on TLS"),
                    }
                }
            }
            drop(held);
        });
    }
}

/// The client went away before it was let in.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionRefused | K::ConnectionAborted | K::ConnectionReset | K::Interrupted
    )
}

/// Serves one connection to its end.
async fn serve(stream: impl Stream, (app, router): (App, Router)) {
    let limits = &app.limits;
    let watch = Watch::new();
    let wire = TokioIo::new(Wire::new(stream, watch.clone(), limits));
    let service = service_fn(move |request| {
        let in_service = watch.begin();
        // A router is always ready.
        let response = router.clone().call(request);
        async move {
            response
                .await
                .map(|response| in_service.until_sent(response))
        }
    });
    let is_late = app.lifecycle.phase() >= Phase::Draining;
    let serving = Builder::new()
        .keep_alive(!is_late)
        .max_headers(limits.headers_max)
        .max_header_size(limits.header_bytes_max)
        // The wire watches the time itself, and answers.
        .header_read_timeout(None)
        .serve_connection(wire, service);
    let mut serving = pin!(serving);
    let served = if is_late {
        serving.await
    } else {
        tokio::select! {
            served = serving.as_mut() => served,
            () = app.lifecycle.reached(Phase::Draining) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
