//! An area of the memory tier: what is stored there, found by its key, never more than its number of bytes. It is all
//! sites', or one's own.
//!
//! It is split by the hash of the key, so that hardly two threads want the same lock, and those that only read share it.
//! Room is made by whoever needs it, before it stores, in small steps that go round all shards.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::cache::object::Object;
use crate::cache::waiting::Waiting;
use crate::config::model::Eviction;

use super::super::variants::Variants;
use super::shard::{Shard, Step};

/// What the index keeps for an entry, and what an allocator loses on its pieces.
pub(super) const ENTRY_OVERHEAD: usize = 128;
/// Of the size that an area begins with a shard has so much at least: a few objects want one order.
const SHARD_SIZE: u64 = 32 << 20;
const MAX_SHARDS: u64 = 1024;
/// Bytes that one who stores makes room for beyond what it needs: when the size shrinks, a thread of its own does the rest.
const MAX_EXTRA: u64 = 256 << 10;
/// Entries that were used and are spared for it in a row, at most: nobody is to wait for a walk through all of them.
const MAX_SPARED: usize = 1024;
/// Entries that are gone through under one lock.
const WALKED_AT_ONCE: usize = 256;

/// Quick, and seeded anew by each process: nobody can look for keys that meet in it.
type Hasher = hashbrown::DefaultHashBuilder;

/// What all areas share.
pub(super) struct Common {
    /// Is told of what had to make room.
    evicted: Box<dyn Fn(&Variants) + Send + Sync>,
    /// Whether the eviction is plain LRU.
    lru: AtomicBool,
    /// Who holds what was stored, after it was.
    pub waiting: Arc<Waiting>,
}

pub(super) struct Area {
    /// A power of two of them.
    shards: Box<[RwLock<Shard<Variants>>]>,
    hasher: Hasher,
    max_size: AtomicU64,
    /// What is stored, and what room is being made for.
    bytes: AtomicU64,
    keys: AtomicU64,
    /// The shard that is to make room next.
    hand: AtomicUsize,
    /// One thread at a time makes the area smaller.
    shrinking: Mutex<()>,
    common: Arc<Common>,
}

/// What an entry becomes: nothing else, if there is none; gone, if there is none inside.
pub(super) type Change = Option<Option<Variants>>;

/// Where a key has its place.
#[derive(Clone, Copy)]
struct Place {
    shard: usize,
    hash: u32,
}

impl Common {
    pub(super) fn new(eviction: Eviction, evicted: impl Fn(&Variants) + Send + Sync + 'static) -> Self {
        let lru = AtomicBool::new(eviction == Eviction::Lru);
        Common { evicted: Box::new(evicted), lru, waiting: Arc::default() }
    }

    pub(super) fn set_eviction(&self, eviction: Eviction) {
        self.lru.store(eviction == Eviction::Lru, Ordering::Relaxed);
    }

    fn eviction(&self) -> Eviction {
        if self.lru.load(Ordering::Relaxed) { Eviction::Lru } else { Eviction::S3Fifo }
    }
}

impl Area {
    pub(super) fn new(max_size: u64, common: Arc<Common>) -> Self {
        let shards = (max_size / SHARD_SIZE).clamp(1, MAX_SHARDS).next_power_of_two();
        Area {
            shards: (0..shards).map(|_| RwLock::new(Shard::new())).collect(),
            hasher: Hasher::default(),
            max_size: AtomicU64::new(max_size),
            bytes: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            hand: AtomicUsize::new(0),
            shrinking: Mutex::new(()),
            common,
        }
    }

    /// Takes over another size. Whether what is there has to shrink to it.
    pub(super) fn resize(&self, max_size: u64) -> bool {
        let before = self.max_size.swap(max_size, Ordering::Relaxed);
        max_size < before && self.bytes.load(Ordering::Relaxed) > max_size
    }

    /// Bytes it may hold.
    pub(super) fn max_size(&self) -> u64 {
        self.max_size.load(Ordering::Relaxed)
    }

    /// What is stored under a key. It counts as a use.
    pub(super) fn get(&self, key: &str) -> Option<Variants> {
        let place = self.place(key);
        self.shards[place.shard].read().get(place.hash, |variants| variants.has_key(key)).cloned()
    }

