//! Which path does what.

use axum::Json;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use kvist_engine::EngineStatus;
use serde_json::{Value, json};
use tracing::Instrument as _;

use crate::answer::{ChatAnswer, CompletionAnswer, answer};
use crate::auth::{Caller, require_key};
use crate::body::{self, Received};
use crate::contain::contain;
use crate::dialects;
use crate::error::ApiError;
use crate::lifecycle::Phase;
use crate::map;
use crate::metrics;
use crate::models::{Member, Served};
use crate::origin::guard;
use crate::page;
use crate::state::{App, Ticket, is_sane_id, now_seconds};
use crate::validate::{self, Circumstances};
use crate::wire::chat::ChatCompletionRequest;
use crate::wire::completion::CompletionRequest;
use crate::wire::memory::{MemoryAnswer, MemoryRequest};
use crate::wire::models::{ModelCard, ModelList};
use crate::wire::read::read_request;
use crate::{openapi, probes, tokens};

/// Names fields that were sent and did nothing.
const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-kvist-ignored-fields");
/// Names a request in the log; taken from the client if it sends one.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Every route. Whatever is not listed in `open` needs a key, unknown paths included.
pub(crate) fn routes(app: App) -> Router {
    let open = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/ping", get(health).post(health))
        .merge(page::routes());
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/memory", get(memory).put(set_memory))
        .merge(map::routes())
        .route("/reset_prefix_cache", post(reset_prefix_cache))
        .route("/version", get(version))
        .route("/metrics", get(metrics_page))
        .merge(dialects::routes())
        .merge(tokens::routes())
        .merge(probes::guarded())
        .merge(openapi::routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), require_key));
    open.method_not_allowed_fallback(method_not_allowed)
        .merge(guarded)
        .layer(from_fn_with_state(app.clone(), contain))
        .layer(from_fn_with_state(app.clone(), guard))
        .layer(from_fn(dialects::word_errors))
        .layer(from_fn_with_state(app.clone(), name_request))
        .with_state(app)
}

async fn chat_completions(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Received { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<ChatCompletionRequest>(&bytes)?;
    drop(bytes);
    let model = received.body.generation.model.as_deref();
    let served = app.models.serve(model).await?;
    let mut call = validate::chat(received, circumstances(&app, &served, (ticket, caller)))?;
    let ignored = std::mem::take(&mut call.ignored);
    let words = ChatAnswer::new(&served, &call, ticket);
    let response = answer(&app, (served, call), words, share).await?;
    Ok(report_ignored(response, &ignored))
}

async fn completions(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Received { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<CompletionRequest>(&bytes)?;
    drop(bytes);
    let model = received.body.generation.model.as_deref();
    let served = app.models.serve(model).await?;
    let mut call = validate::completion(received, circumstances(&app, &served, (ticket, caller)))?;
    let ignored = std::mem::take(&mut call.ignored);
    let words = CompletionAnswer::new(&served, &call, ticket);
    let response = answer(&app, (served, call), words, share).await?;
    Ok(report_ignored(response, &ignored))
}

/// Who sent a guarded request.
pub(crate) fn caller(request: &Request) -> Caller {
    request.extensions().get().copied().unwrap_or_default()
}

pub(crate) fn circumstances<'a>(
    app: &'a App,
    served: &'a Served,
    (ticket, caller): (Ticket, Caller),
) -> Circumstances<'a> {
    Circumstances {
        limits: &app.limits,
        vocab_len: served.engine.info().vocab_len,
        seed: ticket.seed(),
        now_seconds: now_seconds(),
        caller,
        fair_share: app.fair_share,
        traits: served.engine.chat_traits(),
        parsers: app.parsers,
        output_default: app.output_default,
        unknown_fields: app.unknown_fields,
    }
}

/// Tells the client and the operator which fields did nothing.
pub(crate) fn report_ignored(mut response: Response, ignored: &[String]) -> Response {
    if ignored.is_empty() {
        return response;
    }
    let names = header_list(ignored);
    tracing::warn!(fields = %names, "request fields without effect");
    if let Ok(value) = HeaderValue::from_str(&names) {
        response.headers_mut().insert(IGNORED_FIELDS, value);
    }
    response
}

