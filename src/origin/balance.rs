//! Which origin takes the next request: pure functions over what is known of the candidates.

use crate::config::model::Balance;

/// What a balancer knows of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its place in the pool.
    pub index: usize,
    /// Hash of its address: the same on every node and wherever it stands in the list.
    pub identity: u64,
    pub weight: u16,
    /// Requests it is working on.
    pub active: u32,
}

/// Picks among the candidates that can serve now. `None` only if there are none.
///
/// `turns` is the round robin's memory, one entry an origin of the pool; `random` a fresh random number;
/// `hash` that of the request's hash key.
pub(crate) fn balance(
    policy: Balance,
    candidates: &[Candidate],
    turns: &mut [i64],
    random: u64,
    hash: u64,
) -> Option<usize> {
    match policy {
        Balance::RoundRobin => smooth_weighted_round_robin(candidates, turns),
        Balance::LeastConn => least_connections(candidates, random),
        Balance::Random => weighted_random(candidates, random),
        Balance::Hash => weighted_rendezvous(candidates, hash),
    }
}

/// Spreads the turns of heavy origins evenly instead of bunching them (nginx's algorithm, 2012): each gets
/// its weight added, the richest serves and pays the sum of all.
fn smooth_weighted_round_robin(candidates: &[Candidate], turns: &mut [i64]) -> Option<usize> {
    let total: i64 = candidates.iter().map(|candidate| i64::from(candidate.weight)).sum();
    let mut best: Option<usize> = None;
    for candidate in candidates {
        let turn = turns.get_mut(candidate.index)?;
        *turn += i64::from(candidate.weight);
        if best.is_none_or(|best| turns[candidate.index] > turns[best]) {
            best = Some(candidate.index);
        }
    }
    turns[best?] -= total;
    best
}

/// Fewest active requests for its weight; among equals a random one, so that an idle pool is used evenly.
fn least_connections(candidates: &[Candidate], random: u64) -> Option<usize> {
    // a/wa < b/wb without division; the request to be placed counts too, so that idle heavy origins win.
    let load = |c: &Candidate, other: &Candidate| (u64::from(c.active) + 1) * u64::from(other.weight);
    let least = candidates.iter().min_by(|a, b| load(a, b).cmp(&load(b, a)))?;
    let equals: Vec<&Candidate> = candidates.iter().filter(|c| load(c, least) == load(least, c)).collect();
    Some(equals[(random % equals.len() as u64) as usize].index)
}

fn weighted_random(candidates: &[Candidate], random: u64) -> Option<usize> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let mut ticket = random.checked_rem(total)?;
    for candidate in candidates {
        match ticket.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => ticket = rest,
            None => return Some(candidate.index),
        }
    }
    None
}

/// Highest random weight (Thaler and Ravishankar 1998, weighted by -w/ln(h)): when an origin goes or comes,
/// only its own share of the keys moves.
fn weighted_rendezvous(candidates: &[Candidate], hash: u64) -> Option<usize> {
    let score = |candidate: &Candidate| {
        let mixed = mix(hash ^ candidate.identity);
        // In (0, 1): the 53 bits a double holds, moved off zero.
        let uniform = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(candidate.weight) / uniform.ln()
    };
    candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b))).map(|candidate| candidate.index)
}

/// The finaliser of SplitMix64 (Steele et al. 2014): every input bit moves every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of bytes for [`Balance::Hash`]; the same on every node and in every version.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let folded = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mix(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights_and_active: &[(u16, u32)]) -> Vec<Candidate> {
        let candidates = weights_and_active.iter().enumerate().map(|(index, &(weight, active))| {
            let identity = mix(index as u64 + 1);
            Candidate { index, identity, weight, active }
        });
        candidates.collect()
    }

    fn shares(policy: Balance, candidates: &[Candidate], requests: u64) -> Vec<u64> {
        let mut turns = vec![0; 8];
        let mut shares = vec![0; 8];
        for i in 0..requests {
            let picked = balance(policy, candidates, &mut turns, mix(i), mix(i + 1_000_000)).unwrap();
            shares[picked] += 1;
        }
        shares
    }

    #[test]
    fn round_robin_is_exact_and_smooth() {
        let three = candidates(&[(5, 0), (1, 0), (1, 0)]);
        let mut turns = [0; 3];
        let order: Vec<usize> =
            (0..7).map(|_| balance(Balance::RoundRobin, &three, &mut turns, 0, 0).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns, [0, 0, 0]);
    }

    #[test]
    fn shares_follow_the_weights() {
        let two = candidates(&[(1, 0), (3, 0)]);
        for policy in [Balance::RoundRobin, Balance::Random, Balance::Hash] {
            let shares = shares(policy, &two, 10_000);
            assert!((7_300..=7_700).contains(&shares[1]), "{policy:?} {shares:?}");
        }
    }

    #[test]
    fn least_connections_weighs_active_requests() {
        for (origins, expected) in
            [(&[(1, 3), (1, 2), (1, 4)][..], 1), (&[(1, 1), (4, 6)], 1), (&[(1, 1), (4, 8)], 0), (&[(1, 0), (2, 0)], 1)]
        {
            let candidates = candidates(origins);
            assert_eq!(balance(Balance::LeastConn, &candidates, &mut [], 7, 0), Some(expected), "{origins:?}");
        }
        let even = shares(Balance::LeastConn, &candidates(&[(1, 0), (1, 0)]), 1000);
        assert!((400..600).contains(&even[0]), "{even:?}");
    }

    #[test]
    fn hashing_moves_only_the_keys_of_the_origin_that_went() {
        let all = candidates(&[(1, 0), (2, 0), (1, 0)]);
        let without: Vec<Candidate> = all.iter().copied().filter(|c| c.index != 1).collect();
        for key in 0..1000_u64 {
            let before = balance(Balance::Hash, &all, &mut [], 0, mix(key));
            let after = balance(Balance::Hash, &without, &mut [], 0, mix(key));
            assert!(before == Some(1) || before == after, "{key}");
            assert_ne!(after, Some(1));
        }
    }

    #[test]
    fn no_candidates_no_origin() {
        for policy in [Balance::RoundRobin, Balance::LeastConn, Balance::Random, Balance::Hash] {
            assert_eq!(balance(policy, &[], &mut [], 1, 1), None);
        }
    }
}
