//! The memory tier: what is stored, found by its key, never more than the configured number of bytes.
//!
//! The index is our own (docs/decisions/0012-an-index-of-our-own-for-memory.md). All sites share an [`area`] of it, but for
//! those that have their own: what they store displaces nothing of others, and nobody displaces theirs.

mod area;
mod ghosts;
mod shard;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;

use crate::cache::object::Object;
use crate::cache::part::Part;
use crate::cache::waiting::Waiting;
use crate::config::model::CacheMemory;
use crate::plan::Key;

use super::variants::Variants;
use area::{Area, Change, Common, ENTRY_OVERHEAD};

/// A handle on the objects in memory.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    common: Arc<Common>,
    /// Of all sites that have none of their own.
    shared: Area,
    own: ArcSwap<OwnAreas>,
    /// Whether there are any: most nodes have none, and a hit is not to look.
    has_own: AtomicBool,
    /// The largest body that is kept, wherever there is room for it.
    max_object: AtomicU64,
}

/// Those of single sites, by their names.
type OwnAreas = HashMap<Arc<str>, Arc<Area>>;

/// How full an area is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Usage {
    pub bytes: u64,
    pub max_bytes: u64,
    pub keys: u64,
}

impl MemoryStore {
    /// `evicted` is told of what had to make room.
    pub fn new(config: &CacheMemory, evicted: impl Fn(&Variants) + Send + Sync + 'static) -> Self {
        let common = Arc::new(Common::new(config.eviction, evicted));
        let shared = Area::new(config.max_size.0, common.clone());
        let (own, has_own, max_object) = (ArcSwap::default(), AtomicBool::new(false), AtomicU64::new(0));
        let store = MemoryStore(Arc::new(Shared { common, shared, own, has_own, max_object }));
        store.configure(config);
        store
    }

    /// The account of those who hold what this tier may let go of.
    pub fn waiting(&self) -> &Arc<Waiting> {
        &self.0.common.waiting
    }

    /// Takes over other sizes or another way of evicting. What fits stays, but of a site that gets an area of its own, or loses it,
    /// everything goes. Where something has to go, a thread sees to it: nobody need wait for it.
    pub fn configure(&self, config: &CacheMemory) -> Option<JoinHandle<()>> {
        self.0.common.set_eviction(config.eviction);
        self.0.max_object.store(config.max_object.0, Ordering::Relaxed);
        let before = self.0.own.load_full();
        let mut shrinks = self.0.shared.resize(config.shared_size());
        let mut own = OwnAreas::new();
        for (site, size) in &config.of_sites {
            let area = before.get(site).cloned();
            let area = area.unwrap_or_else(|| Arc::new(Area::new(size.0, self.0.common.clone())));
            shrinks |= area.resize(size.0);
            own.insert(site.clone(), area);
        }
        let moved = |(site, _): &(&Arc<str>, &Arc<Area>), others: &OwnAreas| !others.contains_key(*site);
        let gone: Vec<Arc<Area>> = before.iter().filter(|of| moved(of, &own)).map(|(_, area)| area.clone()).collect();
        let new: Vec<Arc<str>> = own.iter().filter(|of| moved(of, &before)).map(|(site, _)| site.clone()).collect();
        self.0.has_own.store(!own.is_empty(), Ordering::Relaxed);
        self.0.own.store(Arc::new(own));
        if !shrinks && gone.is_empty() && (new.is_empty() || self.0.shared.usage().1 == 0) {
            return None;
        }
        let store = self.clone();
        let thread = std::thread::Builder::new().name("shrink".into());
        thread
            .spawn(move || store.settle(&gone, &new))
            .inspect_err(|error| {
                tracing::error!(%error, "the memory tier shrinks only as more is stored, for want of a thread");
            })
            .ok()
    }

