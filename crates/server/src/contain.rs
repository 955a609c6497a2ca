//! Keeps a panic to the request it happened in.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::App;

/// Answers 500 where a handler panics. What it held is dropped, and so cancelled; no lock of this
/// room is held over code that may panic.
pub(crate) async fn contain(State(app): State<App>, request: Request, next: Next) -> Response {
    contained(request, next, || app.ticket().id("panic")).await
}

async fn contained(request: Request, next: Next, id: impl Fn() -> String) -> Response {
    let mut handling = pin!(next.run(request));
    let outcome = poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)));
        match polled {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await;
    outcome.unwrap_or_else(|panic| {
        let id = id();
        tracing::error!(id, panic = text(&*panic), "a request panicked");
        ApiError::Fault { id }.into_response()
    })
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn a_panic_is_worded_by_its_message() {
        assert_eq!(text(&"static"), "static");
        assert_eq!(text(&"owned".to_owned()), "owned");
        assert_eq!(text(&7), "without a message");
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_a_500_and_nothing_else() {
        async fn panics() {
            tokio::task::yield_now().await;
            panic!("planted");
        }
        let layer = from_fn(|request: Request, next: Next| {
            contained(request, next, || "panic-1".to_owned())
        });
        let router = Router::new()
            .route("/panics", get(panics))
            .route("/works", get(|| async { "yes" }))
            .layer(layer);
        let ask = |path: &str| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().unwrap();
            router.clone().oneshot(request)
        };
        let response = ask("/panics").await.unwrap();
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 1000)
            .await
            .unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            text.contains("panic-1") && !text.contains("planted"),
            "{text}"
        );
        assert_eq!(ask("/works").await.unwrap().status(), 200);
    }
}
