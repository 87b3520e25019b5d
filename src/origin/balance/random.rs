//! Chance by weight.

use super::Candidate;

/// `random`: a fresh random number.
pub(super) fn pick(candidates: &[Candidate], random: u64) -> Option<usize> {
    ticket(candidates, random).map(|at| candidates[at].index)
}

/// The place among the candidates that a random number falls on.
pub(super) fn ticket(candidates: &[Candidate], random: u64) -> Option<usize> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    let mut ticket = random.checked_rem(total)?;
    candidates.iter().position(|candidate| match ticket.checked_sub(u64::from(candidate.weight)) {
        Some(rest) => {
            ticket = rest;
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::candidates;
    use super::*;

    #[test]
    fn every_number_falls_on_one_by_weight() {
        let three = candidates(&[(1, 0), (0, 0), (3, 9)]);
        let order: Vec<Option<usize>> = (0..5).map(|random| pick(&three, random)).collect();
        assert_eq!(order, [Some(0), Some(2), Some(2), Some(2), Some(0)]);
        assert_eq!(pick(&candidates(&[(0, 0)]), 7), None);
    }
}