    /// Lets go of what has no place any more. It is not written to disk, as what makes room may be: nobody looks for it here, so what
    /// was made out of date meanwhile would come back.
    fn settle(&self, gone: &[Arc<Area>], new: &[Arc<str>]) {
        let empty = |area: &Area| area.objects().for_each(|object| area.remove(object.key().as_str()));
        gone.iter().for_each(|area| empty(area));
        if !new.is_empty() {
            let moved = self.0.shared.objects().filter(|object| new.iter().any(|site| **site == *object.key().site()));
            moved.for_each(|object| self.0.shared.remove(object.key().as_str()));
        }
        let dropped: u64 = self.0.shared.shrink() + self.0.own.load().values().map(|area| area.shrink()).sum::<u64>();
        let Usage { bytes, max_bytes: max_size, .. } = self.usage();
        if max_size > 0 {
            tracing::info!(max_size, bytes, dropped, "the memory tier has its new size");
        }
    }

    /// Where a site's objects are.
    fn in_area<T>(&self, key: &str, does: impl FnOnce(&Area) -> T) -> T {
        match self.0.has_own.load(Ordering::Relaxed) {
            true => does(self.own_area(key).as_deref().unwrap_or(&self.0.shared)),
            false => does(&self.0.shared),
        }
    }

    #[cold]
    fn own_area(&self, key: &str) -> Option<Arc<Area>> {
        self.0.own.load().get(Key::of_written(key).site()).cloned()
    }

    /// Bytes that may be stored where a key has its place.
    fn max_size(&self, key: &str) -> u64 {
        self.in_area(key, Area::max_size)
    }

    /// Bytes by which what is stored under a key may grow.
    pub fn room_to_grow(&self, key: &str) -> u64 {
        let weight = self.in_area(key, |area| area.peek(key)).map_or(0, |(_, weight)| weight);
        self.max_size(key).saturating_sub(weight.into())
    }

    /// The largest body that is kept under a key; `beside`: bytes of the response beside its body ([`Object::weight`]).
    pub fn max_body(&self, key: &str, beside: usize) -> u64 {
        let room = self.max_size(key).saturating_sub((beside + ENTRY_OVERHEAD) as u64);
        room.min(self.0.max_object.load(Ordering::Relaxed))
    }

