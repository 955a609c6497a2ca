//! OpenAI wire types, validation, SSE, metrics. The only room that knows HTTP.
//!
//! One request, file by file: `body` receives it within bounds, `wire` reads its JSON, `validate`
//! turns what was sent into what was meant, `generate` hands it to the engine, `answer` words what
//! comes back. `routes` ties them together and `error` has everything that is answered instead.

mod answer;
mod auth;
mod body;
mod config;
mod error;
mod generate;
mod listener;
mod map;
mod metrics;
mod models;
mod page;
mod routes;
mod state;
mod validate;
mod wire;

use std::future::Future;
use std::io;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;

pub use config::{FairShare, HttpLimits, ServerConfig};
pub use models::Models;

use crate::listener::BoundedListener;
use crate::state::App;

/// The API over one engine or several, for embedding or for tests without sockets.
pub fn router(models: impl Into<Models>, config: ServerConfig) -> Router {
    routes::routes(App::new(models.into(), config))
}

/// Serves the API until `shutdown` resolves. Then the engines take nothing new, connections are no
/// longer accepted, and running answers are finished, for at most
/// [`drain_time_max`](HttpLimits::drain_time_max).
///
/// # Errors
/// When the listener cannot be served from.
pub async fn serve(
    listener: TcpListener,
    models: impl Into<Models>,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = BoundedListener::new(listener, &config.limits);
    let drain_time_max = config.limits.drain_time_max;
    let idle_unload = config.idle_unload;
    let app = App::new(models.into(), config);
    let idle = tokio::spawn(app.models.keep_unloading(idle_unload));
    let to_drain = app.clone();
    let (draining, drain_begun) = oneshot::channel();
    let drain = async move {
        shutdown.await;
        to_drain.models.drain();
        // Fails only when serving has ended, and then nobody needs to know.
        let _ = draining.send(());
    };
    let serving = axum::serve(listener, routes::routes(app)).with_graceful_shutdown(drain);
    let overtime = async {
        match drain_begun.await {
            Ok(()) => sleep(drain_time_max).await,
            // The sender went away with the server, whose own result is what counts.
            Err(_) => std::future::pending().await,
        }
    };
    let served = tokio::select! {
        served = async { serving.await } => served,
        () = overtime => {
            tracing::warn!(?drain_time_max, "requests are still running; stopping anyway");
            Ok(())
        }
    };
    idle.abort();
    served
}
