//! Which origin takes the next request: pure functions over what is known of the candidates.

mod candidates;
mod hash;
mod least_conn;
pub(super) mod p2c;
pub(crate) mod rendezvous;
mod round_robin;
#[cfg(test)]
mod simulation;

use std::time::Duration;

use parking_lot::Mutex;

use crate::config::model::Balance;

pub(crate) use candidates::{Candidate, Candidates, Live};

/// The weight of an origin that takes requests for `up_for` milliseconds: it comes to the whole of it in `slow_start`, evenly, from
/// a tenth on. In hundredths where there is a slow start.
pub(crate) fn weight_of(weight: u16, slow_start: Option<Duration>, up_for: u64) -> u32 {
    let Some(slow_start) = slow_start else { return weight.into() };
    let part = u128::from(up_for) * 100 / slow_start.as_millis().max(1);
    u32::from(weight) * part.clamp(10, 100) as u32
}

/// Picks among the candidates that can serve now; gives its place in the pool. `None` only if there are none.
///
/// `live` tells of the origin at a place in the pool how it is now; `turns` is what is remembered from pick to pick, one entry an
/// origin; `random` a fresh random number; `key` the hash of what the request is told apart by; `max_load` is for [`Balance::Hash`].
pub(crate) fn balance(
    (policy, max_load): (Balance, Option<f64>),
    candidates: &Candidates,
    live: impl Fn(usize) -> Live,
    turns: &Mutex<Vec<i64>>,
    random: u64,
    key: u64,
) -> Option<usize> {
    match policy {
        Balance::RoundRobin => round_robin::pick(candidates.iter(), &mut turns.lock()),
        Balance::LeastConn => least_conn::pick(candidates, live, &mut turns.lock()),
        Balance::Random => candidates.draw(random).map(|place| candidates.get(place).index),
        Balance::P2c => p2c::pick(candidates, live, random),
        Balance::Hash => hash::pick(candidates, live, key, max_load),
    }
}

#[cfg(test)]
mod testing {
    use super::rendezvous::mix;
    use super::{Candidate, Candidates, Live};

    /// Origins and how they are.
    pub(super) struct Pool {
        pub candidates: Candidates,
        pub live: Vec<Live>,
    }

    impl Pool {
        pub(super) fn live(&self) -> impl Fn(usize) -> Live + '_ {
            |index| self.live[index]
        }
    }

    /// By weights and active requests.
    pub(super) fn pool(weights_and_active: &[(u32, u32)]) -> Pool {
        let candidate = |(index, (weight, _)): (usize, &(u32, u32))| Candidate {
            index,
            identity: mix(index as u64 + 1),
            weight: *weight,
        };
        let live = weights_and_active.iter().map(|(_, active)| Live { active: *active, latency: 0.0 }).collect();
        Pool { candidates: weights_and_active.iter().enumerate().map(candidate).collect(), live }
    }
}

#[cfg(test)]
mod tests {
    use super::rendezvous::mix;
    use super::testing::pool;
    use super::*;

    const ALL: [Balance; 5] = [Balance::RoundRobin, Balance::LeastConn, Balance::Random, Balance::P2c, Balance::Hash];

    #[test]
    fn shares_follow_the_weights() {
        let three = pool(&[(1, 0), (3, 0), (4, 0)]);
        for policy in [Balance::RoundRobin, Balance::Random, Balance::Hash] {
            let (turns, mut shares) = (Mutex::new(vec![0; 3]), [0_u32; 3]);
            for number in 0..100_000 {
                let (random, key) = (mix(number), mix(number + 1_000_000));
                let picked = balance((policy, None), &three.candidates, three.live(), &turns, random, key).unwrap();
                shares[picked] += 1;
            }
            for (share, weight) in shares.iter().zip([1, 3, 4]) {
                let part = f64::from(*share) / 100_000.0;
                assert!((part - f64::from(weight) / 8.0).abs() < 0.02, "{policy:?} {shares:?}");
            }
        }
    }

    #[test]
    fn what_comes_in_has_its_weight_by_and_by() {
        let slow = Some(Duration::from_secs(10));
        for (up_for, expected) in [(0, 30), (1_000, 30), (5_000, 150), (9_999, 297), (10_000, 300), (u64::MAX, 300)] {
            assert_eq!(weight_of(3, slow, up_for), expected, "{up_for}");
        }
        assert_eq!(weight_of(1000, slow, u64::MAX), 100_000);
        assert_eq!(weight_of(3, None, 0), 3);
    }

    #[test]
    fn no_candidates_no_origin() {
        for policy in ALL {
            for max_load in [None, Some(1.25)] {
                let pick = |of: &[(u32, u32)]| {
                    let pool = pool(of);
                    balance((policy, max_load), &pool.candidates, pool.live(), &Mutex::new(vec![0]), 1, 1)
                };
                assert_eq!((pick(&[]), pick(&[(1, 5)])), (None, Some(0)));
            }
        }
    }
}
