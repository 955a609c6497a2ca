//! Routes of the APIs beside OpenAI's chat and completions, and how they word errors.

mod anthropic;
mod ollama;
mod responses;

use axum::Json;
use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::Told;
use crate::state::App;

/// All of them; the caller puts them behind the key check.
pub(crate) fn routes() -> Router<App> {
    anthropic::routes()
        .merge(ollama::routes())
        .merge(responses::routes())
}

/// Words an error the way the client of this path reads it.
pub(crate) async fn word_errors(request: Request, next: Next) -> Response {
    let word: fn(&Told) -> Value = match request.uri().path() {
        path if path.starts_with("/v1/messages") => anthropic_error,
        path if path.starts_with("/api/") => ollama_error,
        _ => return next.run(request).await,
    };
    let response = next.run(request).await;
    let Some(told) = response.extensions().get::<Told>() else {
        return response;
    };
    let body = Json(word(told)).into_response().into_body();
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}

/// `{"error": …}`.
fn ollama_error(told: &Told) -> Value {
    json!({"error": told.message})
}

/// `{"type": "error", "error": {"type": …, "message": …}}`.
pub(crate) fn anthropic_error(told: &Told) -> Value {
    let kind = match told.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": told.message}})
}
