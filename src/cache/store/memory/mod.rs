//! The memory tier: what is stored, found by its key, never more than the configured number of bytes.
//!
//! The index is our own (docs/decisions/0012-an-index-of-our-own-for-memory.md). It is split by the hash of the key, so that
//! hardly two threads want the same lock, and those that only read share it. Room is made by whoever needs it, before it
//! stores, in small steps that go round all shards.

mod ghosts;
mod shard;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::config::model::{CacheMemory, Eviction};
use crate::plan::CacheKey;

use super::variants::Variants;
use crate::cache::object::Object;
use crate::cache::part::Part;
use crate::cache::waiting::Waiting;
use shard::{Shard, Step};

/// What the index keeps for an entry, and what an allocator loses on its pieces.
const ENTRY_OVERHEAD: usize = 128;
/// Of the size that the tier begins with a shard has so much at least: a few objects want one order.
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

/// A handle on the objects in memory.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    /// A power of two of them.
    shards: Box<[RwLock<Shard<Variants>>]>,
    hasher: Hasher,
    evicted: Box<dyn Fn(&Variants) + Send + Sync>,
    max_size: AtomicU64,
    /// Whether the eviction is plain LRU.
    lru: AtomicBool,
    /// What is stored, and what room is being made for.
    bytes: AtomicU64,
    keys: AtomicU64,
    /// The shard that is to make room next.
    hand: AtomicUsize,
    /// One thread at a time makes the tier smaller.
    shrinking: Mutex<()>,
    /// Who holds what was stored, after it was.
    waiting: Arc<Waiting>,
}

/// What an entry becomes: nothing else, if there is none; gone, if there is none inside.
type Change = Option<Option<Variants>>;

/// Where a key has its place.
#[derive(Clone, Copy)]
struct Place {
    shard: usize,
    hash: u32,
}

impl MemoryStore {
    /// `evicted` is told of what had to make room.
    pub fn new(config: &CacheMemory, evicted: impl Fn(&Variants) + Send + Sync + 'static) -> Self {
        let shards = (config.max_size.0 / SHARD_SIZE).clamp(1, MAX_SHARDS).next_power_of_two();
        MemoryStore(Arc::new(Shared {
            shards: (0..shards).map(|_| RwLock::new(Shard::new())).collect(),
            hasher: Hasher::default(),
            evicted: Box::new(evicted),
            max_size: AtomicU64::new(config.max_size.0),
            lru: AtomicBool::new(config.eviction == Eviction::Lru),
            bytes: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            hand: AtomicUsize::new(0),
            shrinking: Mutex::new(()),
            waiting: Arc::default(),
        }))
    }

    /// The account of those who hold what this tier may let go of.
    pub fn waiting(&self) -> &Arc<Waiting> {
        &self.0.waiting
    }

    /// Takes over another size or way of evicting. What fits stays.
    pub fn configure(&self, config: &CacheMemory) {
        self.0.lru.store(config.eviction == Eviction::Lru, Ordering::Relaxed);
        let before = self.0.max_size.swap(config.max_size.0, Ordering::Relaxed);
        if config.max_size.0 < before && self.0.bytes.load(Ordering::Relaxed) > config.max_size.0 {
            let store = self.clone();
            if let Err(error) = std::thread::Builder::new().name("shrink".into()).spawn(move || store.shrink()) {
                tracing::error!(%error, "the memory tier shrinks only as more is stored, for want of a thread");
            }
        }
    }

    /// Bytes it may hold.
    pub fn max_size(&self) -> u64 {
        self.0.max_size.load(Ordering::Relaxed)
    }

    /// What is stored under a key. It counts as a use.
    pub fn get(&self, key: &str) -> Option<Variants> {
        let place = self.place(key);
        self.0.shards[place.shard].read().get(place.hash, |variants| variants.has_key(key)).cloned()
    }

    /// Stores an object beside the other variants of its key, in place of one that is selected alike.
    pub fn insert(&self, object: Arc<Object>, max_variants: usize) {
        self.change(object.key().as_str(), |before| Some(Some(Variants::with(before, object.clone(), max_variants))));
    }

