//! A part of what is in memory: entries found by the hash of their key, and the order in which they make room. Pure.
//!
//! That order is S3-FIFO's (Yang et al., SOSP 2023): what is new waits in a small queue, and passes into the main one only
//! if it is asked for again before its turn comes to go, or if it went a short while ago. So what is asked for once passes
//! by what is asked for often. A use is a counter of two bits, nothing moves, and a look-up needs no lock against another.

use std::sync::atomic::{AtomicU8, Ordering};

use hashbrown::HashTable;

use crate::config::model::Eviction;

use super::super::slab::{NIL, Order, Slab};
use super::ghosts::Ghosts;

/// Of all bytes, so large a part is what is new.
const SMALL_PART: u64 = 10;
/// Uses that are counted: so often an entry of the main queue is spared.
const MAX_USES: u8 = 3;
/// About 50 bytes an entry, beside its value.
pub(crate) struct Shard<V> {
    table: HashTable<u32>,
    entries: Slab<Entry<V>>,
    small: Order,
    main: Order,
    ghosts: Ghosts,
}

struct Entry<V> {
    /// `None`: it is free.
    value: Option<V>,
    hash: u32,
    weight: u32,
    uses: AtomicU8,
    is_new: bool,
}

/// What one look for something to evict has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<V> {
    /// Nothing is there.
    Empty,
    /// What was next had been used, and stays for now.
    Spared,
    Evicted(V, u32),
}

impl<V> Shard<V> {
    pub(crate) fn new() -> Self {
        Shard {
            table: HashTable::new(),
            entries: Slab::default(),
            small: Order::default(),
            main: Order::default(),
            ghosts: Ghosts::default(),
        }
    }

    /// The value that has this hash and is this one. It counts as a use.
    pub(crate) fn get(&self, hash: u32, is: impl Fn(&V) -> bool) -> Option<&V> {
        let entry = &self.entries[self.find(hash, is)?];
        let uses = entry.uses.load(Ordering::Relaxed);
        if uses < MAX_USES {
            // Two at once may count for one.
            entry.uses.store(uses + 1, Ordering::Relaxed);
        }
        entry.value.as_ref()
    }

    /// The same without counting, with the weight that it was entered with.
    pub(crate) fn peek(&self, hash: u32, is: impl Fn(&V) -> bool) -> Option<(&V, u32)> {
        let entry = &self.entries[self.find(hash, is)?];
        entry.value.as_ref().map(|value| (value, entry.weight))
    }

    /// Enters a value, or puts it in the place of the one that is there; returns that and its weight.
    pub(crate) fn put(
        &mut self,
        hash: u32,
        is: impl Fn(&V) -> bool,
        value: V,
        weight: u32,
        eviction: Eviction,
    ) -> Option<(V, u32)> {
        let Some(at) = self.find(hash, is) else {
            let is_new = eviction == Eviction::S3Fifo && !self.ghosts.take(hash);
            let at = self.entries.insert(Entry { value: Some(value), hash, weight, uses: AtomicU8::new(0), is_new });
            self.link(at);
            self.table.insert_unique(spread(hash), at, |at| spread(self.entries[*at].hash));
            return None;
        };
        let entry = &mut self.entries[at];
        let before = std::mem::replace(&mut entry.weight, weight);
        let value = entry.value.replace(value);
        let queue = if entry.is_new { &mut self.small } else { &mut self.main };
        queue.bytes = queue.bytes - u64::from(before) + u64::from(weight);
        value.map(|value| (value, before))
    }

    pub(crate) fn remove(&mut self, hash: u32, is: impl Fn(&V) -> bool) -> Option<(V, u32)> {
        let at = self.find(hash, is)?;
        self.release(at)
    }

    /// Looks at what is next to make room. `spares`: it is spared if it had been used.
    pub(crate) fn step(&mut self, eviction: Eviction, spares: bool) -> Step<V> {
        let new = match eviction {
            Eviction::S3Fifo => (self.small.bytes + self.main.bytes) / SMALL_PART,
            Eviction::Lru => 0, // left from before: as if it were with the others
        };
        let from_small = self.small.bytes > new || self.main.oldest == NIL;
        let at = if from_small { self.small.oldest } else { self.main.oldest };
        let Some(entry) = self.entries.get_mut(at) else { return Step::Empty };
        let uses = *entry.uses.get_mut();
        if uses > 0 && spares {
            let spent = if from_small || eviction == Eviction::Lru { uses } else { 1 };
            *entry.uses.get_mut() = uses - spent;
            self.unlink(at);
            self.entries[at].is_new = false;
            self.link(at);
            return Step::Spared;
        }
        if from_small && eviction == Eviction::S3Fifo {
            self.ghosts.remember(entry.hash, self.table.len());
        }
        self.release(at).map_or(Step::Empty, |(value, weight)| Step::Evicted(value, weight))
    }

    /// As [`Slab::walk`].
    pub(crate) fn walk(&self, from: usize, most: usize) -> (impl Iterator<Item = &V>, Option<usize>) {
        let (entries, next) = self.entries.walk(from, most);
        (entries.filter_map(|entry| entry.value.as_ref()), next)
    }

    fn find(&self, hash: u32, is: impl Fn(&V) -> bool) -> Option<u32> {
        let same = |at: &u32| {
            let entry = &self.entries[*at];
            entry.hash == hash && entry.value.as_ref().is_some_and(&is)
        };
        self.table.find(spread(hash), same).copied()
    }

