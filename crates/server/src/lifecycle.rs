//! How far the server is on its way from serving to gone.

use std::future::Future;

use tokio::sync::watch;

/// What the server still does. Goes forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everything.
    Serving,
    /// Everything, but balancers are told to send requests elsewhere.
    Leaving,
    /// What runs is finished; what waits and what is new is turned away.
    Draining,
    /// What still runs is told that it ends.
    Ending,
}

/// The phase, and who waits for the next one.
#[derive(Debug)]
pub(crate) struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Lifecycle {
    pub(crate) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to `phase`; a phase that is over does not come back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let is_later = phase > *now;
            *now = phase.max(*now);
            is_later
        });
    }

    /// Resolves once the server is in `phase` or a later one.
    pub(crate) fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.0.subscribe();
        async move {
            if receiver.wait_for(|now| *now >= phase).await.is_err() {
                // The server is gone without having come to this phase: nor will it.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn phases_go_forward_and_wake_those_who_wait() {
        let lifecycle = Lifecycle::default();
        let mut draining = pin!(lifecycle.reached(Phase::Draining));
        let mut context = Context::from_waker(Waker::noop());
        lifecycle.advance(Phase::Leaving);
        assert_eq!(draining.as_mut().poll(&mut context), Poll::Pending);
        lifecycle.advance(Phase::Ending);
        assert_eq!(draining.as_mut().poll(&mut context), Poll::Ready(()));
        lifecycle.advance(Phase::Leaving);
        assert_eq!(lifecycle.phase(), Phase::Ending);
    }
}
