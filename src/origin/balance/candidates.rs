//! The origins that one is picked from.

/// What a balancer knows of an origin for as long as nothing changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Its place in the pool.
    pub index: usize,
    /// Hash of its address: the same on every node and wherever it stands in the list.
    pub identity: u64,
    pub weight: u32,
}

/// What changes with each request.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Live {
    /// Requests it is working on.
    pub active: u32,
    /// Milliseconds that it took for a request of late ([`Latency`](super::p2c::Latency)).
    pub latency: f64,
}

/// Candidates by their weights. To draw one of a thousand takes no longer than one of three.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    all: Vec<Candidate>,
    /// Of the weights up to each candidate, with its own.
    sums: Vec<u64>,
    /// All have the same weight.
    pub are_alike: bool,
}

impl FromIterator<Candidate> for Candidates {
    fn from_iter<I: IntoIterator<Item = Candidate>>(all: I) -> Self {
        let all: Vec<Candidate> = all.into_iter().collect();
        let add = |sum: &mut u64, candidate: &Candidate| {
            *sum += u64::from(candidate.weight);
            Some(*sum)
        };
        let sums = all.iter().scan(0, add).collect();
        let are_alike = all.windows(2).all(|two| two[0].weight == two[1].weight);
        Candidates { all, sums, are_alike }
    }
}

impl Candidates {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Candidate> {
        self.all.iter()
    }

    /// The sum of all weights.
    pub(crate) fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    pub(super) fn get(&self, place: usize) -> &Candidate {
        &self.all[place]
    }

    /// The place of the candidate that a random number falls on, by weight.
    pub(super) fn draw(&self, random: u64) -> Option<usize> {
        Some(self.at(random.checked_rem(self.total())?))
    }

    /// Another one than that, by its weight among the others.
    pub(super) fn draw_another(&self, random: u64, place: usize) -> Option<usize> {
        let weight = u64::from(self.all[place].weight);
        let number = random.checked_rem(self.total() - weight)?;
        let is_behind = number >= self.sums[place] - weight;
        Some(self.at(if is_behind { number + weight } else { number }))
    }

    /// `number`: less than all weights together.
    fn at(&self, number: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::pool;

    #[test]
    fn every_number_falls_on_one_by_weight() {
        let three = pool(&[(1, 0), (0, 0), (3, 9)]).candidates;
        let order: Vec<Option<usize>> = (0..5).map(|random| three.draw(random)).collect();
        assert_eq!(order, [Some(0), Some(2), Some(2), Some(2), Some(0)]);
        for random in 0..5 {
            assert_eq!((three.draw_another(random, 0), three.draw_another(random, 2)), (Some(2), Some(0)));
        }
        assert_eq!(pool(&[(7, 0)]).candidates.draw_another(3, 0), None);
        assert_eq!(pool(&[(0, 0)]).candidates.draw(7), None);
    }
}