    fn release(&mut self, at: u32) -> Option<(V, u32)> {
        self.unlink(at);
        let entry = &mut self.entries[at];
        let (value, weight, hash) = (entry.value.take(), entry.weight, entry.hash);
        self.entries.free(at);
        if let Ok(found) = self.table.find_entry(spread(hash), |other| *other == at) {
            found.remove();
        }
        value.map(|value| (value, weight))
    }

    /// Enters it into its queue as the newest.
    fn link(&mut self, at: u32) {
        let Entry { weight, is_new, .. } = self.entries[at];
        let queue = if is_new { &mut self.small } else { &mut self.main };
        self.entries.link_newest(queue, at, weight.into());
    }

    fn unlink(&mut self, at: u32) {
        let Entry { weight, is_new, .. } = self.entries[at];
        let queue = if is_new { &mut self.small } else { &mut self.main };
        self.entries.unlink(queue, at, weight.into());
    }
}

/// What the table takes for a hash: it wants the uppermost bits to differ.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value is its own key and hash.
    struct Trial {
        shard: Shard<u32>,
        eviction: Eviction,
        room: u64,
    }

    impl Trial {
        fn new(eviction: Eviction, room: u64) -> Self {
            Trial { shard: Shard::new(), eviction, room }
        }

        fn bytes(&self) -> u64 {
            self.shard.small.bytes + self.shard.main.bytes
        }

        /// Asks for a value, and stores it if it is not there; whether it was.
        fn ask(&mut self, value: u32, weight: u32) -> bool {
            if self.shard.get(value, |other| *other == value).is_some() {
                return true;
            }
            while self.bytes() + u64::from(weight) > self.room && self.shard.step(self.eviction, true) != Step::Empty {}
            self.shard.put(value, |other| *other == value, value, weight, self.eviction);
            false
        }

        fn has(&self, value: u32) -> bool {
            self.shard.peek(value, |other| *other == value).is_some()
        }

        /// Everything agrees: the table, both queues both ways, and the bytes.
        fn check(&self) {
            let shard = &self.shard;
            let mut queued = 0;
            for (queue, is_new) in [(&shard.small, true), (&shard.main, false)] {
                let mut bytes = 0;
                for at in shard.entries.places(queue) {
                    let entry = &shard.entries[at];
                    assert_eq!(entry.is_new, is_new);
                    assert_eq!(shard.find(entry.hash, |value| Some(value) == entry.value.as_ref()), Some(at));
                    bytes += u64::from(entry.weight);
                    queued += 1;
                }
                assert_eq!(queue.bytes, bytes);
            }
            assert_eq!(queued, shard.table.len());
            assert_eq!(shard.walk(0, usize::MAX / 2).0.count(), queued);
        }
    }

    #[test]
    fn whatever_is_done_to_it_it_stays_whole() {
        fastrand::seed(1);
        for eviction in [Eviction::S3Fifo, Eviction::Lru] {
            let mut trial = Trial::new(eviction, 2000);
            for round in 0..20_000 {
                let value = fastrand::u32(..400);
                match fastrand::u8(..10) {
                    0 => _ = trial.shard.remove(value, |other| *other == value),
                    1 => _ = trial.shard.put(value, |other| *other == value, value, fastrand::u32(1..50), eviction),
                    2 => _ = trial.shard.step(eviction, true),
                    3 if round % 1000 == 0 => trial.eviction = Eviction::Lru,
                    _ => _ = trial.ask(value, fastrand::u32(1..50)),
                }
                if round % 97 == 0 {
                    trial.check();
                }
            }
            while trial.shard.step(eviction, true) != Step::Empty {}
            trial.check();
            assert_eq!((trial.bytes(), trial.shard.table.len()), (0, 0));
        }
    }

    #[test]
    fn a_scan_does_not_displace_what_is_asked_for() {
        let mut trial = Trial::new(Eviction::S3Fifo, 1000);
        for _ in 0..3 {
            (0..800).for_each(|value| _ = trial.ask(value, 1));
        }
        (10_000..30_000).for_each(|value| _ = trial.ask(value, 1));
        let left = (0..800).filter(|value| trial.has(*value)).count();
        assert_eq!(left, 800);
    }

    #[test]
    fn what_comes_back_soon_after_it_went_stays() {
        let mut trial = Trial::new(Eviction::S3Fifo, 100);
        (0..100).for_each(|value| _ = trial.ask(value, 1));
        (100..150).for_each(|value| _ = trial.ask(value, 1));
        assert!(!trial.has(0));
        trial.ask(0, 1);
        (1000..2000).for_each(|value| _ = trial.ask(value, 1));
        assert!(trial.has(0), "it is in the main queue");
    }

    #[test]
    fn lru_keeps_what_was_used_last() {
        let mut trial = Trial::new(Eviction::Lru, 100);
        (0..100).for_each(|value| _ = trial.ask(value, 1));
        (0..50).for_each(|value| _ = trial.ask(value, 1));
        (100..150).for_each(|value| _ = trial.ask(value, 1));
        assert!((0..50).all(|value| trial.has(value)) && (50..100).all(|value| !trial.has(value)));
    }

    #[test]
    fn a_heavy_value_makes_many_light_ones_go() {
        let mut trial = Trial::new(Eviction::S3Fifo, 1000);
        (0..100).for_each(|value| _ = trial.ask(value, 10));
        trial.ask(1000, 500);
        assert!(trial.has(1000) && trial.bytes() <= 1000 && trial.bytes() >= 900);
        assert_eq!(trial.shard.put(1000, |other| *other == 1000, 1000, 5, Eviction::S3Fifo), Some((1000, 500)));
        trial.check();
    }
}
