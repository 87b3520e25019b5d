//! How much a client may make the node do for nothing: frames that ask for work and bring none.

use std::time::Instant;

/// Such frames at one time, on top of what is earned by taking answers.
const MAX: u32 = 1_000;
/// What comes back in a second.
const A_SECOND: u32 = 20;

/// Counts down with each frame that brings nothing (resets, pings, settings, priorities, window updates, empty ones), and
/// up with each that is taken. Attacks by HTTP/2 are of the first kind without the second.
pub(crate) struct AbuseBudget {
    left: u32,
    since: Instant,
}

impl AbuseBudget {
    pub(crate) fn new(now: Instant) -> Self {
        AbuseBudget { left: MAX, since: now }
    }

    /// The client has taken something, or brought something.
    pub(crate) fn credit(&mut self, count: u32) {
        self.left = (self.left + count).min(MAX);
    }

    /// The client has sent what brings nothing. Whether it may go on.
    pub(crate) fn charge(&mut self, count: u32, now: Instant) -> bool {
        let seconds = u32::try_from(now.duration_since(self.since).as_secs()).unwrap_or(MAX);
        if seconds > 0 {
            self.since = now;
            self.credit(seconds.min(MAX) * A_SECOND);
        }
        let left = self.left.checked_sub(count);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_ends_and_comes_back() {
        let start = Instant::now();
        let mut budget = AbuseBudget::new(start);
        assert!((0..MAX).all(|_| budget.charge(1, start)));
        assert!(!budget.charge(1, start));
        budget.credit(2);
        assert!(budget.charge(2, start) && !budget.charge(1, start));
        assert!(budget.charge(A_SECOND, start + Duration::from_secs(1)));
        assert!(!budget.charge(1, start + Duration::from_secs(1)));
        assert!(budget.charge(MAX, start + Duration::from_secs(9999)));
    }
}
