//! When to give KV memory back: after nothing was served for a while.

use std::time::{Duration, Instant};

/// Remembers the last work, and whether its memory was given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleRelease {
    /// How long to wait; `None`: memory is kept.
    after: Option<Duration>,
    /// `None` when there is nothing to give back.
    last_work: Option<Instant>,
}

impl IdleRelease {
    pub(crate) fn new(after: Option<Duration>) -> Self {
        Self {
            after,
            last_work: None,
        }
    }

    pub(crate) fn worked(&mut self, now: Instant) {
        self.last_work = Some(now);
    }

    pub(crate) fn released(&mut self) {
        self.last_work = None;
    }

    /// How long to wait from `now` until memory is to be given back; `None` for ever.
    pub(crate) fn due_in(&self, now: Instant) -> Option<Duration> {
        let due = self.last_work?.checked_add(self.after?)?;
        Some(due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_due_once_after_each_work() {
        let start = Instant::now();
        let wait = Duration::from_secs(10);
        let mut idle = IdleRelease::new(Some(wait));
        assert_eq!(idle.due_in(start), None, "nothing was used yet");
        idle.worked(start);
        assert_eq!(idle.due_in(start), Some(wait));
        assert_eq!(idle.due_in(start + wait * 2), Some(Duration::ZERO));
        idle.released();
        assert_eq!(idle.due_in(start + wait * 2), None);
        let mut kept = IdleRelease::new(None);
        kept.worked(start);
        assert_eq!(kept.due_in(start), None);
    }
}
