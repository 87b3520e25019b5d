//! Keys to origins, always the same ones.

use super::Candidate;
use super::rendezvous::score;

/// The origin of a key. With `max_load` of more than 1 none takes more requests than so many times its share of all that are active:
/// the key's next origin has what is beyond (Mirrokni, Thorup and Zadimoghaddam 2018). `None`: without bound.
pub(super) fn pick(candidates: &[Candidate], key: u64, max_load: Option<f64>) -> Option<usize> {
    let score = |candidate: &&Candidate| score(key, candidate.identity, candidate.weight);
    let best = |among: &mut dyn Iterator<Item = &Candidate>| {
        among.map(|candidate| (score(&candidate), candidate.index)).max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let bounded = max_load.and_then(|max_load| {
        let weights: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        // With the request that is to be placed.
        let active = 1.0 + candidates.iter().map(|candidate| f64::from(candidate.active)).sum::<f64>();
        let most = |candidate: &&Candidate| (max_load * active * f64::from(candidate.weight) / weights).ceil();
        best(&mut candidates.iter().filter(|candidate| f64::from(candidate.active) + 1.0 <= most(candidate)))
    });
    bounded.or_else(|| best(&mut candidates.iter())).map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::super::rendezvous::mix;
    use super::super::testing::candidates;
    use super::*;

    #[test]
    fn only_the_keys_of_the_origin_that_went_move() {
        let all = candidates(&[(1, 0), (2, 0), (1, 0)]);
        let without: Vec<Candidate> = all.iter().copied().filter(|candidate| candidate.index != 1).collect();
        for key in 0..1000_u64 {
            let (before, after) = (pick(&all, mix(key), None), pick(&without, mix(key), None));
            assert!(before == Some(1) || before == after, "{key}");
            assert_ne!(after, Some(1));
        }
    }

    #[test]
    fn of_one_origin_in_n_that_goes_hardly_more_than_one_key_in_n_moves() {
        for count in [3, 10, 100] {
            let all = candidates(&vec![(1, 0); count]);
            let without = &all[1..];
            let moved = (0..20_000).filter(|key| pick(&all, mix(*key), None) != pick(without, mix(*key), None)).count();
            assert!(moved as f64 <= 1.2 * 20_000.0 / count as f64, "{count}: {moved}");
        }
    }

    #[test]
    fn what_is_beyond_the_bound_goes_to_the_next() {
        let most_of = |active: &[(u32, u32)], max_load| pick(&candidates(active), HOT, Some(max_load)).unwrap();
        let own = pick(&candidates(&[(1, 0); 4]), HOT, None).unwrap();
        let loaded = |on_own: u32, on_others: u32| {
            let mut all = [(1, on_others); 4];
            all[own].1 = on_own;
            all
        };
        assert_eq!(most_of(&loaded(0, 0), 1.25), own);
        assert_eq!(most_of(&loaded(10, 10), 1.25), own, "11 of 41, and the bound is 13");
        assert_ne!(most_of(&loaded(15, 10), 1.25), own, "16 would be more than 1.25 of 11.5");
        assert_eq!(most_of(&loaded(15, 10), 2.0), own);
    }

    const HOT: u64 = 42;
}
