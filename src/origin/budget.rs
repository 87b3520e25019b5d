//! How much of a pool's work may be retries: where many requests fail, each one that is sent twice makes it worse.

use parking_lot::Mutex;

use crate::clock::ticks;

/// Seconds that are looked back on.
const WINDOW: u64 = 10;
/// Retries for a hundred requests, and those that there may be in any case.
const PERCENT: u64 = 20;
const LEAST: u64 = 3;

/// Counts a pool's requests and retries of the last seconds.
#[derive(Debug, Default)]
pub struct RetryBudget(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Of each second, at its number modulo the window.
    seconds: [Second; WINDOW as usize],
}

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    number: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// A request has come.
    pub fn requested(&self) {
        self.0.lock().second(ticks() / 1000).requests += 1;
    }

    /// Whether one may be sent again; it counts as that then.
    pub fn may_retry(&self) -> bool {
        self.0.lock().may_retry(ticks() / 1000)
    }
}

impl Counted {
    fn second(&mut self, now: u64) -> &mut Second {
        let second = &mut self.seconds[(now % WINDOW) as usize];
        if second.number != now {
            *second = Second { number: now, ..Second::default() };
        }
        second
    }

    fn may_retry(&mut self, now: u64) -> bool {
        let recent = self.seconds.iter().filter(|second| second.number + WINDOW > now);
        let (requests, retries) =
            recent.fold((0, 0), |(requests, retries), second| (requests + second.requests, retries + second.retries));
        let may = retries < LEAST.max(requests * PERCENT / 100);
        if may {
            self.second(now).retries += 1;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_may_be_sent_again_but_always_some() {
        let mut counted = Counted::default();
        let retries = |counted: &mut Counted, now| (0..1000).take_while(|_| counted.may_retry(now)).count();
        assert_eq!(retries(&mut counted, 5), 3);
        counted.second(6).requests = 100;
        assert_eq!(retries(&mut counted, 6), 17, "twenty with those before");
        assert_eq!(retries(&mut counted, 14), 0, "the same ten seconds");
        assert_eq!(retries(&mut counted, 15), 3, "the first three are over");
        assert_eq!(retries(&mut counted, 40), 3, "nothing is remembered for ever");
    }
}
