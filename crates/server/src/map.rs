//! What the memory map shows beside `/v1/memory`: blocks as they are, and plans as they could be.

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use kvist_engine::plan::Plan;

use crate::body::{self, Received};
use crate::error::ApiError;
use crate::state::App;
use crate::validate;
use crate::wire::map::MapAnswer;
use crate::wire::plan::PlanRequest;
use crate::wire::read::read_request;

/// The routes, all to be guarded.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/memory/blocks", get(blocks))
        .route("/v1/plan", post(plan))
}

/// Every block and every live sequence: of the first model, or the one the query names.
async fn blocks(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let model = request.uri().query().map(model_of).transpose()?;
    let mapped = app.models.block_map(model.as_deref()).await?;
    Ok(Json(MapAnswer::new(&mapped)).into_response())
}

/// Where every byte would go under other limits. Nothing is changed.
async fn plan(State(app): State<App>, request: Request) -> Result<Json<Plan>, ApiError> {
    let Received { bytes, .. } = body::receive(&app, request).await?;
    let received = read_request::<PlanRequest>(&bytes)?;
    let change = validate::plan_change(&received)?;
    let plan = app
        .models
        .plan_with(received.body.model.as_deref(), change)?;
    Ok(Json(plan))
}

/// The one thing that can be asked for in a query: `model=NAME`.
fn model_of(query: &str) -> Result<String, ApiError> {
    let unsupported = |name: &str| ApiError::Unsupported {
        field: name.to_owned(),
        hint: "; model=NAME can be given, percent-encoded",
    };
    let (name, value) = query.split_once('=').unwrap_or((query, ""));
    if name != "model" || value.contains('&') {
        let other = value.rsplit('&').next().filter(|_| name == "model");
        return Err(unsupported(other.unwrap_or(name)));
    }
    decoded(value).ok_or_else(|| unsupported("model"))
}

/// A percent-encoded value as it was meant.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_model_and_nothing_else() {
        assert_eq!(model_of("model=a%2Fb+c%C3%A9").unwrap(), "a/b cé");
        for (query, field) in [
            ("cells=3", "cells"),
            ("model=a&cells=3", "cells=3"),
            ("model=%zz", "model"),
            ("model=%f", "model"),
            ("model=%ff", "model"),
        ] {
            match model_of(query).unwrap_err() {
                ApiError::Unsupported { field: named, .. } => assert_eq!(named, field, "{query}"),
                other => panic!("{query}: {other}"),
            }
        }
    }
}
