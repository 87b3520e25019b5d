//! The memory tier: moka, weighed in bytes.
//!
//! moka's size is fixed when it is made. So a new size is a new cache: what was in the old one moves there, in a thread of
//! its own, and whoever asks for something meanwhile has it moved at once. An entry leaves the old cache only when it is
//! in the new one, and is never put back, so what is removed stays removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use parking_lot::Mutex;

use crate::config::model::{CacheMemory, Eviction};
use crate::plan::CacheKey;

use super::super::object::Object;
use super::super::part::Part;
use super::variants::Variants;

/// What moka itself keeps for an entry.
const ENTRY_OVERHEAD: usize = 200;
/// moka evicts in batches. No more than this part of the size is stored between two.
const UNSETTLED_PART: u64 = 64;
/// Entries that move to a cache of another size before its housekeeping is done.
const MOVED_AT_ONCE: usize = 256;

/// Quick, and seeded anew by each process: nobody can look for keys that meet in it.
type Hasher = hashbrown::DefaultHashBuilder;
type Cache = moka::sync::Cache<CacheKey, Arc<Variants>, Hasher>;
type Evicted = Arc<dyn Fn(&Variants) + Send + Sync>;

/// A handle on the objects in memory, never more than the configured number of bytes.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    caches: ArcSwap<Caches>,
    evicted: Evicted,
    /// Bytes stored since moka's last housekeeping.
    unsettled: AtomicU64,
    /// One change of size at a time.
    resizing: Mutex<()>,
    wanted: Mutex<Terms>,
}

/// What a cache is made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    max_size: u64,
    eviction: Eviction,
}

struct Caches {
    terms: Terms,
    now: Cache,
    /// What has yet to move from a cache of another size.
    before: Option<Cache>,
}

impl MemoryStore {
    /// `evicted` is told of what had to make room.
    pub fn new(config: &CacheMemory, evicted: impl Fn(&Variants) + Send + Sync + 'static) -> Self {
        let terms = Terms::of(config);
        let evicted: Evicted = Arc::new(evicted);
        let caches = Caches { terms, now: terms.cache(&evicted), before: None };
        MemoryStore(Arc::new(Shared {
            caches: ArcSwap::from_pointee(caches),
            evicted,
            unsettled: AtomicU64::new(0),
            resizing: Mutex::new(()),
            wanted: Mutex::new(terms),
        }))
    }

    /// Takes over another size or way of evicting. What fits stays.
    pub fn configure(&self, config: &CacheMemory) {
        let terms = Terms::of(config);
        if std::mem::replace(&mut *self.0.wanted.lock(), terms) == terms {
            return;
        }
        let store = self.clone();
        if let Err(error) = std::thread::Builder::new().name("resize".into()).spawn(move || store.resize()) {
            tracing::error!(%error, "the memory tier keeps its size, for want of a thread");
        }
    }

    /// Bytes it may hold.
    pub fn max_size(&self) -> u64 {
        self.0.caches.load().terms.max_size
    }

    pub fn get(&self, key: &str) -> Option<Arc<Variants>> {
        let caches = self.0.caches.load();
        caches.now.get(key).or_else(|| {
            let moves = caches.before.is_some() && caches.pull(&CacheKey::from_written(key));
            moves.then(|| caches.now.get(key)).flatten()
        })
    }

    /// Stores an object beside the other variants of its key, in place of one that is selected alike.
    pub fn insert(&self, object: Arc<Object>, max_variants: usize) {
        let put = |before: Option<Arc<Variants>>| {
            Op::Put(Arc::new(before.unwrap_or_default().with(object.clone(), max_variants)))
        };
        self.change(&object.key, put);
        self.has_grown_by(object.weight());
    }

    /// Puts what was read from disk into memory, unless something is there already: that is newer.
    pub fn promote(&self, object: Arc<Object>, max_variants: usize) {
        let put = |before: Option<Arc<Variants>>| {
            let before = before.unwrap_or_default();
            let is_there = before.objects().any(|other| other.variant == object.variant);
            if is_there { Op::Nop } else { Op::Put(Arc::new(before.with_older(object.clone(), max_variants))) }
        };
        self.change(&object.key, put);
        self.has_grown_by(object.weight());
    }

