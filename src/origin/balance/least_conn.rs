//! Fewest active requests.

use super::Candidate;
use super::round_robin;

/// Fewest active requests for its weight. Among equals the turn decides: an idle pool is used evenly, and not its first origin alone.
pub(super) fn pick(candidates: &[Candidate], turns: &mut [i64]) -> Option<usize> {
    let least = candidates.iter().min_by(|a, b| load(a, b).cmp(&load(b, a)))?;
    let equals = candidates.iter().filter(|candidate| load(candidate, least) == load(least, candidate));
    let equals: smallvec::SmallVec<[Candidate; 8]> = equals.copied().collect();
    round_robin::pick(&equals, turns)
}

/// a/wa < b/wb without division; the request to be placed counts too, so that idle heavy origins win.
fn load(one: &Candidate, other: &Candidate) -> u64 {
    (u64::from(one.active) + 1) * u64::from(other.weight)
}

#[cfg(test)]
mod tests {
    use super::super::testing::candidates;
    use super::*;

    #[test]
    fn active_requests_count_by_weight() {
        for (origins, expected) in
            [(&[(1, 3), (1, 2), (1, 4)][..], 1), (&[(1, 1), (4, 6)], 1), (&[(1, 1), (4, 8)], 0), (&[(1, 0), (2, 0)], 1)]
        {
            assert_eq!(pick(&candidates(origins), &mut [0; 3]), Some(expected), "{origins:?}");
        }
    }

    #[test]
    fn equals_take_turns() {
        let (four, mut turns) = (candidates(&[(1, 0), (1, 0), (1, 5), (1, 0)]), [0; 4]);
        let order: Vec<usize> = (0..6).filter_map(|_| pick(&four, &mut turns)).collect();
        assert_eq!(order, [0, 1, 3, 0, 1, 3]);
    }
}
