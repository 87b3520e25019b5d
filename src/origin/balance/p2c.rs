//! The better of two: by how long origins take and how much they have to do.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Candidate, Candidates, Live};

/// Chooses two by weight and takes the one that will be done sooner (Mitzenmacher 2001): what it takes for a request, times those
/// that it has. Two of all suffice for an origin that is slow to get next to nothing, and nobody runs to the fastest all at once.
pub(super) fn pick(candidates: &Candidates, live: impl Fn(usize) -> Live, random: u64) -> Option<usize> {
    let one = candidates.draw(random >> 32)?;
    let other = candidates.draw_another(random & u64::from(u32::MAX), one).map(|other| candidates.get(other));
    let one = candidates.get(one);
    let Some(other) = other else { return Some(one.index) };
    let cost = |candidate: &Candidate| cost(live(candidate.index), candidate.weight);
    // Of two that are about alike the first: by chance, and by weight. Else the quicker by a hair would have everything.
    Some(if cost(one) <= cost(other) * ALIKE { one.index } else { other.index })
}

/// How much dearer one may be that counts as alike.
const ALIKE: f64 = 1.5;
/// Milliseconds below which times say nothing.
const SHORTEST: f64 = 1.0;

/// Of one more request.
fn cost(live: Live, weight: u32) -> f64 {
    live.latency.max(SHORTEST) * (f64::from(live.active) + 1.0) / f64::from(weight)
}

/// What an origin takes for a request: the mean of late, in which what is longer than it counts at once, and what is shorter by and
/// by ("peak EWMA", Finagle 2014). What is not asked is forgotten in the same way, so that it is tried again.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// The bits of a number of milliseconds, and when it was that, in milliseconds.
    mean: AtomicU64,
    at: AtomicU64,
}

/// Milliseconds in which what was counts for a third.
const MEMORY: f64 = 10_000.0;

impl Latency {
    /// Two that note something at one time may lose one of it: it is a mean.
    pub(crate) fn note(&self, took: f64, now: u64) {
        let mean = self.of_late(now);
        let kept = (-self.since(now) / MEMORY).exp();
        let mean = if took > mean { took } else { mean.mul_add(kept, took * (1.0 - kept)) };
        self.mean.store(mean.to_bits(), Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }

    /// Milliseconds; 0 as long as nothing is known.
    pub(crate) fn of_late(&self, now: u64) -> f64 {
        f64::from_bits(self.mean.load(Ordering::Relaxed)) * (-self.since(now) / MEMORY).exp()
    }

    fn since(&self, now: u64) -> f64 {
        now.saturating_sub(self.at.load(Ordering::Relaxed)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::pool;
    use super::*;

    #[test]
    fn the_better_of_two_is_taken() {
        for (latencies, active, weights, expected) in [
            ([10.0, 20.0], [0, 0], [1, 1], 0),
            ([9.0, 40.0], [1, 0], [1, 1], 0),
            ([10.0, 20.0], [3, 0], [1, 1], 1),
            ([10.0, 20.0], [0, 0], [1, 4], 1),
            ([0.0, 20.0], [9, 0], [1, 1], 0),
            ([0.0, 0.9], [1, 9], [1, 1], 0),
        ] {
            let mut two = pool(&[(weights[0], active[0]), (weights[1], active[1])]);
            (two.live[0].latency, two.live[1].latency) = (latencies[0], latencies[1]);
            for random in [0, 1, 1 << 32, u64::MAX] {
                assert_eq!(
                    pick(&two.candidates, two.live(), random),
                    Some(expected),
                    "{latencies:?} {active:?} {weights:?}"
                );
            }
        }
        let one = pool(&[(1, 0)]);
        assert_eq!(pick(&one.candidates, one.live(), 7), Some(0));
    }

    #[test]
    fn who_is_about_as_quick_as_the_other_gets_about_as_much() {
        let mut two = pool(&[(1, 0), (1, 0)]);
        (two.live[0].latency, two.live[1].latency) = (10.0, 13.0);
        let draw = |number: &u64| pick(&two.candidates, two.live(), super::super::rendezvous::mix(*number)) == Some(0);
        let first = (0..1000).filter(draw).count();
        assert!((400..600).contains(&first), "{first}");
    }

    #[test]
    fn peaks_count_at_once_and_are_forgotten() {
        let latency = Latency::default();
        assert_eq!(latency.of_late(5), 0.0);
        latency.note(10.0, 0);
        latency.note(100.0, 1);
        assert_eq!(latency.of_late(1), 100.0);
        (0..10).for_each(|n| latency.note(10.0, 1_000 * (n + 1)));
        let then = latency.of_late(10_000);
        assert!((10.0..60.0).contains(&then), "{then}");
        assert!(latency.of_late(100_000) < 0.1, "it is tried again");
    }
}