    /// Puts what was read from disk into memory, unless something is there already: that is newer.
    pub fn promote(&self, object: Arc<Object>, max_variants: usize) {
        self.change(object.key().as_str(), |before| match before {
            Some(before) if before.objects().any(|other| other.variant == object.variant) => None,
            before => Some(Some(Variants::with_older(before, object.clone(), max_variants))),
        });
    }

    /// Stores a part, unless the whole is there, however stale; joined with what is there of the same thing, in
    /// the place of what is there of another.
    pub fn insert_part(&self, part: Part, max_variants: usize, max_object: u64, may_join: impl Fn(&Object) -> bool) {
        self.change(part.object.key().as_str(), |before| {
            Variants::with_part(before, part.clone(), max_variants, max_object, &may_join).map(Some)
        });
    }

    /// Takes one object out, or a part that is one, if it is still the one that is stored.
    pub fn remove(&self, object: &Arc<Object>) {
        self.change(object.key().as_str(), |before| {
            before
                .filter(|before| before.contains(object))
                .map(|before| before.without(|other| Arc::ptr_eq(other, object)))
        });
    }

    /// Takes out what is selected as this object is.
    pub fn remove_like(&self, object: &Object) {
        self.change(object.key().as_str(), |before| {
            before.map(|before| before.without(|other| other.variant == object.variant))
        });
    }

    /// Counts the bytes of an object anew, if it is still stored: it has grown.
    pub fn weigh_again(&self, object: &Arc<Object>) {
        self.change(object.key().as_str(), |before| {
            before.filter(|before| before.contains(object)).map(|before| Some(before.clone()))
        });
    }

    /// The object that is stored now with the body of this one, or the part that is one.
    pub fn with_body_of(&self, object: &Object) -> Option<Arc<Object>> {
        let (variants, _) = self.peek(object.key().as_str())?;
        variants.objects().find(|other| has_same_body(other, object)).cloned()
    }

    /// Takes all objects of a key out.
    pub fn remove_key(&self, key: &CacheKey) {
        self.change(key.as_str(), |before| before.map(|_| None));
    }

