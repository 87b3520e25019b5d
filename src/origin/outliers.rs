//! Which address of a pool does worse than the others: pure functions over what each has come to of late.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::model::Passive;

use super::address::Address;
use super::record::{Counts, WINDOW};

/// Exchanges without which nothing is said of an address's share of failures, or of its time.
const ENOUGH: u64 = 20;
/// Requests that must have failed, other ones each: one URL that fails ejects nobody.
pub(super) const DISTINCT: usize = 3;
/// Milliseconds by which an address must be slower than the others, in any case.
const SLOWER: f64 = 50.0;

/// How often addresses are compared.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// An address, and what it had come to at the end of each interval of the window.
#[derive(Debug)]
pub(super) struct Watched {
    pub address: Arc<Address>,
    history: VecDeque<Counts>,
}

impl Watched {
    /// Of one that was not watched before, what it has come to so far is not of late.
    pub(super) fn new(address: Arc<Address>, history: Option<VecDeque<Counts>>) -> Self {
        let history = history.unwrap_or_else(|| VecDeque::from([address.record.counts()]));
        Watched { address, history }
    }

    pub(super) fn into_history(self) -> VecDeque<Counts> {
        self.history
    }

    /// What it has come to in the window. One that is ejected is asked nothing, and compared with nobody.
    pub(super) fn sample(&self, now: u64) -> Option<Sample> {
        let record = &self.address.record;
        let before = self.history.front().copied().unwrap_or_default();
        let sample = || Sample { counts: record.counts().since(before), distinct: record.distinct_of_late(now) };
        (!record.is_ejected()).then(sample)
    }

    pub(super) fn remember(&mut self) {
        if self.history.len() as u64 * INTERVAL.as_millis() as u64 >= WINDOW {
            self.history.pop_front();
        }
        self.history.push_back(self.address.record.counts());
    }
}

/// What an address has come to of late.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sample {
    pub counts: Counts,
    /// Of how many requests its failures are.
    pub distinct: usize,
}

/// What is wrong with an address, as the log says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outlier {
    /// Shares of requests that failed.
    Failing { share: f64, others: f64 },
    /// Milliseconds to an answer's head.
    Slow { took: f64, others: f64 },
}

impl fmt::Display for Outlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outlier::Failing { share, others } => write!(
                f,
                "{:.0} % of its requests of the last 10s failed, of the others' {:.0} %",
                share * 100.0,
                others * 100.0
            ),
            Outlier::Slow { took, others } => {
                write!(f, "its answers of the last 10s took {took:.0}ms, the others' {others:.0}ms")
            }
        }
    }
}

/// The worst address that should be ejected. Those that are ejected have no sample.
pub(super) fn worst(passive: &Passive, samples: &[Option<Sample>]) -> Option<(usize, Outlier)> {
    let all = sum(samples);
    let judged = samples.iter().enumerate().filter_map(|(at, sample)| {
        let sample = (*sample)?;
        let outlier = is_failing(passive, sample, all).or_else(|| is_slow(passive, sample, all))?;
        Some((at, outlier))
    });
    judged.max_by(|(_, one), (_, other)| badness(one).total_cmp(&badness(other)))
}

/// Whether most requests fail wherever they are sent: then it is no fault of the one address `but`.
pub(super) fn all_fail(samples: &[Option<Sample>], but: usize) -> bool {
    let own = samples.get(but).copied().flatten().unwrap_or_default();
    let rest = sum(samples).since(own.counts);
    rest.failed >= DISTINCT as u64 && rest.failed * 2 >= rest.asked
}

fn is_failing(passive: &Passive, sample: Sample, all: Counts) -> Option<Outlier> {
    let rest = all.since(sample.counts);
    if sample.counts.asked < ENOUGH || rest.asked < ENOUGH || sample.distinct < DISTINCT {
        return None;
    }
    let (share, others) = (share_of_failures(sample.counts), share_of_failures(rest));
    (share - others > passive.error_rate.of_one()).then_some(Outlier::Failing { share, others })
}

