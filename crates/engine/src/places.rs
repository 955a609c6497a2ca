//! What a request in flight holds of the engine's bounds, given back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::handle::EngineStatus;
use crate::shared::Shared;

/// Tokens of a prompt that waits, given back when its turn comes or it goes.
pub(crate) struct WaitingTokens {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tokens: u64,
}

impl Drop for WaitingTokens {
    fn drop(&mut self) {
        let before = self
            .shared
            .waiting_tokens
            .fetch_sub(self.tokens, Ordering::AcqRel);
        assert!(before >= self.tokens, "tokens were given back twice");
    }
}

/// A place among the requests in flight, given back when dropped. It goes with the request from the
/// door to its end, so that no way out can forget it.
pub(crate) struct Place {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a place was given back twice");
        // An engine that is stopping waits for this.
        if before == 1 && self.shared.status() != EngineStatus::Ready {
            self.shared.wake();
        }
    }
}
