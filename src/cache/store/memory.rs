//! The memory tier: moka, weighed in bytes.

use std::sync::Arc;

use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use smallvec::SmallVec;

use crate::config::model::{CacheMemory, Eviction};
use crate::plan::CacheKey;
use crate::request::Fields;

use super::super::object::Object;
use super::super::part::Part;

/// The stored responses of one key: one, unless the origin varies them; and the parts of some that are not whole.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    whole: SmallVec<[Arc<Object>; 1]>,
    parts: Vec<Arc<Part>>,
}

impl Variants {
    /// The stored response that a request selects; of several the newest (RFC 9111 section 4.1).
    pub fn select(&self, request: Fields<'_>) -> Option<&Arc<Object>> {
        self.whole.iter().rev().find(|object| object.variant.matches(request))
    }

    /// The part of a response that a request would select.
    pub fn select_part(&self, request: Fields<'_>) -> Option<&Arc<Part>> {
        self.parts.iter().rev().find(|part| part.object.variant.matches(request))
    }

    /// All of them, whole or not.
    fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.whole.iter().chain(self.parts.iter().map(|part| &part.object))
    }

    pub fn whole(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.whole.iter()
    }

    pub fn parts(&self) -> impl Iterator<Item = &Arc<Part>> {
        self.parts.iter()
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.parts.is_empty()
    }

    fn with(&self, object: Arc<Object>, most: usize) -> Self {
        let mut variants = self.without(&object);
        if variants.whole.len() >= most {
            variants.whole.remove(0);
        }
        variants.whole.push(object);
        variants
    }

    /// `may_join`: whether a part that is there may be joined to others.
    fn with_part(&self, part: Part, most: usize, max_object: u64, may_join: impl Fn(&Object) -> bool) -> Self {
        // Something whole can be validated, or cover for an origin that fails; a part cannot.
        if self.whole.iter().any(|other| other.variant == part.object.variant) {
            return self.clone();
        }
        let before = self.parts.iter().find(|other| other.object.variant == part.object.variant);
        let before = before.filter(|before| may_join(&before.object));
        let joined = before.and_then(|before| before.joined(&part, max_object));
        let part = joined.unwrap_or(part);
        if let Some(whole) = part.whole() {
            return self.with(whole, most);
        }
        let mut variants = self.without(&part.object);
        if variants.parts.len() >= most {
            variants.parts.remove(0);
        }
        variants.parts.push(Arc::new(part));
        variants
    }

    /// Without what is selected alike.
    fn without(&self, object: &Object) -> Self {
        Variants {
            whole: self.whole.iter().filter(|other| other.variant != object.variant).cloned().collect(),
            parts: self.parts.iter().filter(|other| other.object.variant != object.variant).cloned().collect(),
        }
    }

    fn without_this(&self, object: &Arc<Object>) -> Self {
        Variants {
            whole: self.whole.iter().filter(|other| !Arc::ptr_eq(other, object)).cloned().collect(),
            parts: self.parts.iter().filter(|other| !Arc::ptr_eq(&other.object, object)).cloned().collect(),
        }
    }

    fn contains(&self, object: &Arc<Object>) -> bool {
        self.objects().any(|other| Arc::ptr_eq(other, object))
    }
}

/// A handle on the objects in memory, never more than the configured number of bytes.
#[derive(Clone)]
pub struct MemoryStore {
    cache: Cache<CacheKey, Arc<Variants>>,
    max_size: u64,
}