    /// What is stored under a key. It counts as a use.
    pub fn get(&self, key: &str) -> Option<Variants> {
        self.in_area(key, |area| area.get(key))
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
    pub fn insert_part(&self, part: Part, max_variants: usize, may_join: impl Fn(&Object) -> bool) {
        let key = part.object.key().as_str();
        let max_object = self.max_body(key, part.object.weight_beside_body());
        self.change(key, |before| {
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
        let key = object.key().as_str();
        let (variants, _) = self.in_area(key, |area| area.peek(key))?;
        variants.objects().find(|other| has_same_body(other, object)).cloned()
    }

    /// Takes all objects of a key out.
    pub fn remove_key(&self, key: &str) {
        self.in_area(key, |area| area.remove(key));
    }

    /// All objects, in no order. What is stored meanwhile may or may not be among them.
    pub fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        let own: Vec<Arc<Area>> = self.0.own.load().values().cloned().collect();
        let of_own = own.into_iter().flat_map(|area| area.objects().collect::<Vec<_>>());
        self.0.shared.objects().chain(of_own)
    }

    /// What is stored in all areas.
    pub fn usage(&self) -> Usage {
        let own = self.0.own.load();
        let all = own.values().map(|area| usage_of(area)).chain([usage_of(&self.0.shared)]);
        let nothing = Usage { bytes: 0, max_bytes: 0, keys: 0 };
        all.fold(nothing, |sum, one| Usage {
            bytes: sum.bytes + one.bytes,
            max_bytes: sum.max_bytes + one.max_bytes,
            keys: sum.keys + one.keys,
        })
    }

    /// The same of each site that has an area of its own, by name.
    pub fn usage_of_sites(&self) -> Vec<(Arc<str>, Usage)> {
        let own = self.0.own.load();
        let mut of_sites: Vec<_> = own.iter().map(|(site, area)| (site.clone(), usage_of(area))).collect();
        of_sites.sort_by(|one, other| one.0.cmp(&other.0));
        of_sites
    }

    /// Changes what is stored under a key. `change` is asked without any lock, and again if another was quicker.
    fn change(&self, key: &str, change: impl Fn(Option<&Variants>) -> Change) {
        self.in_area(key, |area| area.change(key, change));
    }
}

fn usage_of(area: &Area) -> Usage {
    let (bytes, keys) = area.usage();
    Usage { bytes, max_bytes: area.max_size(), keys }
}

fn has_same_body(one: &Object, other: &Object) -> bool {
    match (one.content.in_memory(), other.content.in_memory()) {
        (Some(one), Some(other)) => one.as_ptr() == other.as_ptr() && one.len() == other.len(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::area::ENTRY_OVERHEAD;
    use super::*;
    use crate::cache::testing;
    use crate::config::model::Eviction;
    use crate::config::read::ByteSize;

    fn config(max_size: u64, eviction: Eviction) -> CacheMemory {
        CacheMemory { max_size: ByteSize(max_size), eviction, ..CacheMemory::default() }
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
        let counted = store.usage();
        assert_eq!((counted.bytes, counted.keys), (bytes, objects.len() as u64));
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
            assert_eq!((usage(&store).0, store.usage().max_bytes), (before, 2 << 20), "larger: all of it");
            store.0.shared.resize(128 << 10);
            store.settle(&[], &[]);
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
        store.remove_key(one.key().as_str());
        assert_eq!(usage(&store), (0, 0));
    }

    #[test]
    fn many_threads_lose_nothing_and_keep_to_the_size() {
        let store = MemoryStore::new(&config(256 << 20, Eviction::S3Fifo), |_| ());
        store.0.shared.resize(4 << 20); // several shards, and all of them in need of room
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

    /// An object of a site.
    fn of_site(site: &str, number: usize) -> Arc<Object> {
        Arc::new(testing::of_site(site, &format!("h/{number}"), &[], vec![0; 1000], 0))
    }

    #[test]
    fn a_site_with_its_own_part_displaces_nobody_and_is_displaced_by_nobody() {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = evicted.clone();
        let mut config = config(1 << 20, Eviction::S3Fifo);
        config.of_sites = vec![("own".into(), ByteSize(256 << 10))];
        let store = MemoryStore::new(&config, move |_| _ = count.fetch_add(1, Ordering::Relaxed));
        let has = |site: &str, number: usize| store.get(of_site(site, number).key().as_str()).is_some();
        let count_of = |site: &str| (0..2_000).filter(|number| has(site, *number)).count();
        (0..100).for_each(|number| store.insert(of_site("own", number), 1));
        (0..2_000).for_each(|number| store.insert(of_site("other", number), 1));
        assert_eq!(count_of("own"), 100, "the others have a part of their own");
        let others = count_of("other");
        (0..2_000).for_each(|number| store.insert(of_site("own", number), 1));
        assert_eq!(count_of("other"), others);
        let [(_, own)] = &store.usage_of_sites()[..] else { panic!("one has its own") };
        assert!(own.bytes > 200 << 10 && own.bytes <= 256 << 10, "{own:?}");
        assert!(usage(&store).1 <= 1 << 20);
        assert_eq!(
            store.objects().count() as u64 + evicted.load(Ordering::Relaxed),
            4_000,
            "100 of them twice, replaced"
        );
        let before = evicted.load(Ordering::Relaxed);
        // It loses its part: all of it goes, and nothing of the others'.
        config.of_sites.clear();
        store.configure(&config).expect("there is something to let go of").join().unwrap();
        assert_eq!((count_of("own"), count_of("other")), (0, others));
        store.insert(of_site("own", 1), 1);
        // And it gets one again: what it had among the others goes.
        config.of_sites = vec![("own".into(), ByteSize(256 << 10))];
        store.configure(&config).expect("there is something to let go of").join().unwrap();
        assert!(!has("own", 1) && count_of("other") == others);
        assert_eq!(evicted.load(Ordering::Relaxed), before, "nothing of that goes to disk");
        store.insert(of_site("own", 1), 1);
        assert!(has("own", 1));
    }
}
