//! `/api/chat`, `/api/generate` and what Ollama's clients ask before them.

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Map, Value, json};

use crate::answer::dialect::answer_in;
use crate::answer::ollama::{OllamaShape, OllamaWords, timestamp};
use crate::answer::turn::Reading;
use crate::body::{self, BodyShare, Received};
use crate::error::ApiError;
use crate::models::Served;
use crate::routes::{caller, circumstances, report_ignored};
use crate::state::{App, Ticket};
use crate::validate::{self, OllamaCall};
use crate::wire::ollama::{OllamaChatRequest, OllamaGenerateRequest, OllamaShowRequest};
use crate::wire::read::read_request;

/// What Ollama adds to names without a tag.
const TAG: &str = ":latest";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/chat", post(chat))
        .route("/api/generate", post(generate))
        .route("/api/tags", get(tags))
        .route("/api/show", post(show))
        .route("/api/version", get(version))
}

/// The name as this server knows it.
fn known<'n>(app: &App, name: Option<&'n str>) -> Option<&'n str> {
    name.map(|name| match name.strip_suffix(TAG) {
        Some(bare) if app.models.find(name).is_err() => bare,
        _ => name,
    })
}

async fn chat(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Received { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<OllamaChatRequest>(&bytes)?;
    drop(bytes);
    let name = known(&app, received.body.common.model.as_deref());
    let served = app.models.serve(name).await?;
    let around = circumstances(&app, &served, (ticket, caller));
    let call = validate::ollama_chat(received, around)?;
    run(&app, (served, call), (ticket, OllamaShape::Chat), share).await
}

async fn generate(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Received { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<OllamaGenerateRequest>(&bytes)?;
    drop(bytes);
    let name = known(&app, received.body.common.model.as_deref());
    let served = app.models.serve(name).await?;
    let around = circumstances(&app, &served, (ticket, caller));
    let call = validate::ollama_generate(received, around)?;
    run(&app, (served, call), (ticket, OllamaShape::Generate), share).await
}

async fn run(
    app: &App,
    (served, call): (Served, OllamaCall),
    (ticket, shape): (Ticket, OllamaShape),
    share: BodyShare,
) -> Result<Response, ApiError> {
    let words = OllamaWords::new(&served, ticket, shape);
    let mut call = match call {
        OllamaCall::Load => return Ok(Json(words.loaded()).into_response()),
        OllamaCall::Run(call) => *call,
    };
    let ignored = std::mem::take(&mut call.ignored);
    let reading = Reading::new(&call, ticket);
    let response = answer_in(app, (served, call), (words, reading), share).await?;
    Ok(report_ignored(response, &ignored))
}

async fn tags(State(app): State<App>) -> Json<Value> {
    let modified = timestamp(app.started());
    // Names alone are known of a model that is not loaded.
    let model = |(name, _)| {
        let details = json!({"format": "gguf"});
        json!({"name": name, "model": name, "modified_at": modified, "details": details})
    };
    let models: Vec<Value> = app.models.names().map(model).collect();
    Json(json!({"models": models}))
}

/// What a model can do. It is loaded for it: only then its template is known.
async fn show(State(app): State<App>, request: Request) -> Result<Json<Value>, ApiError> {
    let Received { bytes, .. } = body::receive(&app, request).await?;
    let body = read_request::<OllamaShowRequest>(&bytes)?.body;
    let name = body.model.or(body.name);
    let (field, hint) = ("model", "name a model; GET /api/tags lists them");
    let name = name.ok_or(ApiError::Missing { field, hint })?;
    let served = app.models.serve(known(&app, Some(&name))).await?;
    let info = served.engine.info();
    let traits = served.engine.chat_traits();
    let mut capabilities = vec!["completion"];
    if traits.is_some_and(|traits| traits.tools.is_some()) {
        capabilities.push("tools");
    }
    if traits.is_some_and(|traits| traits.reasoning.is_some()) {
        capabilities.push("thinking");
    }
    let architecture = &info.architecture;
    let mut model_info = Map::new();
    model_info.insert("general.architecture".to_owned(), json!(architecture));
    model_info.insert("general.basename".to_owned(), json!(info.name));
    let context = format!("{architecture}.context_length");
    model_info.insert(context, json!(info.model_len.0));
    let vocabulary = format!("{architecture}.vocab_size");
    model_info.insert(vocabulary, json!(info.vocab_len));
    Ok(Json(json!({
        "modified_at": timestamp(app.started()),
        "details": {"format": "gguf", "family": architecture, "families": [architecture]},
        "model_info": model_info,
        "capabilities": capabilities,
    })))
}

async fn version(State(app): State<App>) -> Json<Value> {
    Json(json!({"version": app.version}))
}
