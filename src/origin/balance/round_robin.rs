//! Turns by weight.

use super::Candidate;

/// Spreads the turns of heavy origins evenly instead of bunching them (nginx's algorithm, 2012): each gets its weight added, the
/// richest serves and pays the sum of all. `turns`: what each origin of the pool has.
pub(super) fn pick<'c>(candidates: impl Iterator<Item = &'c Candidate> + Clone, turns: &mut [i64]) -> Option<usize> {
    let total: i64 = candidates.clone().map(|candidate| i64::from(candidate.weight)).sum();
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

#[cfg(test)]
mod tests {
    use super::super::testing::pool;
    use super::*;

    #[test]
    fn turns_are_exact_and_smooth() {
        for (weights, expected) in [
            (&[(5, 0), (1, 0), (1, 0)][..], &[0, 0, 1, 0, 2, 0, 0][..]),
            (&[(1, 0), (1, 0), (1, 0)], &[0, 1, 2]),
            (&[(1, 0), (2, 0)], &[1, 0, 1]),
            (&[(3, 0)], &[0, 0, 0]),
        ] {
            let pool = pool(weights);
            let mut turns = vec![0; weights.len()];
            let order: Vec<usize> = expected.iter().filter_map(|_| pick(pool.candidates.iter(), &mut turns)).collect();
            assert_eq!(order, expected, "{weights:?}");
            assert!(turns.iter().all(|turn| *turn == 0), "{weights:?}: after a round it begins anew");
        }
    }
}
