//! How quickly a client has to take what waits for it.

use std::time::{Duration, Instant};

use crate::config::model::Limits;

/// What is asked of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How long it may take nothing; and what is too slow is found out after so long a wait.
    pub patience: Duration,
    /// Bytes a second, while some wait.
    pub least: u64,
}

/// What a client has taken, and how long it was waited for. Time in which nothing waited for it does not count.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    since: Option<Instant>,
    waited: Duration,
    taken: u64,
}

impl Pace {
    /// Nothing is asked.
    pub(crate) const ANY: Pace = Pace { patience: Duration::MAX, least: 0 };

    pub(crate) fn of(limits: &Limits) -> Self {
        Pace { patience: limits.write_timeout, least: limits.min_rate.0 }
    }
}

impl Taking {
    /// Something waits, and the client does not take it now.
    pub(crate) fn wait(&mut self, now: impl FnOnce() -> Instant) {
        if self.since.is_none() {
            if self.waited.is_zero() {
                self.taken = 0; // what went before it was first waited for
            }
            self.since = Some(now());
        }
    }

    /// Nothing waits any more, though it was not taken.
    pub(crate) fn rest(&mut self) {
        self.since = None;
    }

    /// Since when it has taken nothing of what waits.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.since
    }

    /// It has taken some bytes, and is waited for still.
    pub(crate) fn credit(&mut self, bytes: u64) {
        self.taken += bytes;
    }

    /// It has taken some bytes. Whether it is quick enough.
    pub(crate) fn take(&mut self, bytes: u64, pace: Pace, now: impl FnOnce() -> Instant) -> bool {
        self.taken += bytes;
        if let Some(since) = self.since.take() {
            self.waited += now().saturating_duration_since(since);
        }
        if self.waited < pace.patience {
            return true;
        }
        let least = pace.least.saturating_mul(self.waited.as_millis() as u64) / 1000;
        let taken = std::mem::take(&mut self.taken);
        self.waited = Duration::ZERO;
        taken >= least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { patience: Duration::from_secs(30), least: 100 };

    /// Bytes taken, each lot after a wait of so many seconds: after how many lots it is found too slow.
    fn too_slow_after(lots: usize, bytes: u64, wait: u64) -> Option<usize> {
        let (mut taking, mut now) = (Taking::default(), Instant::now());
        (1..=lots).find(|_| {
            taking.wait(|| now);
            now += Duration::from_secs(wait);
            !taking.take(bytes, PACE, || now)
        })
    }

    #[test]
    fn who_takes_a_byte_now_and_then_is_too_slow() {
        assert_eq!(too_slow_after(100, 1, 1), Some(30));
        assert_eq!(too_slow_after(100, 1, 29), Some(2));
        assert_eq!(too_slow_after(1000, 100, 1), None);
        assert_eq!(too_slow_after(1000, 99, 1), Some(30));
    }

    #[test]
    fn who_is_not_waited_for_is_not_slow() {
        let (mut taking, start) = (Taking::default(), Instant::now());
        for second in 0..1000 {
            assert!(taking.take(1, PACE, || start + Duration::from_secs(second)), "an event now and then");
        }
        assert_eq!(taking.waiting_since(), None);
    }

    #[test]
    fn what_went_before_the_first_wait_does_not_count() {
        let (mut taking, start) = (Taking::default(), Instant::now());
        assert!(taking.take(1 << 30, PACE, || start));
        taking.wait(|| start);
        assert!(!taking.take(1, PACE, || start + Duration::from_secs(31)));
    }
}