    /// All objects, in no order. What is stored meanwhile may or may not be among them.
    pub(super) fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        self.shards.iter().flat_map(|shard| {
            let mut next = Some(0);
            std::iter::from_fn(move || {
                let shard = shard.read();
                let (some, then) = shard.walk(next?, WALKED_AT_ONCE);
                next = then;
                Some(some.flat_map(Variants::objects).cloned().collect::<Vec<_>>())
            })
            .flatten()
        })
    }

    /// Bytes and keys stored.
    pub(super) fn usage(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.keys.load(Ordering::Relaxed))
    }

    /// What is stored under a key, and the bytes that it is counted with.
    pub(super) fn peek(&self, key: &str) -> Option<(Variants, u32)> {
        let place = self.place(key);
        let shard = self.shards[place.shard].read();
        let found = shard.peek(place.hash, |variants| variants.has_key(key));
        found.map(|(variants, weight)| (variants.clone(), weight))
    }

    fn place(&self, key: &str) -> Place {
        let hash = self.hasher.hash_one(key);
        Place { shard: hash as usize & (self.shards.len() - 1), hash: (hash >> 32) as u32 }
    }

    /// Changes what is stored under a key. `change` is asked without any lock, and again if another was quicker.
    pub(super) fn change(&self, key: &str, change: impl Fn(Option<&Variants>) -> Change) {
        let place = self.place(key);
        loop {
            let before = self.peek(key);
            let before = before.as_ref().map(|(variants, weight)| (variants, *weight));
            let Some(mut after) = change(before.map(|(variants, _)| variants)) else { return };
            let mut too_many = Vec::new();
            while let Some(variants) = after.take_if(|after| u64::from(weight(after)) > self.max_size()) {
                let (oldest, others) = variants.split_off_oldest();
                too_many.push(oldest);
                after = others;
            }
            if self.exchange(place, key, before, after) {
                too_many.iter().for_each(|variants| (self.common.evicted)(variants));
                return;
            }
        }
    }

    /// Puts an entry into the place of another, if that is still the one that is there.
    fn exchange(&self, place: Place, key: &str, before: Option<(&Variants, u32)>, after: Option<Variants>) -> bool {
        let eviction = self.common.eviction();
        let needed = after.as_ref().map_or(0, weight);
        self.bytes.fetch_add(u64::from(needed), Ordering::Relaxed);
        // What is replaced is counted until it is: it may be what makes room.
        let leaving = before.map_or(0, |(_, weight)| weight);
        self.make_room(eviction, leaving.into(), u64::from(needed) + MAX_EXTRA);
        let is = |variants: &Variants| variants.has_key(key);
        let mut shard = self.shards[place.shard].write();
        let is_same = match (shard.peek(place.hash, is), before) {
            (Some((now, _)), Some((before, _))) => now.is(before),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.bytes.fetch_sub(u64::from(needed), Ordering::Relaxed);
            return false;
        }
        let stays = after.clone(); // the same responses, not copies
        let gone = match after {
            Some(after) => shard.put(place.hash, is, after, needed, eviction),
            None => shard.remove(place.hash, is),
        };
        match (&gone, needed) {
            (None, 1..) => _ = self.keys.fetch_add(1, Ordering::Relaxed),
            (Some(_), 0) => _ = self.keys.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        drop(shard);
        if let Some((gone, weight)) = gone {
            self.bytes.fetch_sub(u64::from(weight), Ordering::Relaxed);
            self.common.waiting.left(&gone, stays.as_ref());
        }
        true
    }

    /// Evicts until all fits, but for some bytes that are about to go anyway, and no more than so many at once.
    fn make_room(&self, eviction: Eviction, leaving: u64, most: u64) {
        let (mut freed, mut empty, mut steps) = (0, 0, 0);
        while self.bytes.load(Ordering::Relaxed) > self.max_size().saturating_add(leaving)
            && freed < most
            && empty < self.shards.len()
        {
            let at = self.hand.fetch_add(1, Ordering::Relaxed) & (self.shards.len() - 1);
            let step = self.shards[at].write().step(eviction, steps < MAX_SPARED);
            steps += 1;
            match step {
                Step::Empty => empty += 1,
                Step::Spared => empty = 0,
                Step::Evicted(variants, weight) => {
                    (empty, steps) = (0, 0);
                    freed += u64::from(weight);
                    self.keys.fetch_sub(1, Ordering::Relaxed);
                    self.bytes.fetch_sub(u64::from(weight), Ordering::Relaxed);
                    (self.common.evicted)(&variants);
                    self.common.waiting.left(&variants, None);
                }
            }
        }
    }

    /// Lets go of what is too much. Says how many keys that were.
    pub(super) fn shrink(&self) -> u64 {
        let _one_at_a_time = self.shrinking.lock();
        let (_, before) = self.usage();
        self.make_room(self.common.eviction(), 0, u64::MAX);
        before.saturating_sub(self.usage().1)
    }

    /// Takes a key out.
    pub(super) fn remove(&self, key: &str) {
        self.change(key, |before| before.map(|_| None));
    }
}

/// Bytes of an entry.
fn weight(variants: &Variants) -> u32 {
    let weight: usize = variants.objects().map(|object| object.weight()).sum();
    u32::try_from(weight + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
}
