//! Keys to origins, always the same ones.

use super::rendezvous::{mix, score};
use super::{Candidate, Candidates, Live};

/// The origin of a key. With `max_load` of more than 1 none takes more requests than so many times its share of all that are active:
/// the key's next origin has what is beyond (Mirrokni, Thorup and Zadimoghaddam 2018). `None`: without bound.
pub(super) fn pick(
    candidates: &Candidates,
    live: impl Fn(usize) -> Live,
    key: u64,
    max_load: Option<f64>,
) -> Option<usize> {
    let bounded = max_load.and_then(|max_load| {
        let active = |candidate: &Candidate| f64::from(live(candidate.index).active);
        // With the request that is to be placed.
        let all = 1.0 + candidates.iter().map(active).sum::<f64>();
        let share = max_load * all / candidates.total() as f64;
        let has_room = |one: &&Candidate| active(one) + 1.0 <= (share * f64::from(one.weight)).ceil();
        best(candidates.iter().filter(has_room), candidates.are_alike, key)
    });
    bounded.or_else(|| best(candidates.iter(), candidates.are_alike, key))
}

/// The candidate with the highest score. Of those that weigh the same that is the one with the highest hash: no logarithm.
fn best<'c>(among: impl Iterator<Item = &'c Candidate>, are_alike: bool, key: u64) -> Option<usize> {
    let best = match are_alike {
        true => among.max_by_key(|one| mix(key ^ one.identity)),
        false => among
            .map(|one| (score(key, one.identity, one.weight), one))
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, one)| one),
    };
    best.map(|one| one.index)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Pool, pool};
    use super::*;

    fn free(pool: &Pool, key: u64) -> Option<usize> {
        pick(&pool.candidates, pool.live(), key, None)
    }

    /// The same without one of its origins.
    fn without(all: &Pool, index: usize) -> Pool {
        let candidates = all.candidates.iter().copied().filter(|candidate| candidate.index != index).collect();
        Pool { candidates, live: all.live.clone() }
    }

    #[test]
    fn only_the_keys_of_the_origin_that_went_move() {
        for weights in [[1, 2, 1], [1, 1, 1]] {
            let all = pool(&weights.map(|weight| (weight, 0)));
            let less = without(&all, 1);
            for key in 0..1000_u64 {
                let (before, after) = (free(&all, mix(key)), free(&less, mix(key)));
                assert!(before == Some(1) || before == after, "{key}");
                assert_ne!(after, Some(1));
            }
        }
    }

    #[test]
    fn the_same_weights_make_the_same_choice_by_either_way() {
        let all = pool(&[(3, 0); 9]);
        for key in (0..1000).map(mix) {
            assert_eq!(best(all.candidates.iter(), true, key), best(all.candidates.iter(), false, key));
        }
    }

    #[test]
    fn of_one_origin_in_n_that_goes_hardly_more_than_one_key_in_n_moves() {
        for count in [3, 10, 100] {
            let all = pool(&vec![(1, 0); count]);
            let less = without(&all, 0);
            let moved = (0..20_000).filter(|key| free(&all, mix(*key)) != free(&less, mix(*key))).count();
            assert!(moved as f64 <= 1.2 * 20_000.0 / count as f64, "{count}: {moved}");
        }
    }

    #[test]
    fn what_is_beyond_the_bound_goes_to_the_next() {
        let most_of = |active: &[(u32, u32)], max_load| {
            let pool = pool(active);
            pick(&pool.candidates, pool.live(), HOT, Some(max_load)).unwrap()
        };
        let own = free(&pool(&[(1, 0); 4]), HOT).unwrap();
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
