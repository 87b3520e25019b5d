//! What the balancers come to over many requests: a pool by itself, with a seed, without sockets or clocks.

use std::collections::BinaryHeap;

use super::p2c::Latency;
use super::testing::pool;
use super::*;

/// Requests that come at random, and origins that take so many milliseconds for one, exponentially distributed. Gives the times of
/// all, sorted, and how many each origin got.
fn run(
    policy: (Balance, Option<f64>),
    takes: &[f64],
    per_second: f64,
    requests: usize,
    key: impl Fn(&mut fastrand::Rng) -> u64,
) -> Run {
    let mut random = fastrand::Rng::with_seed(17);
    let mut pool = pool(&vec![(1, 0); takes.len()]);
    let latencies: Vec<Latency> = takes.iter().map(|_| Latency::default()).collect();
    let turns = Mutex::new(vec![0; takes.len()]);
    let (mut now, mut times, mut shares) = (0.0_f64, Vec::new(), vec![0; takes.len()]);
    let mut most_active = vec![0; takes.len()];
    // What runs, by when it is over: microseconds, negative, since the heap gives the greatest first.
    let mut running: BinaryHeap<(i64, usize, u64)> = BinaryHeap::new();
    for _ in 0..requests {
        now += -random.f64().ln() * 1000.0 / per_second;
        while let Some((over, index, took)) =
            running.peek().copied().filter(|(over, ..)| (-over) as f64 <= now * 1000.0)
        {
            running.pop();
            pool.live[index].active -= 1;
            latencies[index].note(took as f64 / 1000.0, (-over) as u64 / 1000);
        }
        for (live, latency) in pool.live.iter_mut().zip(&latencies) {
            live.latency = latency.of_late(now as u64);
        }
        let (number, key) = (random.u64(..), key(&mut random));
        let index = balance(policy, &pool.candidates, pool.live(), &turns, number, key).unwrap();
        let took = -random.f64().ln() * takes[index];
        pool.live[index].active += 1;
        most_active[index] = most_active[index].max(pool.live[index].active);
        running.push((-((now + took) * 1000.0) as i64, index, (took * 1000.0) as u64));
        times.push(took);
        shares[index] += 1;
    }
    times.sort_by(f64::total_cmp);
    Run { times, shares, most_active }
}

struct Run {
    times: Vec<f64>,
    shares: Vec<u32>,
    most_active: Vec<u32>,
}

impl Run {
    fn p99(&self) -> f64 {
        self.times[self.times.len() * 99 / 100]
    }
}

#[test]
fn a_slow_origin_gets_next_to_nothing_of_p2c() {
    let takes = [10.0, 10.0, 10.0, 100.0];
    let [turns, p2c] = [Balance::RoundRobin, Balance::P2c]
        .map(|policy| run((policy, None), &takes, 200.0, 100_000, |random| random.u64(..)));
    assert!(p2c.p99() <= turns.p99() / 2.0, "{} {}: {:?}", p2c.p99(), turns.p99(), p2c.shares);
    assert!(p2c.shares[3] > 0, "it is tried now and then");
}

#[test]
fn a_hot_key_does_not_overload_its_origin() {
    // Half of all requests are for one key.
    let key = |random: &mut fastrand::Rng| if random.bool() { 42 } else { random.u64(..) };
    let takes = [10.0; 8];
    let [free, bounded] =
        [None, Some(1.25)].map(|max_load| run((Balance::Hash, max_load), &takes, 20_000.0, 50_000, key));
    let most = |run: &Run| *run.most_active.iter().max().unwrap();
    // 200 are running, 25 of each.
    assert!(most(&free) > 80, "{:?}", free.most_active);
    assert!(most(&bounded) <= 45, "{:?}", bounded.most_active);
}
