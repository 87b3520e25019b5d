//! How much a client may make the node do for nothing: frames that ask for work and bring none.

use std::time::Instant;

/// Such frames at one time, on top of what is earned by taking answers.
const MOST: u32 = 1_000;
/// What comes back in a second.
const A_SECOND: u32 = 20;

/// Counts down with each frame that brings nothing (resets, pings, settings, priorities, window updates, empty ones), and
/// up with each that is taken. Attacks by HTTP/2 are of the first kind without the second.
pub struct Patience {
    left: u32,
    since: Instant,
}

impl Patience {
    pub fn new(now: Instant) -> Self {
        Patience { left: MOST, since: now }
    }

    /// The client has taken something, or brought something.
    pub fn calm(&mut self, count: u32) {
        self.left = (self.left + count).min(MOST);
    }

    /// The client has sent what brings nothing. Whether it may go on.
    pub fn try_with(&mut self, count: u32, now: Instant) -> bool {
        let seconds = u32::try_from(now.duration_since(self.since).as_secs()).unwrap_or(MOST);
        if seconds > 0 {
            self.since = now;
            self.calm(seconds.min(MOST) * A_SECOND);
        }
        match self.left.checked_sub(count) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_ends_and_comes_back() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert!((0..MOST).all(|_| patience.try_with(1, start)));
        assert!(!patience.try_with(1, start));
        patience.calm(2);
        assert!(patience.try_with(2, start) && !patience.try_with(1, start));
        assert!(patience.try_with(A_SECOND, start + Duration::from_secs(1)));
        assert!(!patience.try_with(1, start + Duration::from_secs(1)));
        assert!(patience.try_with(MOST, start + Duration::from_secs(9999)));
    }
}
