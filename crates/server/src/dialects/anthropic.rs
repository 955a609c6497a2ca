//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;

use crate::answer::anthropic::MessageWords;
use crate::answer::dialect::answer_in;
use crate::answer::turn::Reading;
use crate::body::{self, Received};
use crate::error::ApiError;
use crate::generate::count_tokens;
use crate::routes::{caller, circumstances, report_ignored};
use crate::state::App;
use crate::validate;
use crate::wire::anthropic::{MessagesRequest, TokenCount};
use crate::wire::read::read_request;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count))
}

async fn messages(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Received { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<MessagesRequest>(&bytes)?;
    drop(bytes);
    let served = app.models.serve(received.body.model.as_deref()).await?;
    let around = circumstances(&app, &served, (ticket, caller));
    let mut call = validate::messages(received, around)?;
    let ignored = std::mem::take(&mut call.ignored);
    let words = MessageWords::new(&served, ticket);
    let reading = Reading::new(&call, ticket);
    let response = answer_in(&app, (served, call), (words, reading), share).await?;
    Ok(report_ignored(response, &ignored))
}

async fn count(State(app): State<App>, request: Request) -> Result<Json<TokenCount>, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Received { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<MessagesRequest>(&bytes)?;
    drop(bytes);
    let served = app.models.serve(received.body.model.as_deref()).await?;
    let around = circumstances(&app, &served, (ticket, caller));
    let prompt = validate::counted_messages(received, around)?;
    let counted = count_tokens(&app, &served, prompt, "messages").await?;
    drop(share);
    Ok(Json(TokenCount {
        input_tokens: u64::from(counted.0),
    }))
}
