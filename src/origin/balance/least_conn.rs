//! Fewest active requests.

use smallvec::SmallVec;

use super::{Candidate, Candidates, Live, round_robin};

/// Fewest active requests for its weight. Among equals the turn decides: an idle pool is used evenly, and not its first origin alone.
pub(super) fn pick(candidates: &Candidates, live: impl Fn(usize) -> Live, turns: &mut [i64]) -> Option<usize> {
    let active = |candidate: &'_ Candidate| live(candidate.index).active;
    let all: SmallVec<[(&Candidate, u32); 8]> = candidates.iter().map(|one| (one, active(one))).collect();
    let least = all.iter().min_by(|a, b| load(a, b).cmp(&load(b, a)))?;
    let equals = all.iter().filter(|one| load(one, least) == load(least, one)).map(|(candidate, _)| *candidate);
    round_robin::pick(equals, turns)
}

/// a/wa < b/wb without division; the request to be placed counts too, so that idle heavy origins win.
fn load((_, active): &(&Candidate, u32), (other, _): &(&Candidate, u32)) -> u64 {
    (u64::from(*active) + 1) * u64::from(other.weight)
}

#[cfg(test)]
mod tests {
    use super::super::testing::pool;
    use super::*;

    #[test]
    fn active_requests_count_by_weight() {
        for (origins, expected) in
            [(&[(1, 3), (1, 2), (1, 4)][..], 1), (&[(1, 1), (4, 6)], 1), (&[(1, 1), (4, 8)], 0), (&[(1, 0), (2, 0)], 1)]
        {
            let pool = pool(origins);
            assert_eq!(pick(&pool.candidates, pool.live(), &mut [0; 3]), Some(expected), "{origins:?}");
        }
    }

    #[test]
    fn equals_take_turns() {
        let (four, mut turns) = (pool(&[(1, 0), (1, 0), (1, 5), (1, 0)]), [0; 4]);
        let order: Vec<usize> = (0..6).filter_map(|_| pick(&four.candidates, four.live(), &mut turns)).collect();
        assert_eq!(order, [0, 1, 3, 0, 1, 3]);
    }
}
