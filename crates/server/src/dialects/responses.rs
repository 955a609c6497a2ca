//! `POST /v1/responses` and `GET /v1/responses/{id}`.

use axum::Json;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};

use crate::answer::dialect::answer_in;
use crate::answer::responses::ResponseWords;
use crate::answer::turn::Reading;
use crate::body::{self, Received};
use crate::error::ApiError;
use crate::routes::{caller, circumstances, report_ignored};
use crate::state::App;
use crate::validate::{self, ResponsesCall};
use crate::wire::read::read_request;
use crate::wire::responses::{ResponseObject, ResponsesRequest};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/responses", post(respond))
        .route("/v1/responses/{id}", get(stored))
}

async fn respond(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Received { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<ResponsesRequest>(&bytes)?;
    drop(bytes);
    let before = match &received.body.previous_response_id {
        None => Vec::new(),
        Some(id) => {
            let found = app.responses.get(id, caller);
            let found = found.ok_or_else(|| ApiError::UnknownResponse {
                field: Some("previous_response_id"),
                given: id.clone(),
            })?;
            found.messages.clone()
        }
    };
    let served = app.models.serve(received.body.model.as_deref()).await?;
    let around = circumstances(&app, &served, (ticket, caller));
    let ResponsesCall {
        mut call,
        messages,
        echoed,
    } = validate::responses(received, before, around)?;
    let ignored = std::mem::take(&mut call.ignored);
    let reading = Reading::new(&call, ticket);
    let words = ResponseWords::new((&app, &served), (ticket, caller), (messages, echoed));
    let response = answer_in(&app, (served, call), (words, reading), share).await?;
    Ok(report_ignored(response, &ignored))
}

async fn stored(
    State(app): State<App>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<ResponseObject>, ApiError> {
    match app.responses.get(&id, caller(&request)) {
        Some(stored) => Ok(Json(stored.answer.clone())),
        None => Err(ApiError::UnknownResponse {
            field: None,
            given: id,
        }),
    }
}
