//! How much of a pool's work may be retries: where many requests fail, each one that is sent twice makes it worse.

use parking_lot::Mutex;

use crate::config::model::Budget;

/// Seconds that are looked back on.
const WINDOW: u64 = 10;

/// Counts a pool's requests and retries of the last seconds, each second's at its number modulo the window.
#[derive(Debug, Default)]
pub struct RetryBudget(Mutex<[Second; WINDOW as usize]>);

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    number: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// A request has come, in the second `now`.
    pub fn requested(&self, now: u64) {
        current(&mut self.0.lock(), now).requests += 1;
    }

    /// Whether one may be sent again; it counts as that then.
    pub fn may_retry(&self, budget: Budget, now: u64) -> bool {
        let seconds = &mut *self.0.lock();
        let recent = seconds.iter().filter(|second| second.number + WINDOW > now);
        let (requests, retries) =
            recent.fold((0, 0), |(requests, retries), second| (requests + second.requests, retries + second.retries));
        let may = retries < u64::from(budget.least).max((requests as f64 * budget.share.of_one()) as u64);
        if may {
            current(seconds, now).retries += 1;
        }
        may
    }
}

fn current(seconds: &mut [Second; WINDOW as usize], now: u64) -> &mut Second {
    let second = &mut seconds[(now % WINDOW) as usize];
    if second.number != now {
        *second = Second { number: now, ..Second::default() };
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every request fails, and whoever may tries again.
    #[test]
    fn it_holds_when_all_are_dying() {
        let (budget, mut random) = (RetryBudget::default(), fastrand::Rng::with_seed(17));
        let (mut requests, mut retries) = (0_u64, 0_u64);
        for second in 100..200 {
            for _ in 0..random.u64(0..500) {
                budget.requested(second);
                requests += 1;
                retries += (0..3).take_while(|_| budget.may_retry(Budget::default(), second)).count() as u64;
            }
        }
        assert!(retries <= requests / 5 + 10 * 10, "{retries} of {requests}");
        assert!(retries >= requests / 6, "and it is used: {retries} of {requests}");
    }

    #[test]
    fn a_fifth_may_be_sent_again_but_always_some() {
        let budget = RetryBudget::default();
        let retries = |now| (0..1000).take_while(|_| budget.may_retry(Budget::default(), now)).count();
        assert_eq!(retries(5), 10);
        (0..100).for_each(|_| budget.requested(6));
        assert_eq!(retries(6), 10, "twenty with those before");
        assert_eq!(retries(14), 0, "the same ten seconds");
        assert_eq!(retries(15), 10, "the first ten are over");
        assert_eq!(retries(40), 10, "nothing is remembered for ever");
    }
}
