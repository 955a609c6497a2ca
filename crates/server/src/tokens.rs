//! What text is in tokens, and requests as the engine would run them: for clients that count, and for
//! routers that send equal prefixes to one place.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use kvist_base::{TokenId, Tokens};
use kvist_engine::{EndTokens, Prompt, PromptOptions, SpecialTokens, SubmitError};

use crate::body::{self, Received as Body};
use crate::error::{ApiError, FieldNames};
use crate::generate::{prompt_bytes, tokenising};
use crate::models::Served;
use crate::routes::{caller, circumstances, report_ignored};
use crate::state::{App, Ticket};
use crate::validate::{self, Call, Delivery};
use crate::wire::chat::ChatCompletionRequest;
use crate::wire::completion::CompletionRequest;
use crate::wire::read::read_request;
use crate::wire::tokens::{
    DetokenizeRequest, Detokenized, RenderedRequest, RenderedSampling, TokenizeRequest, Tokenized,
};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/v1/completions/render", post(render_completion))
        .route("/v1/chat/completions/render", post(render_chat))
}

async fn tokenize(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let who = (app.ticket(), caller(&request));
    let Body { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<TokenizeRequest>(&bytes)?;
    drop(bytes);
    let model = received.body.chat.generation.model.as_deref();
    let served = app.models.serve(model).await?;
    let call = validate::tokenize(received, circumstances(&app, &served, who))?;
    let how = (call.options, None);
    let tokens = tokens_of(&app, &served, (call.prompt, how), call.field).await?;
    drop(share);
    let texts = || {
        tokens
            .iter()
            .map(|token| text(&served, &[*token]))
            .collect()
    };
    let answer = Tokenized {
        count: tokens.len(),
        max_model_len: served.engine.info().model_len.0,
        token_strs: call.returns_texts.then(texts),
        tokens: tokens.iter().map(|token| token.0).collect(),
    };
    Ok(report_ignored(Json(answer).into_response(), &call.ignored))
}

async fn detokenize(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let who = (app.ticket(), caller(&request));
    let Body {
        bytes,
        share: _share,
    } = body::receive(&app, request).await?;
    let received = read_request::<DetokenizeRequest>(&bytes)?;
    drop(bytes);
    let served = app.models.serve(received.body.model.as_deref()).await?;
    let (tokens, ignored) = validate::detokenize(received, circumstances(&app, &served, who))?;
    let prompt = text(&served, &tokens);
    let answer = Json(Detokenized { prompt });
    Ok(report_ignored(answer.into_response(), &ignored))
}

/// What these tokens spell, special ones included.
fn text(served: &Served, tokens: &[TokenId]) -> String {
    let bytes = tokens.iter().map(|token| served.engine.token_bytes(*token));
    let bytes: Vec<u8> = bytes.flatten().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn render_completion(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Body { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<CompletionRequest>(&bytes)?;
    drop(bytes);
    let model = received.body.generation.model.as_deref();
    let served = app.models.serve(model).await?;
    let has_seed = received.body.generation.seed.is_some();
    let call = validate::completion(received, circumstances(&app, &served, (ticket, caller)))?;
    let ignored = call.ignored.clone();
    let words = ("prompt", ("cmpl", ticket), has_seed);
    let rendered = rendered(&app, &served, call, words).await?;
    drop(share);
    Ok(report_ignored(Json(rendered).into_response(), &ignored))
}

async fn render_chat(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (ticket, caller) = (app.ticket(), caller(&request));
    let Body { bytes, share } = body::receive(&app, request).await?;
    let received = read_request::<ChatCompletionRequest>(&bytes)?;
    drop(bytes);
    let model = received.body.generation.model.as_deref();
    let served = app.models.serve(model).await?;
    let has_seed = received.body.generation.seed.is_some();
    let call = validate::chat(received, circumstances(&app, &served, (ticket, caller)))?;
    let ignored = call.ignored.clone();
    let words = ("messages", ("chatcmpl", ticket), has_seed);
    let rendered = rendered(&app, &served, call, words).await?;
    drop(share);
    // A conversation is one prompt.
    let one = rendered.into_iter().next();
    Ok(report_ignored(Json(one).into_response(), &ignored))
}

/// The call's prompts as the engine would run them. Nothing is run.
async fn rendered(
    app: &App,
    served: &Served,
    mut call: Call,
    (field, (prefix, ticket), has_seed): (&'static str, (&'static str, Ticket), bool),
) -> Result<Vec<RenderedRequest>, ApiError> {
    let prompts = std::mem::take(&mut call.prompts);
    let id = match &call.told.request_id {
        Some(id) => format!("{prefix}-{id}"),
        None => ticket.id(prefix),
    };
    let mut requests = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.into_iter().enumerate() {
        let how = (
            call.settings.prompt_options.clone(),
            call.settings.output_max,
        );
        let tokens = tokens_of(app, served, (prompt, how), field).await?;
        requests.push(RenderedRequest {
            request_id: format!("{id}-{index}"),
            token_ids: tokens.into_iter().map(|token| token.0).collect(),
            features: None,
            sampling_params: sampling(&call, has_seed),
            model: served.name.clone(),
            stream: call.delivery != Delivery::Whole,
            cache_salt: call.settings.cache_salt.clone(),
            priority: call.settings.priority,
            kv_transfer_params: None,
        });
    }
    Ok(requests)
}

fn sampling(call: &Call, has_seed: bool) -> RenderedSampling {
    let settings = &call.settings;
    let spec = &settings.sampling;
    RenderedSampling {
        n: call.choices,
        temperature: spec.temperature,
        top_p: spec.top_p,
        top_k: spec.top_k,
        min_p: spec.min_p,
        seed: has_seed.then_some(spec.seed),
        presence_penalty: spec.presence_penalty,
        frequency_penalty: spec.frequency_penalty,
        repetition_penalty: spec.repetition_penalty,
        stop: settings.stop.clone(),
        stop_token_ids: settings.stop_tokens.iter().map(|token| token.0).collect(),
        ignore_eos: settings.end_tokens == EndTokens::Ignore,
        min_tokens: spec.min_tokens,
        max_tokens: settings
            .output_max
            .or(settings.output_default)
            .map(|max| max.0),
        logprobs: spec.logprobs,
        prompt_logprobs: settings.prompt_options.logprobs,
        skip_special_tokens: settings.special_tokens == SpecialTokens::Hide,
    }
}

/// The tokens of a prompt, as the engine makes them.
async fn tokens_of(
    app: &App,
    served: &Served,
    (prompt, (options, output_max)): (Prompt, (PromptOptions, Option<Tokens>)),
    field: &'static str,
) -> Result<Vec<TokenId>, ApiError> {
    let engine = served.engine.clone();
    let work = {
        let bytes = prompt_bytes(&prompt);
        let work = move || engine.prompt_tokens(prompt, &options, output_max);
        tokenising(app, bytes, work)
    };
    let fields = FieldNames {
        prompt: field,
        constraint: "constraint",
    };
    let refused = |error| ApiError::refused(SubmitError::Invalid(error), fields, 1);
    work.await?.map_err(refused)
}
