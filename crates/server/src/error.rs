//! What a client is told when something goes wrong: one row each of status, type, code and field.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kvist_base::Bytes as Size;
use kvist_engine::plan::PlanError;
use kvist_engine::{
    BudgetError, ConstraintError, EngineFault, FleetError, GrammarFault, RequestError, ResetError,
    SubmitError,
};
use thiserror::Error;

use crate::wire::error::{ErrorBody, ErrorDetail};
use crate::wire::read::ReadError;

/// Everything that is answered with an error.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    /// The body is not JSON or a field has the wrong type.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// A field that must be there is not.
    #[error("{field} is required: {hint}")]
    Missing {
        field: &'static str,
        hint: &'static str,
    },
    /// A field is outside its limit.
    #[error("{field} must be {limit}, but is {given}")]
    OutOfRange {
        field: String,
        limit: String,
        given: String,
    },
    /// A field or value whose effect we do not have. Never ignored: the answer would not be what
    /// was asked for.
    #[error("{field} is not supported{hint}")]
    Unsupported { field: String, hint: &'static str },
    /// Two fields that contradict each other.
    #[error("{field} cannot be used {reason}")]
    Conflict {
        field: &'static str,
        reason: &'static str,
    },
    /// The engine refused the request. `field` is in the words of the endpoint asked.
    #[error("{source}")]
    Refused {
        field: &'static str,
        source: RequestError,
    },
    /// What the output must look like is not valid, or beyond a limit.
    #[error("{field}: {source}")]
    Constraint {
        field: &'static str,
        source: ConstraintError,
    },
    /// The output cannot go on as the request demands. It may have begun.
    #[error("the output cannot go on: {0}")]
    OutputStuck(GrammarFault),
    /// One request asks for more sequences than the engine ever takes at once.
    #[error("this request asks for {given} outputs at once, but the engine takes {limit}")]
    TooManySequences { limit: usize, given: usize },
    /// No key, or a wrong one.
    #[error("a valid API key is required: send Authorization: Bearer KEY, or x-api-key: KEY")]
    Unauthorized,
    /// A name this server is not known by: perhaps another site's that points here.
    #[error("this server does not answer to {given:?}: start it with --allowed-hosts NAME")]
    UnknownHost { given: String },
    /// A page of another site.
    #[error("pages of {given:?} may not call this server: start it with --cors-origin ORIGIN")]
    UnknownOrigin { given: String },
    /// A model name nobody serves.
    #[error("use one of: {}; model {given:?} is not served here", .served.join(", "))]
    UnknownModel { given: String, served: Vec<String> },
    /// A response that was never kept, or is no more, or is somebody else's.
    #[error("response {given:?} is not known: it was not stored, or has made room for newer ones")]
    UnknownResponse {
        field: Option<&'static str>,
        given: String,
    },
    /// A path nobody serves.
    #[error("no such route: {method} {path}")]
    UnknownRoute { method: String, path: String },
    /// A path that is served under other methods.
    #[error("{method} is not allowed on {path}")]
    MethodNotAllowed { method: String, path: String },
    /// A body that does not claim to be plain JSON.
    #[error("{header} {given:?} is not supported: send uncompressed application/json")]
    UnsupportedMedia { header: &'static str, given: String },
    /// The body is too large.
    #[error("the request body is larger than {limit}")]
    BodyTooLarge { limit: Size },
    /// The body came in more pieces than a client sends who means well.
    #[error("the request body comes in more than {limit} pieces")]
    TooManyPieces { limit: usize },
    /// The body did not arrive in time.
    #[error("the request body did not arrive within {seconds} s")]
    BodyTooSlow { seconds: u64 },
    /// The connection broke while the body was being read.
    #[error("the request body could not be read")]
    BodyBroken,
    /// Too many bytes of request bodies are being held.
    #[error("the server is receiving too much at once; try again")]
    ReceivingTooMuch,
    /// Log-probabilities of too many prompt tokens.
    #[error(
        "prompt_logprobs must be at most {limit} for all prompt tokens together, but is {given}: \
         ask for fewer a token, or send fewer prompts"
    )]
    TooManyScores { limit: usize, given: usize },
    /// Too many log-probabilities of prompts are being held.
    #[error("the server is holding too many log-probabilities of prompts at once; try again")]
    TellingTooMuch,
    /// The engine's queue is full.
    #[error(
        "the engine is full: {in_flight} requests in flight, {in_flight_max} allowed; try again"
    )]
    Overloaded {
        in_flight: usize,
        in_flight_max: usize,
    },
    /// The requests that wait have more tokens than may wait.
    #[error(
        "requests of {waiting} tokens are waiting, and {limit} may; try again, or start the server \
         with a larger --max-waiting-tokens"
    )]
    TooManyTokensWaiting { waiting: u64, limit: u64 },
    /// The request was never begun.
    #[error("the request waited for {seconds} s and its turn did not come; try again")]
    WaitedTooLong { seconds: u64 },
    /// The request took too long.
    #[error(
        "the request was not finished within {seconds} s; ask for less, or start the server with a \
         larger --request-timeout"
    )]
    Overdue { seconds: u64 },
    /// The engine takes nothing new.
    #[error("the server is shutting down")]
    Draining,
    /// The model does not fit beside those that are busy.
    #[error("{0}")]
    NoRoom(FleetError),
    /// There is nothing to see of a model before it is loaded.
    #[error("model {model:?} is not in memory now; a request to it loads it")]
    NotInMemory { model: String },
    /// The model cannot be loaded any more. Why is in the log.
    #[error("model {model:?} cannot be loaded; the server log has the details")]
    NotLoaded { model: String },
    /// Live requests need more memory than the budget that was asked for.
    #[error(
        "budget cannot be {given} ({} bytes) now: requests being served need {needed} ({} bytes); \
         try again when they are finished",
        .given.0,
        .needed.0
    )]
    MemoryInUse { needed: Size, given: Size },
    /// Requests hold parts of the prefix cache.
    #[error("the prefix cache cannot be reset: {0}; try again when they are finished")]
    CacheInUse(ResetError),
    /// Our fault. What happened is in the log, under this id.
    #[error("internal error; the server log has the details under {id}")]
    Fault { id: String },
    /// The engine has work and does not get on with it.
    #[error("the engine has made no step for {seconds} s")]
    Stalled { seconds: u64 },
    /// The engine has failed for good.
    #[error("the engine has stopped after a fault; the server must be restarted")]
    EngineStopped,
}