    /// All objects, in no order. What is stored meanwhile may or may not be among them.
    pub fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        let shards = self.0.shards.iter();
        shards.flat_map(|shard| {
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
    pub fn usage(&self) -> (u64, u64) {
        (self.0.bytes.load(Ordering::Relaxed), self.0.keys.load(Ordering::Relaxed))
    }

    /// What is stored under a key, and the bytes that it is counted with.
    fn peek(&self, key: &str) -> Option<(Variants, u32)> {
        let place = self.place(key);
        let shard = self.0.shards[place.shard].read();
        let found = shard.peek(place.hash, |variants| variants.has_key(key));
        found.map(|(variants, weight)| (variants.clone(), weight))
    }

    fn place(&self, key: &str) -> Place {
        let hash = self.0.hasher.hash_one(key);
        Place { shard: hash as usize & (self.0.shards.len() - 1), hash: (hash >> 32) as u32 }
    }

    fn eviction(&self) -> Eviction {
        if self.0.lru.load(Ordering::Relaxed) { Eviction::Lru } else { Eviction::S3Fifo }
    }

    /// Changes what is stored under a key. `change` is asked without any lock, and again if another was quicker.
    fn change(&self, key: &str, change: impl Fn(Option<&Variants>) -> Change) {
        let place = self.place(key);
        loop {
            let before = self.peek(key);
            let before = before.as_ref().map(|(variants, weight)| (variants, *weight));
            let Some(after) = change(before.map(|(variants, _)| variants)) else { return };
            let is_too_large = |after: &Variants| u64::from(weight(after)) > self.max_size();
            let (too_large, after) = match after {
                Some(after) if is_too_large(&after) => (Some(after), None),
                after => (None, after),
            };
            if self.exchange(place, key, before, after) {
                too_large.iter().for_each(|variants| (self.0.evicted)(variants));
                return;
            }
        }
    }

    /// Puts an entry into the place of another, if that is still the one that is there.
    fn exchange(&self, place: Place, key: &str, before: Option<(&Variants, u32)>, after: Option<Variants>) -> bool {
        let eviction = self.eviction();
        let needed = after.as_ref().map_or(0, weight);
        self.0.bytes.fetch_add(u64::from(needed), Ordering::Relaxed);
        // What is replaced is counted until it is: it may be what makes room.
        let leaving = before.map_or(0, |(_, weight)| weight);
        self.make_room(eviction, leaving.into(), u64::from(needed) + MAX_EXTRA);
        let is = |variants: &Variants| variants.has_key(key);
        let mut shard = self.0.shards[place.shard].write();
        let is_same = match (shard.peek(place.hash, is), before) {
            (Some((now, _)), Some((before, _))) => now.is(before),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.0.bytes.fetch_sub(u64::from(needed), Ordering::Relaxed);
            return false;
        }
        let stays = after.clone(); // the same responses, not copies
        let gone = match after {
            Some(after) => shard.put(place.hash, is, after, needed, eviction),
            None => shard.remove(place.hash, is),
        };
        match (&gone, needed) {
            (None, 1..) => _ = self.0.keys.fetch_add(1, Ordering::Relaxed),
            (Some(_), 0) => _ = self.0.keys.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        drop(shard);
        if let Some((gone, weight)) = gone {
            self.0.bytes.fetch_sub(u64::from(weight), Ordering::Relaxed);
            self.0.waiting.left(&gone, stays.as_ref());
        }
        true
    }

    /// Evicts until all fits, but for some bytes that are about to go anyway, and no more than so many at once.
    fn make_room(&self, eviction: Eviction, leaving: u64, most: u64) {
        let (mut freed, mut empty, mut steps) = (0, 0, 0);
        while self.0.bytes.load(Ordering::Relaxed) > self.max_size().saturating_add(leaving)
            && freed < most
            && empty < self.0.shards.len()
        {
            let at = self.0.hand.fetch_add(1, Ordering::Relaxed) & (self.0.shards.len() - 1);
            let step = self.0.shards[at].write().step(eviction, steps < MAX_SPARED);
            steps += 1;
            match step {
                Step::Empty => empty += 1,
                Step::Spared => empty = 0,
                Step::Evicted(variants, weight) => {
                    (empty, steps) = (0, 0);
                    freed += u64::from(weight);
                    self.0.keys.fetch_sub(1, Ordering::Relaxed);
                    self.0.bytes.fetch_sub(u64::from(weight), Ordering::Relaxed);
                    (self.0.evicted)(&variants);
                    self.0.waiting.left(&variants, None);
                }
            }
        }
    }

    fn shrink(&self) {
        let _one_at_a_time = self.0.shrinking.lock();
        let (_, before) = self.usage();
        self.make_room(self.eviction(), 0, u64::MAX);
        let (bytes, keys) = self.usage();
        tracing::info!(
            max_size = self.max_size(),
            bytes,
            dropped = before.saturating_sub(keys),
            "the memory tier has its new size"
        );
    }
}

/// Bytes of an entry.
fn weight(variants: &Variants) -> u32 {
    let weight: usize = variants.objects().map(|object| object.weight()).sum();
    u32::try_from(weight + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
}

fn has_same_body(one: &Object, other: &Object) -> bool {
    match (one.content.in_memory(), other.content.in_memory()) {
        (Some(one), Some(other)) => one.as_ptr() == other.as_ptr() && one.len() == other.len(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing;

    fn config(max_size: u64, eviction: Eviction) -> CacheMemory {
        CacheMemory { max_size: crate::config::read::ByteSize(max_size), eviction, ..CacheMemory::default() }
    }

    fn object(number: usize) -> Arc<Object> {
        sized(number, 1000)
    }

    fn sized(number: usize, bytes: usize) -> Arc<Object> {
        Arc::new(testing::object(&format!("h/{number}"), &[], vec![0; bytes], 0))
    }

    /// Keys and bytes as they are counted, which is as they are.
    fn usage(store: &MemoryStore) -> (usize, u64) {
        let objects: Vec<_> = store.objects().collect();
        let bytes = objects.iter().map(|object| (object.weight() + ENTRY_OVERHEAD) as u64).sum();
        assert_eq!(store.usage(), (bytes, objects.len() as u64));
        (objects.len(), bytes)
    }

    #[test]
    fn another_size_keeps_what_fits() {
        for eviction in [Eviction::S3Fifo, Eviction::Lru] {
            let store = MemoryStore::new(&config(1 << 20, eviction), |_| ());
            let hot = object(1000);
            store.insert(hot.clone(), 1);
            (0..400).for_each(|number| {
                store.get(hot.key().as_str());
                store.insert(object(number), 1);
            });
            let before = usage(&store).0;
            assert!(before > 300, "{before}");
            store.configure(&config(2 << 20, eviction));
            assert_eq!((usage(&store).0, store.max_size()), (before, 2 << 20), "larger: all of it");
            store.0.max_size.store(128 << 10, Ordering::Relaxed);
            store.shrink();
            let (after, bytes) = usage(&store);
            assert!((20..=100).contains(&after) && bytes <= 128 << 10, "{after}");
            assert!(store.get(hot.key().as_str()).is_some(), "what is asked for most stays");
        }
    }

    #[test]
    fn it_is_never_more_than_it_may_be() {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = evicted.clone();
        let store =
            MemoryStore::new(&config(1 << 20, Eviction::S3Fifo), move |_| _ = count.fetch_add(1, Ordering::Relaxed));
        for number in 0..100 {
            store.insert(sized(number, 200 << 10), 1);
            assert!(usage(&store).1 <= 1 << 20);
        }
        assert_eq!(usage(&store).0 as u64 + evicted.load(Ordering::Relaxed), 100);
        store.insert(sized(1000, 2 << 20), 1);
        assert!(store.get("s\u{1f}1\u{1f}h/1000").is_none(), "larger than everything");
        assert!(usage(&store).0 > 0, "nothing has made room for it");
    }

    #[test]
    fn what_is_removed_is_gone() {
        let store = MemoryStore::new(&config(1 << 20, Eviction::S3Fifo), |_| ());
        let (one, other) = (object(1), object(1));
        store.insert(one.clone(), 1);
        store.remove(&other);
        assert!(store.get(one.key().as_str()).is_some(), "that was another of the same key");
        store.insert(other.clone(), 1);
        assert!(store.get(one.key().as_str()).is_some_and(|there| there.contains(&other) && !there.contains(&one)));
        store.promote(one.clone(), 1);
        assert!(store.get(one.key().as_str()).is_some_and(|there| there.contains(&other)), "what is there is newer");
        store.remove(&other);
        assert_eq!(usage(&store), (0, 0));
        store.insert(one.clone(), 1);
        store.remove_key(&one.key().to_owned());
        assert_eq!(usage(&store), (0, 0));
    }

    #[test]
    fn many_threads_lose_nothing_and_keep_to_the_size() {
        let store = MemoryStore::new(&config(256 << 20, Eviction::S3Fifo), |_| ());
        store.0.max_size.store(4 << 20, Ordering::Relaxed); // several shards, and all of them in need of room
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = store.clone();
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    for _ in 0..5_000 {
                        let number = random.usize(..6_000);
                        let key = format!("s\u{1f}1\u{1f}h/{number}");
                        match (store.get(&key), random.u8(..10)) {
                            (Some(there), 0) => there.whole().for_each(|object| store.remove(object)),
                            (Some(there), 1) => there.whole().for_each(|object| store.weigh_again(object)),
                            (Some(there), _) => assert!(there.has_key(&key)),
                            (None, _) => store.insert(object(number), 1),
                        }
                    }
                });
            }
        });
        let (keys, bytes) = usage(&store);
        assert!(keys > 1000 && bytes <= 4 << 20, "{keys} {bytes}");
    }
}
