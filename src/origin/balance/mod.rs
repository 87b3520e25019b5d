//! Which origin takes the next request: pure functions over what is known of the candidates.

mod hash;
mod least_conn;
pub(super) mod p2c;
mod random;
pub(crate) mod rendezvous;
mod round_robin;
#[cfg(test)]
mod simulation;

use std::time::Duration;

use crate::config::model::Balance;

/// What a balancer knows of an origin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Its place in the pool.
    pub index: usize,
    /// Hash of its address: the same on every node and wherever it stands in the list.
    pub identity: u64,
    pub weight: u32,
    /// Requests it is working on.
    pub active: u32,
    /// Milliseconds that it took for a request of late ([`p2c::Latency`]).
    pub latency: f64,
}

/// The weight of an origin that takes requests for `up_for` milliseconds: it comes to the whole of it in `slow_start`, evenly, from
/// a tenth on. In hundredths where there is a slow start.
pub(crate) fn weight_of(weight: u16, slow_start: Option<Duration>, up_for: u64) -> u32 {
    let Some(slow_start) = slow_start else { return weight.into() };
    let part = u128::from(up_for) * 100 / slow_start.as_millis().max(1);
    u32::from(weight) * part.clamp(10, 100) as u32
}

/// Picks among the candidates that can serve now. `None` only if there are none.
///
/// `turns` is what is remembered from pick to pick, one entry an origin of the pool; `random` a fresh random number; `key` the hash
/// of what the request is told apart by; `max_load` is for [`Balance::Hash`].
pub(crate) fn balance(
    (policy, max_load): (Balance, Option<f64>),
    candidates: &[Candidate],
    turns: &mut [i64],
    random: u64,
    key: u64,
) -> Option<usize> {
    match policy {
        Balance::RoundRobin => round_robin::pick(candidates, turns),
        Balance::LeastConn => least_conn::pick(candidates, turns),
        Balance::Random => random::pick(candidates, random),
        Balance::P2c => p2c::pick(candidates, random),
        Balance::Hash => hash::pick(candidates, key, max_load),
    }
}

#[cfg(test)]
mod testing {
    use super::Candidate;
    use super::rendezvous::mix;

    /// By weights and active requests.
    pub(super) fn candidates(weights_and_active: &[(u32, u32)]) -> Vec<Candidate> {
        let candidates = weights_and_active.iter().enumerate().map(|(index, &(weight, active))| {
            let identity = mix(index as u64 + 1);
            Candidate { index, identity, weight, active, latency: 0.0 }
        });
        candidates.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::rendezvous::mix;
    use super::testing::candidates;
    use super::*;

    const ALL: [Balance; 5] = [Balance::RoundRobin, Balance::LeastConn, Balance::Random, Balance::P2c, Balance::Hash];

    #[test]
    fn shares_follow_the_weights() {
        let three = candidates(&[(1, 0), (3, 0), (4, 0)]);
        for policy in [Balance::RoundRobin, Balance::Random, Balance::Hash] {
            let (mut turns, mut shares) = ([0; 3], [0_u32; 3]);
            for number in 0..100_000 {
                let picked = balance((policy, None), &three, &mut turns, mix(number), mix(number + 1_000_000)).unwrap();
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
                assert_eq!(balance((policy, max_load), &[], &mut [], 1, 1), None);
                assert_eq!(balance((policy, max_load), &candidates(&[(1, 5)]), &mut [0], 1, 1), Some(0));
            }
        }
    }
}