    /// Stores a part, unless the whole is there, however stale; joined with what is there of the same thing, in
    /// the place of what is there of another.
    pub fn insert_part(&self, part: Part, max_variants: usize, max_object: u64, may_join: impl Fn(&Object) -> bool) {
        let put = |before: Option<Arc<Variants>>| {
            Op::Put(Arc::new(before.unwrap_or_default().with_part(part.clone(), max_variants, max_object, &may_join)))
        };
        self.change(&part.object.key, put);
        self.has_grown_by(part.object.weight());
    }

    /// Takes one object out, or a part that is one, if it is still the one that is stored.
    pub fn remove(&self, object: &Arc<Object>) {
        self.change(&object.key, |variants| match variants.filter(|variants| variants.contains(object)) {
            Some(variants) => left(variants.without_this(object)),
            None => Op::Nop,
        });
    }

    /// Takes out what is selected as this object is.
    pub fn remove_like(&self, object: &Object) {
        self.change(&object.key, |variants| variants.map_or(Op::Nop, |variants| left(variants.without(object))));
    }

    /// Counts the bytes of an object anew, if it is still stored: it has grown.
    pub fn weigh_again(&self, object: &Arc<Object>) {
        let stored = |variants: Option<Arc<Variants>>| variants.filter(|variants| variants.contains(object));
        self.change(&object.key, |variants| stored(variants).map_or(Op::Nop, Op::Put));
    }

    /// The object that is stored now with the body of this one.
    pub fn with_body_of(&self, object: &Object) -> Option<Arc<Object>> {
        let variants = self.get(object.key.as_str())?;
        let same = |other: &&Arc<Object>| match (other.content.in_memory(), object.content.in_memory()) {
            (Some(one), Some(other)) => one.as_ptr() == other.as_ptr() && one.len() == other.len(),
            _ => false,
        };
        variants.whole().find(same).cloned()
    }

    /// Takes all objects of a key out.
    pub fn remove_key(&self, key: &CacheKey) {
        // Not by `invalidate`: what computes the entry anew at this moment would put it back.
        self.change(key, |variants| if variants.is_some() { Op::Remove } else { Op::Nop });
    }

    /// All objects, in no order. What is stored meanwhile may or may not be among them.
    pub fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        let caches = self.0.caches.load_full();
        // The old one first: what moves meanwhile is rather seen twice than not at all.
        let both = caches.before.clone().into_iter().chain([caches.now.clone()]);
        let entries = |cache: Cache| cache.iter().map(|(_, variants)| variants).collect::<Vec<_>>();
        both.flat_map(entries).flat_map(|variants| variants.objects().cloned().collect::<Vec<_>>())
    }

    /// Bytes and keys stored, as of moka's last housekeeping.
    pub fn usage(&self) -> (u64, u64) {
        let caches = self.0.caches.load();
        let of = |cache: &Cache| (cache.weighted_size(), cache.entry_count());
        let (now, before) = (of(&caches.now), caches.before.as_ref().map_or((0, 0), of));
        (now.0 + before.0, now.1 + before.1)
    }

    /// Does outstanding housekeeping now, so that [`MemoryStore::usage`] is exact.
    pub fn settle(&self) {
        let caches = self.0.caches.load();
        caches.now.run_pending_tasks();
        caches.before.iter().for_each(Cache::run_pending_tasks);
    }

    /// Changes what is stored under a key. `change` may be called again, with what it has made itself.
    fn change(&self, key: &CacheKey, change: impl Fn(Option<Arc<Variants>>) -> Op<Arc<Variants>>) {
        loop {
            let caches = self.0.caches.load_full();
            caches.pull(key);
            caches.now.entry_by_ref(key).and_compute_with(|entry| change(entry.map(|entry| entry.into_value())));
            // Else it has been done to a cache that another has taken the place of.
            if Arc::ptr_eq(&caches, &self.0.caches.load()) {
                return;
            }
        }
    }

    fn has_grown_by(&self, bytes: usize) {
        let unsettled = self.0.unsettled.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if unsettled > self.max_size() / UNSETTLED_PART {
            self.0.unsettled.store(0, Ordering::Relaxed);
            self.settle();
        }
    }

    fn resize(&self) {
        let _one_at_a_time = self.0.resizing.lock();
        let before = self.0.caches.load_full();
        let terms = *self.0.wanted.lock();
        if terms == before.terms {
            return;
        }
        let now = terms.cache(&self.0.evicted);
        let moving = Caches { terms, now: now.clone(), before: Some(before.now.clone()) };
        self.0.caches.store(Arc::new(moving));
        let caches = self.0.caches.load_full();
        let (kept, dropped) = by_use(&before.now, terms.max_size);
        for keys in kept.chunks(MOVED_AT_ONCE) {
            keys.iter().for_each(|key| _ = caches.pull(key));
            now.run_pending_tasks();
        }
        // Whoever asks for one of these meanwhile has it moved after all.
        for variants in dropped.iter().filter_map(|key| before.now.remove(key)) {
            (self.0.evicted)(&variants);
        }
        self.0.caches.store(Arc::new(Caches { terms, now, before: None }));
        tracing::info!(
            max_size = terms.max_size,
            moved = kept.len(),
            dropped = dropped.len(),
            "the memory tier has its new size"
        );
    }
}

