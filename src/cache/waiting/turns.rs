//! When one that has found no room asks for it again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(320);

/// The waits between asking: each twice as long as the one before, up to the longest.
#[derive(Debug)]
pub(crate) struct Turns(Duration);

impl Turns {
    pub(crate) fn new() -> Self {
        Turns(FIRST)
    }

    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = LONGEST.min(now * 2);
        now
    }
}
