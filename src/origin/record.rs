//! What requests have come to at one address of an origin: the ground on which it is ejected (passive health).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Failures that are remembered.
const REMEMBERED: usize = 16;
/// Milliseconds between two failures of one row.
const ROW: u64 = 60_000;
/// Milliseconds that are looked back on.
pub(super) const WINDOW: u64 = 10_000;
/// An ejection is doubled so many times at most.
const MOST_DOUBLED: u32 = 5;

/// Counts the exchanges of one address. As long as all goes well it takes three additions an exchange, and no lock.
#[derive(Debug, Default)]
pub(crate) struct Record {
    asked: AtomicU64,
    failed: AtomicU64,
    /// Those whose time counts, and microseconds that they took to the head.
    timed: AtomicU64,
    micros: AtomicU64,
    /// The last exchange that ended has failed.
    is_failing: AtomicBool,
    failures: Mutex<Failures>,
    /// Milliseconds, [`ticks`](crate::clock::ticks); 0: it is not ejected.
    ejected_until: AtomicU64,
}

/// What a request is told apart by when it fails: a URL that fails wherever it is asked must not eject an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// It may be this request's own fault: its hash.
    Of(u64),
    /// It surely is not: there was no connection to send it by.
    Connection,
}

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// When the last one was.
    latest: u64,
    /// The last ones and when they were; the next goes to `next`.
    last: [Option<(Evidence, u64)>; REMEMBERED],
    next: usize,
    /// How long it was ejected last, and until when.
    ejection: Duration,
    until: u64,
    doubled: u32,
}

/// The failures of one address in a row, and of how many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub failures: u32,
    pub distinct: usize,
}

/// What has come of an address's exchanges so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub asked: u64,
    pub failed: u64,
    pub timed: u64,
    pub micros: u64,
}

impl Counts {
    /// What has come since.
    pub(super) fn since(self, before: Counts) -> Counts {
        Counts {
            asked: self.asked.saturating_sub(before.asked),
            failed: self.failed.saturating_sub(before.failed),
            timed: self.timed.saturating_sub(before.timed),
            micros: self.micros.saturating_sub(before.micros),
        }
    }
}

impl Record {
    /// One has had an answer's head, or none; `took`: if that tells of the origin.
    pub(super) fn asked(&self, took: Option<Duration>) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let Some(took) = took else { return };
        self.timed.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// An exchange has come to its end as it should.
    pub(super) fn succeeded(&self) {
        if self.is_failing.load(Ordering::Relaxed) {
            self.failures.lock().in_a_row = 0;
            self.is_failing.store(false, Ordering::Relaxed);
        }
    }

    /// One has failed: it had no answer, one that says that the origin is ill, or one that broke off.
    pub(super) fn failed(&self, evidence: Evidence, now: u64) -> Row {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.is_failing.store(true, Ordering::Relaxed);
        let failures = &mut *self.failures.lock();
        if now.saturating_sub(failures.latest) > ROW {
            failures.in_a_row = 0; // a download that its client broke off is no success, and no failure
        }
        failures.latest = now;
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.last[failures.next] = Some((evidence, now));
        failures.next = (failures.next + 1) % REMEMBERED;
        let row = (failures.in_a_row as usize).min(REMEMBERED);
        Row { failures: failures.in_a_row, distinct: failures.distinct(row, 0) }
    }

    /// Of how many requests those are that failed of late.
    pub(super) fn distinct_of_late(&self, now: u64) -> usize {
        self.failures.lock().distinct(REMEMBERED, now.saturating_sub(WINDOW))
    }

    pub(super) fn counts(&self) -> Counts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // In this order: what is counted meanwhile makes no failure of what was not asked.
        let (failed, micros) = (load(&self.failed), load(&self.micros));
        Counts { failed, micros, timed: load(&self.timed), asked: load(&self.asked) }
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) != 0
    }

    /// Ejects it for `first`, or twice the last time if it has not been well for as long as that since. `random` makes that up to
    /// a fifth longer: what was ejected at one time does not come back at one time.
    pub(super) fn eject(&self, first: Duration, now: u64, random: f64) -> Duration {
        let failures = &mut *self.failures.lock();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let is_again = failures.until != 0 && now < failures.until.saturating_add(millis(failures.ejection));
        failures.doubled = if is_again { (failures.doubled + 1).min(MOST_DOUBLED) } else { 0 };
        failures.ejection = first * (1 << failures.doubled);
        let time = failures.ejection.mul_f64(random.mul_add(0.2, 1.0));
        failures.until = now.saturating_add(millis(time)).max(1);
        failures.in_a_row = 0;
        self.is_failing.store(false, Ordering::Relaxed);
        self.ejected_until.store(failures.until, Ordering::Relaxed);
        time
    }

    /// Lets it back when its time has come; says whether that is so.
    pub(super) fn let_back(&self, now: u64) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        let is_over = until != 0 && now >= until;
        if is_over {
            self.ejected_until.store(0, Ordering::Relaxed);
        }
        is_over
    }
}

impl Failures {
    /// Of how many requests the last `most` failures are that are not older than `since`.
    fn distinct(&self, most: usize, since: u64) -> usize {
        let last = (1..=most).filter_map(|back| self.last[(self.next + REMEMBERED - back) % REMEMBERED]);
        let mut seen: smallvec::SmallVec<[Evidence; REMEMBERED]> = smallvec::SmallVec::new();
        for (evidence, at) in last {
            if at >= since && (evidence == Evidence::Connection || !seen.contains(&evidence)) {
                seen.push(evidence);
            }
        }
        seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Evidence::{Connection, Of};

    #[test]
    fn failures_count_in_a_row_and_by_what_failed() {
        let record = Record::default();
        for (evidence, failures, distinct) in
            [(Of(1), 1, 1), (Of(1), 2, 1), (Of(2), 3, 2), (Connection, 4, 3), (Connection, 5, 4), (Of(1), 6, 4)]
        {
            assert_eq!(record.failed(evidence, 5), Row { failures, distinct });
        }
        record.succeeded();
        assert_eq!(record.failed(Of(3), 5), Row { failures: 1, distinct: 1 });
        assert_eq!(record.failed(Of(4), 6 + ROW), Row { failures: 1, distinct: 1 }, "long after");
        record.succeeded();
        (0..100).for_each(|_| _ = record.failed(Of(3), 5));
        assert_eq!(record.failed(Of(3), 5), Row { failures: 101, distinct: 1 });
        assert_eq!((record.distinct_of_late(5), record.distinct_of_late(5 + WINDOW + 1)), (1, 0));
    }

    #[test]
    fn ejections_grow_and_shrink() {
        let (record, first) = (Record::default(), Duration::from_secs(10));
        let eject = |now| record.eject(first, now, 0.0).as_secs();
        assert_eq!(eject(1_000), 10);
        assert!(record.is_ejected() && !record.let_back(10_999) && record.let_back(11_000) && !record.is_ejected());
        assert_eq!(eject(20_000), 20, "it was back for less than the last time took");
        assert_eq!(eject(41_000), 40);
        assert_eq!([eject(90_000), eject(180_000), eject(400_000), eject(800_000)], [80, 160, 320, 320]);
        assert_eq!(eject(1_500_000), 10, "it was well for long");
        assert_eq!(record.eject(first, 9_000_000, 1.0).as_secs(), 12);
    }
}
