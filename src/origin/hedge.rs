//! Hedged requests: a safe request that takes longer than most is sent to a second origin as well, and whichever answers first is
//! the client's (Dean and Barroso, "The Tail at Scale", 2013). Here is what "longer than most" is, and how often that was done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Answers without which nothing is known.
const ENOUGH: u64 = 100;
/// Nobody is asked sooner: it costs more than it brings.
const LEAST: u64 = 1_000_000;

/// The time in which 95 of 100 of a pool's answers have come, of late.
#[derive(Debug, Default)]
pub(crate) struct Hedging {
    /// Nanoseconds.
    p95: AtomicU64,
    seen: AtomicU64,
    pub sent: AtomicU64,
    /// Those that were answered first.
    pub won: AtomicU64,
}

impl Hedging {
    /// A head has come after so long. What is noted by two at one time may be noted once.
    pub(super) fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.p95.load(Ordering::Relaxed);
        let now = if self.seen.fetch_add(1, Ordering::Relaxed) == 0 { took } else { moved(before, took) };
        self.p95.store(now, Ordering::Relaxed);
    }

    /// How long the first origin is waited for alone; `None`: that is not known yet.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let is_known = self.seen.load(Ordering::Relaxed) >= ENOUGH;
        is_known.then(|| Duration::from_nanos(self.p95.load(Ordering::Relaxed).max(LEAST)))
    }
}

/// An estimate after one more value: a tenth of it, times 95 to 5, up or down. It is at rest where 5 of 100 are above it.
fn moved(p95: u64, took: u64) -> u64 {
    match took > p95 {
        true => p95.saturating_add(p95 / 1000 * 95).saturating_add(1000).min(took),
        false => p95 - p95 / 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_most_is_found_and_followed() {
        let hedging = Hedging::default();
        let mut random = fastrand::Rng::with_seed(17);
        let mut of_late = |most: u64, times: usize| {
            for _ in 0..times {
                hedging.note(Duration::from_micros(random.u64(0..most * 1000)));
            }
            hedging.patience().unwrap().as_secs_f64() * 1000.0
        };
        for (most, expected) in [(100, 95.0), (10, 9.5), (1000, 950.0)] {
            let found: f64 = (0..50).map(|_| of_late(most, 100)).skip(20).sum::<f64>() / 30.0;
            assert!((found / expected - 1.0).abs() < 0.1, "{most}: {found}");
        }
    }

    #[test]
    fn nothing_is_known_at_first_and_nobody_is_hurried() {
        let hedging = Hedging::default();
        (1..ENOUGH).for_each(|_| hedging.note(Duration::from_micros(10)));
        assert_eq!(hedging.patience(), None);
        hedging.note(Duration::from_micros(10));
        assert_eq!(hedging.patience(), Some(Duration::from_millis(1)));
    }
}
