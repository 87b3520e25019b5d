//! What had to make room lately: hashes of keys, about as many as there are entries.

/// Hashes that share a set; of each set the oldest is forgotten first.
const WAYS: usize = 8;

/// The ghost queue of S3-FIFO. Sets of hashes stand for one queue: four bytes a hash, and nothing to link.
#[derive(Default)]
pub(crate) struct Ghosts {
    /// Of each the newest first; zero is none. A power of two, or none before something had to go.
    sets: Vec<[u32; WAYS]>,
}

impl Ghosts {
    /// Remembers one that goes, from among so many entries.
    pub(crate) fn remember(&mut self, hash: u32, entries: usize) {
        self.fit(entries);
        self.push(hash);
    }

    /// Whether one went lately. If so it is forgotten: it is there again.
    pub(crate) fn take(&mut self, hash: u32) -> bool {
        let set = self.set(hash);
        let Some(found) = set.and_then(|set| set.iter_mut().find(|ghost| **ghost == name(hash))) else { return false };
        *found = 0;
        true
    }

    fn set(&mut self, hash: u32) -> Option<&mut [u32; WAYS]> {
        let mask = self.sets.len().wrapping_sub(1);
        self.sets.get_mut(hash as usize & mask)
    }

    fn push(&mut self, hash: u32) {
        if let Some(set) = self.set(hash) {
            let last = set.iter().position(|ghost| *ghost == 0).unwrap_or(WAYS - 1);
            set[..=last].rotate_right(1);
            set[0] = name(hash);
        }
    }

    /// Room for as many ghosts as there are entries, and at most four times that.
    fn fit(&mut self, entries: usize) {
        let wanted = entries.div_ceil(WAYS).next_power_of_two();
        if self.sets.len() < wanted || self.sets.len() > 4 * wanted {
            let before = std::mem::replace(&mut self.sets, vec![[0; WAYS]; wanted]);
            for ghost in before.iter().flat_map(|set| set.iter().rev()).filter(|ghost| **ghost != 0) {
                self.push(*ghost);
            }
        }
    }
}

/// As it is remembered: zero stands for none.
fn name(hash: u32) -> u32 {
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_lately_is_known_once() {
        let mut ghosts = Ghosts::default();
        assert!(!ghosts.take(7));
        for hash in [7, 0, u32::MAX] {
            ghosts.remember(hash, 100);
            assert!(ghosts.take(hash) && !ghosts.take(hash), "{hash}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut ghosts = Ghosts::default();
        let hash = |number: u32| number.wrapping_mul(0x9e37_79b9);
        (0..10_000).for_each(|number| ghosts.remember(hash(number), 1000));
        let known = |ghosts: &mut Ghosts, range: std::ops::Range<u32>| range.filter(|n| ghosts.take(hash(*n))).count();
        assert_eq!(known(&mut ghosts, 0..7000), 0);
        let lately = known(&mut ghosts, 9500..10_000);
        assert!(lately > 490, "{lately}");
    }

    #[test]
    fn they_stay_known_when_the_number_of_entries_changes() {
        let mut ghosts = Ghosts::default();
        (1..=64).for_each(|hash| ghosts.remember(hash, 64));
        ghosts.remember(1000, 5000);
        let known = (1..=64).filter(|hash| ghosts.take(*hash)).count();
        assert_eq!(known, 64);
        let large = ghosts.sets.len();
        ghosts.remember(1001, 8);
        assert!(ghosts.sets.len() < large && ghosts.take(1001));
    }
}
