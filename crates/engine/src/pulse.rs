//! Signs of life of the engine thread, for those who must not wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When the engine thread was last seen to go on.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    /// Milliseconds from `start` to the last beat, or [`RESTING`].
    last_ms: AtomicU64,
}

/// The thread waits for work: silence says nothing.
const RESTING: u64 = u64::MAX;

impl Default for Pulse {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(RESTING),
        }
    }
}

impl Pulse {
    /// The thread goes on with its work.
    pub(crate) fn beat(&self) {
        let elapsed = self.start.elapsed().as_millis();
        let now = u64::try_from(elapsed).unwrap_or(RESTING - 1);
        self.last_ms.store(now, Ordering::Release);
    }

    /// The thread has nothing to do until it beats again.
    pub(crate) fn rest(&self) {
        self.last_ms.store(RESTING, Ordering::Release);
    }

    /// Time since the last beat; `None` while the thread rests.
    pub(crate) fn busy_for(&self) -> Option<Duration> {
        let last = self.last_ms.load(Ordering::Acquire);
        (last != RESTING).then(|| {
            let last = Duration::from_millis(last);
            self.start.elapsed().saturating_sub(last)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_a_beat_and_not_while_resting() {
        let pulse = Pulse::default();
        assert_eq!(pulse.busy_for(), None);
        pulse.beat();
        std::thread::sleep(Duration::from_millis(3));
        let busy = pulse.busy_for().expect("it beat");
        assert!(busy >= Duration::from_millis(2), "{busy:?}");
        pulse.beat();
        assert!(pulse.busy_for().expect("it beat") <= busy + Duration::from_secs(1));
        pulse.rest();
        assert_eq!(pulse.busy_for(), None);
    }
}