/// Names as a header value: printable ASCII, a few hundred bytes at most.
fn header_list(names: &[String]) -> String {
    const NAMES_MAX: usize = 16;
    const NAME_CHARS_MAX: usize = 64;
    let tame = |c: char| {
        if c.is_ascii_graphic() && c != ',' {
            c
        } else {
            '?'
        }
    };
    let mut list: Vec<String> = names
        .iter()
        .take(NAMES_MAX)
        .map(|name| name.chars().take(NAME_CHARS_MAX).map(tame).collect())
        .collect();
    if names.len() > NAMES_MAX {
        list.push("...".to_owned());
    }
    list.join(", ")
}

async fn models(State(app): State<App>) -> Json<ModelList> {
    let data = app
        .models
        .names()
        .map(|(name, member)| card(&app, name, member))
        .collect();
    Json(ModelList {
        object: "list",
        data,
    })
}

async fn model(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    let member = app.models.find(&id)?;
    Ok(Json(card(&app, &id, member)))
}

fn card(app: &App, name: &str, member: &Member) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: app.started_seconds(),
        owned_by: "kvist",
        root: member.root.clone(),
        parent: None,
        max_model_len: member.model_len,
    }
}

/// Where the bytes are.
async fn memory(State(app): State<App>) -> Json<MemoryAnswer> {
    Json(app.models.memory().into())
}

/// Changes what the process may hold, and says where the bytes are then.
async fn set_memory(
    State(app): State<App>,
    request: Request,
) -> Result<Json<MemoryAnswer>, ApiError> {
    let Received { bytes, .. } = body::receive(&app, request).await?;
    let budget = validate::budget(&read_request::<MemoryRequest>(&bytes)?)?;
    app.models.set_budget(budget).await?;
    Ok(memory(State(app)).await)
}

/// Forgets all cached prefixes. The path is vLLM's.
async fn reset_prefix_cache(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    app.models.reset_prefix_cache().await?;
    Ok(Json(json!({"status": "ok"})))
}

/// Whether the process is of any use: a supervisor restarts it otherwise.
async fn health(State(app): State<App>) -> Response {
    match app.models.status() {
        EngineStatus::Failed(_) => unavailable(ApiError::EngineStopped),
        EngineStatus::Ready | EngineStatus::Draining => match app.models.stalled() {
            Some(time) if time >= app.limits.step_time_max => {
                let seconds = time.as_secs();
                tracing::error!(seconds, "the engine has work and makes no step");
                unavailable(ApiError::Stalled { seconds })
            }
            _ => Json(json!({"status": "ok"})).into_response(),
        },
    }
}

/// Whether to send requests here.
async fn ready(State(app): State<App>) -> Response {
    match app.models.status() {
        EngineStatus::Ready if app.lifecycle.phase() != Phase::Serving => {
            ApiError::Draining.into_response()
        }
        EngineStatus::Ready => Json(json!({"status": "ready"})).into_response(),
        EngineStatus::Draining => ApiError::Draining.into_response(),
        EngineStatus::Failed(_) => unavailable(ApiError::EngineStopped),
    }
}

/// A probe wants 503 for everything that is not well.
fn unavailable(error: ApiError) -> Response {
    let mut response = error.into_response();
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

async fn version(State(app): State<App>) -> Response {
    Json(json!({"version": app.version})).into_response()
}

async fn metrics_page(State(app): State<App>) -> Response {
    let text = metrics::render(app.models.loaded(), &app.models.memory());
    ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response()
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    ApiError::UnknownRoute {
        method: method.to_string(),
        path: uri.path().to_owned(),
    }
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed {
        method: method.to_string(),
        path: uri.path().to_owned(),
    }
}

/// Every response carries an id: the client's own, if it is sane, or a new one.
async fn name_request(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = match request.headers().get(&REQUEST_ID) {
        Some(id) if is_sane_id(id.as_bytes()) => Some(id.clone()),
        _ => HeaderValue::from_str(&app.ticket().id("req")).ok(),
    };
    let span = tracing::error_span!("request", id = id.as_ref().and_then(|id| id.to_str().ok()));
    let mut response = next.run(request).instrument(span).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_names_cannot_break_a_header() {
        let names = ["plain", "a\r\nSet-Cookie: x", "é,", &"x".repeat(100)].map(str::to_owned);
        let expected = format!("plain, a??Set-Cookie:?x, ??, {}", "x".repeat(64));
        assert_eq!(header_list(&names), expected);
        assert!(header_list(&vec!["a".to_owned(); 17]).ends_with("a, ..."));
    }

    #[test]
    fn only_tame_ids_are_echoed() {
        assert!(is_sane_id(b"abc.DEF_1-2"));
        for id in [&b""[..], b"a b", b"a\"b", &[b'a'; 129]] {
            assert!(!is_sane_id(id));
        }
    }
}
