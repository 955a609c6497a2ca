//! The API's own description.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::state::App;

/// Kept by hand; a test compares its paths with the routes.
const DOCUMENT: &str = include_str!("../openapi.json");
/// What stands in it for the program's version.
const VERSION: &str = "\"0.0.0\"";

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/openapi.json", get(document))
}

async fn document(State(app): State<App>) -> Response {
    let text = DOCUMENT.replacen(VERSION, &format!("{:?}", app.version), 1);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