/// What an endpoint, and a request, call the parts of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldNames {
    pub(crate) prompt: &'static str,
    pub(crate) constraint: &'static str,
}

/// What a client was told. Every error's response carries it as an extension, for dialects that
/// word errors in their own way.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

/// The fixed part of an error: what it is, apart from its message.
struct Kind {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
}

const fn kind(status: StatusCode, kind: &'static str, code: &'static str) -> Kind {
    Kind { status, kind, code }
}

const fn unavailable(code: &'static str) -> Kind {
    kind(
        StatusCode::SERVICE_UNAVAILABLE,
        "service_unavailable_error",
        code,
    )
}

/// `type` of every error the client can fix.
const INVALID: &str = "invalid_request_error";
/// Characters of a message.
pub(crate) const MESSAGE_CHARS_MAX: usize = 1000;
/// Seconds after which a refused client may try again. One step takes well under that.
const RETRY_AFTER_SECONDS: &str = "1";

impl ApiError {
    fn kind(&self) -> Kind {
        use StatusCode as S;
        match self {
            Self::Unreadable(ReadError::Syntax { .. }) => {
                kind(S::BAD_REQUEST, INVALID, "invalid_json")
            }
            Self::Unreadable(ReadError::Field { .. }) => {
                kind(S::BAD_REQUEST, INVALID, "invalid_type")
            }
            Self::Missing { .. } => kind(S::BAD_REQUEST, INVALID, "missing_required_parameter"),
            Self::OutOfRange { .. }
            | Self::Conflict { .. }
            | Self::TooManySequences { .. }
            | Self::TooManyScores { .. }
            | Self::Constraint { .. } => kind(S::BAD_REQUEST, INVALID, "invalid_value"),
            Self::OutputStuck(_) => kind(S::BAD_REQUEST, INVALID, "constraint_failed"),
            Self::Unsupported { .. } => kind(S::BAD_REQUEST, INVALID, "unsupported_parameter"),
            Self::Refused { source, .. } => kind(S::BAD_REQUEST, INVALID, refusal_code(source)),
            Self::Unauthorized => kind(S::UNAUTHORIZED, "authentication_error", "invalid_api_key"),
            Self::UnknownHost { .. } => kind(S::FORBIDDEN, "permission_error", "host_not_allowed"),
            Self::UnknownOrigin { .. } => {
                kind(S::FORBIDDEN, "permission_error", "origin_not_allowed")
            }
            Self::UnknownModel { .. } => kind(S::NOT_FOUND, "not_found_error", "model_not_found"),
            Self::UnknownResponse { .. } => {
                kind(S::NOT_FOUND, "not_found_error", "response_not_found")
            }
            Self::UnknownRoute { .. } => kind(S::NOT_FOUND, "not_found_error", "route_not_found"),
            Self::MethodNotAllowed { .. } => {
                kind(S::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed")
            }
            Self::UnsupportedMedia { .. } => {
                kind(S::UNSUPPORTED_MEDIA_TYPE, INVALID, "unsupported_media_type")
            }
            Self::BodyTooLarge { .. } | Self::TooManyPieces { .. } => {
                kind(S::PAYLOAD_TOO_LARGE, INVALID, "request_too_large")
            }
            Self::BodyTooSlow { .. } => {
                kind(S::REQUEST_TIMEOUT, "timeout_error", "request_timeout")
            }
            Self::BodyBroken => kind(S::BAD_REQUEST, INVALID, "incomplete_body"),
            Self::ReceivingTooMuch
            | Self::TellingTooMuch
            | Self::Overloaded { .. }
            | Self::TooManyTokensWaiting { .. } => {
                kind(S::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full")
            }
            Self::WaitedTooLong { .. } => {
                kind(S::TOO_MANY_REQUESTS, "rate_limit_error", "queue_timeout")
            }
            Self::Overdue { .. } => kind(S::GATEWAY_TIMEOUT, "timeout_error", "deadline_exceeded"),
            Self::NoRoom(_) => unavailable("model_not_loaded"),
            Self::NotInMemory { .. } => kind(S::CONFLICT, "conflict_error", "model_not_loaded"),
            Self::MemoryInUse { .. } => kind(S::CONFLICT, "conflict_error", "memory_in_use"),
            Self::CacheInUse(_) => kind(S::CONFLICT, "conflict_error", "cache_in_use"),
            Self::NotLoaded { .. } => kind(
                S::INTERNAL_SERVER_ERROR,
                "server_error",
                "model_load_failed",
            ),
            Self::Draining => unavailable("shutting_down"),
            Self::Fault { .. } => kind(S::INTERNAL_SERVER_ERROR, "server_error", "internal_error"),
            Self::Stalled { .. } => unavailable("engine_stalled"),
            Self::EngineStopped => kind(S::INTERNAL_SERVER_ERROR, "server_error", "engine_stopped"),
        }
    }

    /// The request field at fault.
    fn param(&self) -> Option<String> {
        match self {
            Self::Unreadable(ReadError::Field { path, .. }) => Some(path.clone()),
            Self::OutOfRange { field, .. } | Self::Unsupported { field, .. } => Some(field.clone()),
            Self::Missing { field, .. }
            | Self::Conflict { field, .. }
            | Self::Constraint { field, .. }
            | Self::Refused { field, .. } => Some((*field).to_owned()),
            Self::TooManySequences { .. } => Some("n".to_owned()),
            Self::TooManyScores { .. } => Some("prompt_logprobs".to_owned()),
            Self::UnknownModel { .. }
            | Self::NoRoom(_)
            | Self::NotInMemory { .. }
            | Self::NotLoaded { .. } => Some("model".to_owned()),
            Self::MemoryInUse { .. } => Some("budget".to_owned()),
            Self::UnknownResponse { field, .. } => field.map(str::to_owned),
            _ => None,
        }
    }

    /// The JSON a client reads, in a response or in a stream that has already begun.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: clipped(self.to_string()),
                kind: self.kind().kind,
                param: self.param(),
                code: self.kind().code,
            },
        }
    }

    /// The same for dialects to word.
    pub(crate) fn told(&self) -> Told {
        Told {
            status: self.kind().status,
            message: clipped(self.to_string()),
        }
    }

    /// A request the engine did not take. `sequences` is how many the client asked for at once.
    pub(crate) fn refused(error: SubmitError, fields: FieldNames, sequences: usize) -> Self {
        match error {
            SubmitError::Invalid(RequestError::Constraint(source)) => Self::Constraint {
                field: fields.constraint,
                source,
            },
            SubmitError::Invalid(source) => {
                let field = match source.field() {
                    "prompt" => fields.prompt,
                    other => other,
                };
                Self::Refused { field, source }
            }
            SubmitError::Overloaded { in_flight_max, .. } if sequences > in_flight_max => {
                Self::TooManySequences {
                    limit: in_flight_max,
                    given: sequences,
                }
            }
            SubmitError::Overloaded {
                in_flight,
                in_flight_max,
            } => Self::Overloaded {
                in_flight,
                in_flight_max,
            },
            SubmitError::TooManyTokensWaiting { waiting, limit } => {
                Self::TooManyTokensWaiting { waiting, limit }
            }
            SubmitError::Draining => Self::Draining,
            SubmitError::Stopped(_) => Self::EngineStopped,
        }
    }

    /// A request the engine took and could not finish. The fault goes to the log; the client gets
    /// an id.
    pub(crate) fn failed(id: &str, fault: Option<&EngineFault>) -> Self {
        if let Some(EngineFault::Grammar(fault)) = fault {
            return Self::OutputStuck(fault.clone());
        }
        match fault {
            Some(fault) => tracing::error!(id, %fault, "request failed"),
            None => tracing::error!(id, "the engine went away before the request ended"),
        }
        Self::Fault { id: id.to_owned() }
    }
}