fn is_slow(passive: &Passive, sample: Sample, all: Counts) -> Option<Outlier> {
    let times = passive.latency?.times();
    let rest = all.since(sample.counts);
    if sample.counts.timed < ENOUGH || rest.timed < ENOUGH {
        return None;
    }
    let (took, others) = (mean(sample.counts), mean(rest));
    (took > others * times && took > others + SLOWER).then_some(Outlier::Slow { took, others })
}

/// What fails is worse than what is slow.
fn badness(outlier: &Outlier) -> f64 {
    match outlier {
        Outlier::Failing { share, others } => 2.0 + share - others,
        Outlier::Slow { took, others } => 1.0 - others / took,
    }
}

fn sum(samples: &[Option<Sample>]) -> Counts {
    samples.iter().flatten().fold(Counts::default(), |sum, Sample { counts, .. }| Counts {
        asked: sum.asked + counts.asked,
        failed: sum.failed + counts.failed,
        timed: sum.timed + counts.timed,
        micros: sum.micros.saturating_add(counts.micros),
    })
}

/// An exchange may fail after it was counted as answered, and a moment later than that.
fn share_of_failures(counts: Counts) -> f64 {
    (counts.failed as f64 / counts.asked.max(1) as f64).min(1.0)
}

fn mean(counts: Counts) -> f64 {
    counts.micros as f64 / 1000.0 / counts.timed.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::config;

    fn passive(text: &str) -> Passive {
        let text = format!("[pool.app]\norigins = [\"127.0.0.1:1\"]\npassive = {{ {text} }}");
        config(&text).pools[0].passive.clone().unwrap()
    }

    /// So many were asked and failed, and took so many milliseconds each.
    fn sample(asked: u64, failed: u64, millis: u64) -> Option<Sample> {
        let counts = Counts { asked, failed, timed: asked, micros: asked * millis * 1000 };
        Some(Sample { counts, distinct: failed.min(9) as usize })
    }

    #[test]
    fn who_fails_or_is_slow_against_the_others_is_the_worst() {
        let both = passive("error_rate = 0.3, latency = 3.0");
        for (name, samples, expected) in [
            ("all well", &[sample(100, 0, 10), sample(100, 1, 10)][..], None),
            ("one fails", &[sample(100, 40, 10), sample(100, 1, 10)], Some(0)),
            ("all fail", &[sample(100, 90, 10), sample(100, 80, 10)], None),
            ("the worst of two", &[sample(100, 50, 10), sample(100, 70, 10), sample(900, 0, 10)], Some(1)),
            ("too few", &[sample(10, 10, 10), sample(100, 0, 10)], None),
            ("no others", &[sample(100, 100, 10), None], None),
            ("one is slow", &[sample(100, 0, 10), sample(100, 0, 100)], Some(1)),
            ("slow, but quick enough", &[sample(100, 0, 1), sample(100, 0, 40)], None),
            ("to fail is worse", &[sample(100, 50, 10), sample(100, 0, 900), sample(900, 0, 10)], Some(0)),
            ("nothing yet", &[sample(0, 0, 0), sample(0, 0, 0)], None),
        ] {
            assert_eq!(worst(&both, samples).map(|(at, _)| at), expected, "{name}");
        }
        assert_eq!(worst(&passive(""), &[sample(100, 0, 10), sample(100, 0, 900)]), None, "latency is off");
    }

    #[test]
    fn one_url_is_no_reason() {
        let mut one = sample(100, 90, 10);
        one.as_mut().unwrap().distinct = 2;
        assert_eq!(worst(&passive(""), &[one, sample(100, 0, 10)]), None);
    }

    #[test]
    fn when_all_fail_it_is_nobodys_fault() {
        assert!(all_fail(&[sample(9, 9, 1), sample(100, 50, 1)], 0));
        assert!(!all_fail(&[sample(9, 9, 1), sample(100, 49, 1)], 0));
        assert!(!all_fail(&[sample(9, 9, 1), sample(2, 2, 1)], 0), "two are not enough to say so");
        assert!(!all_fail(&[sample(9, 9, 1)], 0));
    }
}