/// The keys of what fits into a size, those asked for least first, and of what does not: that is used less still.
fn by_use(cache: &Cache, max_size: u64) -> (Vec<CacheKey>, Vec<CacheKey>) {
    let entry = |(key, variants): (Arc<CacheKey>, Arc<Variants>)| (variants.uses(), weight(&variants), key);
    let mut entries: Vec<(u32, u32, Arc<CacheKey>)> = cache.iter().map(entry).collect();
    entries.sort_unstable_by_key(|(uses, ..)| std::cmp::Reverse(*uses));
    let mut bytes = 0;
    let mut fits = |(_, weight, _): &(u32, u32, Arc<CacheKey>)| {
        bytes += u64::from(*weight);
        bytes <= max_size
    };
    let fitting = entries.iter().take_while(|entry| fits(entry)).count();
    let key = |(_, _, key): &(u32, u32, Arc<CacheKey>)| CacheKey::clone(key);
    (entries[..fitting].iter().rev().map(key).collect(), entries[fitting..].iter().map(key).collect())
}

/// Bytes of an entry.
fn weight(variants: &Variants) -> u32 {
    let weight: usize = variants.objects().map(|object| object.weight()).sum();
    u32::try_from(weight + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
}

/// What becomes of an entry of which this is left.
fn left(variants: Variants) -> Op<Arc<Variants>> {
    if variants.is_empty() { Op::Remove } else { Op::Put(Arc::new(variants)) }
}

impl Terms {
    fn of(config: &CacheMemory) -> Self {
        Terms { max_size: config.max_size.0, eviction: config.eviction }
    }

    fn cache(&self, evicted: &Evicted) -> Cache {
        let evicted = evicted.clone();
        moka::sync::Cache::builder()
            .name("memory")
            .max_capacity(self.max_size)
            .eviction_policy(match self.eviction {
                Eviction::TinyLfu => EvictionPolicy::tiny_lfu(),
                Eviction::Lru => EvictionPolicy::lru(),
            })
            .weigher(|_: &CacheKey, variants: &Arc<Variants>| weight(variants))
            .eviction_listener(move |_, variants, cause| {
                if cause == RemovalCause::Size {
                    evicted(&variants);
                }
            })
            .build_with_hasher(Hasher::default())
    }
}

impl Caches {
    /// Moves an entry that has yet to move; whether there was one.
    fn pull(&self, key: &CacheKey) -> bool {
        let Some(before) = self.before.as_ref().filter(|before| before.contains_key(key)) else { return false };
        self.now.entry_by_ref(key).and_compute_with(|entry| match (entry, before.get(key)) {
            (None, Some(variants)) => Op::Put(variants),
            _ => Op::Nop, // what is there is newer, or another was quicker
        });
        before.invalidate(key);
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::super::super::object::Head;
    use super::super::super::policy::Storable;
    use super::super::super::purge::PurgeSeq;
    use super::*;

    fn config(max_size: u64, eviction: Eviction) -> CacheMemory {
        CacheMemory { max_size: crate::config::read::ByteSize(max_size), eviction, ..CacheMemory::default() }
    }

    fn object(number: usize) -> Arc<Object> {
        sized(number, 1000)
    }

    fn sized(number: usize, bytes: usize) -> Arc<Object> {
        let key = CacheKey::from_written(&format!("s\u{1f}1\u{1f}h/{number}"));
        let head = Head::from_origin(StatusCode::OK, HeaderMap::new());
        Arc::new(Object::new(key, head, Bytes::from(vec![0; bytes]), Storable::default(), PurgeSeq(0)))
    }

    fn there(store: &MemoryStore) -> usize {
        store.settle();
        store.objects().count()
    }

    #[test]
    fn another_size_keeps_what_fits() {
        for eviction in [Eviction::TinyLfu, Eviction::Lru] {
            let store = MemoryStore::new(&config(1 << 20, eviction), |_| ());
            (0..400).for_each(|number| store.insert(object(number), 1));
            let hot = object(1000);
            (0..1000).for_each(|_| hot.used());
            store.insert(hot.clone(), 1);
            let before = there(&store);
            assert!(before > 300, "{before}");
            *store.0.wanted.lock() = Terms { max_size: 2 << 20, eviction };
            store.resize();
            assert_eq!((there(&store), store.max_size()), (before, 2 << 20), "larger: all of it");
            *store.0.wanted.lock() = Terms { max_size: 128 << 10, eviction };
            store.resize();
            let after = there(&store);
            assert!((20..=100).contains(&after) && store.usage().0 <= 128 << 10, "{after}");
            assert!(store.get(hot.key.as_str()).is_some(), "what is asked for most stays");
        }
    }

    #[test]
    fn what_is_changed_while_it_moves_is_changed_for_good() {
        let store = MemoryStore::new(&config(1 << 20, Eviction::TinyLfu), |_| ());
        let (kept, removed, replaced) = (object(1), object(2), object(3));
        [&kept, &removed, &replaced].into_iter().for_each(|object| store.insert(object.clone(), 1));
        let now = Terms { max_size: 2 << 20, eviction: Eviction::TinyLfu };
        let before = Some(store.0.caches.load().now.clone());
        let caches = Caches { terms: now, now: now.cache(&store.0.evicted), before };
        store.0.caches.store(Arc::new(caches));
        store.remove(&removed);
        let newer = object(3);
        store.insert(newer.clone(), 1);
        *store.0.wanted.lock() = now;
        let caches = store.0.caches.load_full();
        [&kept, &removed, &replaced].into_iter().for_each(|object| _ = caches.pull(&object.key));
        assert!(store.get(removed.key.as_str()).is_none());
        let found = |object: &Arc<Object>| store.get(object.key.as_str()).unwrap().whole().next().unwrap().clone();
        assert!(Arc::ptr_eq(&found(&newer), &newer) && Arc::ptr_eq(&found(&kept), &kept));
        assert_eq!(there(&store), 2);
    }

    #[test]
    fn large_objects_do_not_pile_up_between_evictions() {
        let store = MemoryStore::new(&config(1 << 20, Eviction::TinyLfu), |_| ());
        for number in 0..100 {
            store.insert(sized(number, 200 << 10), 1);
            let held: usize = store.objects().map(|object| object.weight()).sum();
            assert!(held <= (1 << 20) + (220 << 10), "{held}");
        }
    }
}