impl From<BudgetError> for ApiError {
    fn from(error: BudgetError) -> Self {
        match error {
            BudgetError::TooSmall { needed, given } => Self::OutOfRange {
                field: "budget".to_owned(),
                limit: format!("at least {needed} ({} bytes)", needed.0),
                given: format!("{given} ({} bytes)", given.0),
            },
            BudgetError::Busy { needed, given } => Self::MemoryInUse { needed, given },
            BudgetError::Stopped => Self::EngineStopped,
        }
    }
}

impl From<PlanError> for ApiError {
    fn from(error: PlanError) -> Self {
        Self::OutOfRange {
            field: error.field.to_owned(),
            limit: error.limit.to_string(),
            given: error.given.to_string(),
        }
    }
}

impl From<ResetError> for ApiError {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::InUse(_) => Self::CacheInUse(error),
            ResetError::Stopped => Self::EngineStopped,
        }
    }
}

/// Messages repeat what was sent; not all of it, if it is long.
fn clipped(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// OpenAI's code where it has one.
fn refusal_code(error: &RequestError) -> &'static str {
    match error {
        RequestError::ContextExceeded { .. } | RequestError::PromptTooLarge { .. } => {
            "context_length_exceeded"
        }
        RequestError::PoolExceeded { .. } => "kv_capacity_exceeded",
        RequestError::NoChatTemplate => "no_chat_template",
        _ => "invalid_value",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Kind { status, .. } = self.kind();
        let mut headers = HeaderMap::new();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = HeaderValue::from_static(RETRY_AFTER_SECONDS);
                headers.insert(header::RETRY_AFTER, seconds);
            }
            // What is left of the body is not read any more, so nothing can follow it.
            StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        let mut response = (status, headers, Json(self.body())).into_response();
        response.extensions_mut().insert(self.told());
        response
    }
}
