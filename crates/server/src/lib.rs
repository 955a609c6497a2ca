//! OpenAI wire types, validation, SSE, metrics. The only room that knows HTTP.
//!
//! One request, file by file: `body` receives it within bounds, `wire` reads its JSON, `validate`
//! turns what was sent into what was meant, `generate` hands it to the engine, `answer` words what
//! comes back. `routes` ties them together and `error` has everything that is answered instead.

mod answer;
mod auth;
mod body;
mod config;
mod connection;
mod contain;
mod dialects;
mod error;
mod front;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod generate;
mod lifecycle;
mod limits;
mod map;
mod metrics;
mod models;
mod openapi;
mod origin;
mod page;
mod probes;
mod routes;
mod state;
mod store;
mod term;
mod tls;
mod tokens;
mod validate;
mod wire;

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;

pub use config::{
    FairShare, HttpLimits, ParserChoice, Parsers, ServerConfig, TlsFiles, UnknownFields,
};
pub use limits::{EngineLimits, Limit, limits};
pub use models::Models;
pub use tls::TlsError;

use crate::front::Front;
use crate::state::App;
use crate::tls::Tls;

/// The API over one engine or several, for embedding or for tests without sockets.
pub fn router(models: impl Into<Models>, config: ServerConfig) -> Router {
    routes::routes(App::new(models.into(), config))
}

/// Whether certificate and key can be used, to be known before anything is loaded.
///
/// # Errors
/// Why not.
pub fn check_tls(files: &TlsFiles) -> Result<(), TlsError> {
    Tls::read(files.clone()).map(drop)
}

/// Serves the API until `shutdown` resolves. Then `/ready` says no; after
/// [`drain_delay`](HttpLimits::drain_delay) the engines take nothing new and what waits is turned
/// away; what runs is finished, for at most [`drain_time_max`](HttpLimits::drain_time_max), and what
/// is still not finished is told that it ends. An engine that fails ends serving too.
///
/// # Errors
/// When certificate and key cannot be used; see [`check_tls`].
pub async fn serve(
    listener: TcpListener,
    models: impl Into<Models>,
    mut config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let tls = config.tls.take().map(Tls::read).transpose();
    let tls = tls.map_err(io::Error::other)?.map(Arc::new);
    let idle_unload = config.idle_unload;
    let app = App::new(models.into(), config);
    let idle = tokio::spawn(app.models.keep_unloading(idle_unload));
    let fresh = tls.clone().map(|tls| tokio::spawn(tls.keep_fresh()));
    let router = routes::routes(app.clone());
    Front::new(listener, (app, router), tls).run(shutdown).await;
    idle.abort();
    if let Some(fresh) = fresh {
        fresh.abort();
    }
    Ok(())
}