impl MemoryStore {
    /// `evicted` is told of what had to make room.
    pub fn new(config: &CacheMemory, evicted: impl Fn(&Variants) + Send + Sync + 'static) -> Self {
        /// What moka itself keeps for an entry.
        const ENTRY_OVERHEAD: usize = 200;
        let policy = match config.eviction {
            Eviction::TinyLfu => EvictionPolicy::tiny_lfu(),
            Eviction::Lru => EvictionPolicy::lru(),
        };
        let cache = Cache::builder()
            .name("memory")
            .max_capacity(config.max_size.0)
            .eviction_policy(policy)
            .weigher(|_: &CacheKey, variants: &Arc<Variants>| {
                let weight: usize = variants.objects().map(|object| object.weight()).sum();
                u32::try_from(weight + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, variants, cause| {
                if cause == RemovalCause::Size {
                    evicted(&variants);
                }
            })
            .build();
        MemoryStore { cache, max_size: config.max_size.0 }
    }

    /// Bytes it may hold.
    pub fn max_size(&self) -> u64 {
        self.max_size
    }

    pub fn get(&self, key: &str) -> Option<Arc<Variants>> {
        self.cache.get(key)
    }

    /// Stores an object beside the other variants of its key, in place of one that is selected alike.
    pub fn insert(&self, object: Arc<Object>, max_variants: usize) {
        let key = object.key.clone();
        self.cache.entry(key).and_upsert_with(|entry| {
            let before = entry.map(|entry| entry.into_value()).unwrap_or_default();
            Arc::new(before.with(object, max_variants))
        });
    }

    /// Puts what was read from disk into memory, unless something is there already: that is newer.
    pub fn promote(&self, object: Arc<Object>, max_variants: usize) {
        self.cache.entry_by_ref(&object.key.clone()).and_compute_with(|entry| {
            let before = entry.map(|entry| entry.into_value()).unwrap_or_default();
            let is_there = before.objects().any(|other| other.variant == object.variant);
            if is_there { Op::Nop } else { Op::Put(Arc::new(before.with(object, max_variants))) }
        });
    }

    /// Stores a part, unless the whole is there, however stale; joined with what is there of the same thing, in
    /// the place of what is there of another.
    pub fn insert_part(&self, part: Part, max_variants: usize, max_object: u64, may_join: impl Fn(&Object) -> bool) {
        let key = part.object.key.clone();
        self.cache.entry(key).and_upsert_with(|entry| {
            let before = entry.map(|entry| entry.into_value()).unwrap_or_default();
            Arc::new(before.with_part(part, max_variants, max_object, may_join))
        });
    }

    /// Takes one object out, or a part that is one, if it is still the one that is stored.
    pub fn remove(&self, object: &Arc<Object>) {
        self.cache.entry_by_ref(&object.key).and_compute_with(|entry| {
            let Some(variants) = entry.map(|entry| entry.into_value()) else { return Op::Nop };
            if !variants.contains(object) {
                return Op::Nop;
            }
            let left = variants.without_this(object);
            if left.is_empty() { Op::Remove } else { Op::Put(Arc::new(left)) }
        });
    }

    /// Takes out what is selected as this object is.
    pub fn remove_like(&self, object: &Object) {
        self.cache.entry_by_ref(&object.key).and_compute_with(|entry| {
            let Some(variants) = entry.map(|entry| entry.into_value()) else { return Op::Nop };
            let left = variants.without(object);
            if left.is_empty() { Op::Remove } else { Op::Put(Arc::new(left)) }
        });
    }

    /// Counts the bytes of an object anew, if it is still stored: it has grown.
    pub fn weigh_again(&self, object: &Arc<Object>) {
        self.cache.entry_by_ref(&object.key).and_compute_with(|entry| {
            let variants = entry.map(|entry| entry.into_value());
            let stored = variants.filter(|variants| variants.contains(object));
            stored.map_or(Op::Nop, Op::Put)
        });
    }

    /// The object that is stored now with the body of this one.
    pub fn with_body_of(&self, object: &Object) -> Option<Arc<Object>> {
        let variants = self.cache.get(object.key.as_str())?;
        let same = |other: &&Arc<Object>| match (other.content.in_memory(), object.content.in_memory()) {
            (Some(one), Some(other)) => one.as_ptr() == other.as_ptr() && one.len() == other.len(),
            _ => false,
        };
        variants.whole.iter().find(same).cloned()
    }

    /// Takes all objects of a key out.
    pub fn remove_key(&self, key: &CacheKey) {
        // Not by `invalidate`: what computes the entry anew at this moment would put it back.
        self.cache.entry_by_ref(key).and_compute_with(|entry| if entry.is_some() { Op::Remove } else { Op::Nop });
    }

    /// All objects, in no order. What is stored meanwhile may or may not be among them.
    pub fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        self.cache.iter().flat_map(|(_, variants)| variants.objects().cloned().collect::<Vec<_>>())
    }

    /// Bytes and keys stored, as of moka's last housekeeping.
    pub fn usage(&self) -> (u64, u64) {
        (self.cache.weighted_size(), self.cache.entry_count())
    }

    /// Does outstanding housekeeping now, so that [`MemoryStore::usage`] is exact.
    pub fn settle(&self) {
        self.cache.run_pending_tasks();
    }
}
