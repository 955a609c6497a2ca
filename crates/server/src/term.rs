//! How long a request may go on.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use kvist_engine::Progress;
use tokio::time::{Sleep, sleep};

use crate::error::ApiError;
use crate::lifecycle::Phase;
use crate::state::App;

/// Ends a request whose time is up: in the queue, altogether, or because the server stops. The
/// engine does not look at clocks, and could not if it were stuck.
pub(crate) struct Term {
    /// One for each sequence of the request.
    progress: Vec<Progress>,
    /// `None` once the request has begun: what runs is not waiting.
    queue: Option<Queue>,
    total: Pin<Box<Sleep>>,
    total_seconds: u64,
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What ends a request that has not begun.
struct Queue {
    time: Pin<Box<Sleep>>,
    seconds: u64,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Term {
    /// Begins now.
    pub(crate) fn new(app: &App, progress: Vec<Progress>) -> Self {
        let limits = &app.limits;
        Self {
            progress,
            queue: Some(Queue {
                time: Box::pin(sleep(limits.queue_time_max)),
                seconds: limits.queue_time_max.as_secs(),
                draining: Box::pin(app.lifecycle.reached(Phase::Draining)),
            }),
            total: Box::pin(sleep(limits.request_time_max)),
            total_seconds: limits.request_time_max.as_secs(),
            ending: Box::pin(app.lifecycle.reached(Phase::Ending)),
        }
    }

    /// Why the request must end now, once it must.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<ApiError> {
        if self.ending.as_mut().poll(context).is_ready() {
            return Poll::Ready(ApiError::Draining);
        }
        if self.total.as_mut().poll(context).is_ready() {
            return Poll::Ready(ApiError::Overdue {
                seconds: self.total_seconds,
            });
        }
        let Some(queue) = &mut self.queue else {
            return Poll::Pending;
        };
        let is_overdue = queue.time.as_mut().poll(context).is_ready();
        let is_too_late = queue.draining.as_mut().poll(context).is_ready();
        if !is_overdue && !is_too_late {
            return Poll::Pending;
        }
        if self.progress.iter().any(Progress::has_begun) {
            self.queue = None;
            return Poll::Pending;
        }
        Poll::Ready(if is_too_late {
            ApiError::Draining
        } else {
            ApiError::WaitedTooLong {
                seconds: queue.seconds,
            }
        })
    }

    /// [`Self::poll`] as a future.
    pub(crate) async fn over(&mut self) -> ApiError {
        poll_fn(|context| self.poll(context)).await
    }
}
