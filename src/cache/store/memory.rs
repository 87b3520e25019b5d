//! The memory tier: moka, weighed in bytes.

use std::sync::Arc;

use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use smallvec::SmallVec;

use crate::config::model::{CacheMemory, Eviction};
use crate::plan::CacheKey;
use crate::request::Fields;

use super::super::object::Object;

/// The stored responses of one key: one, unless the origin varies them.
#[derive(Clone, Debug, Default)]
pub struct Variants(SmallVec<[Arc<Object>; 1]>);

impl Variants {
    /// The stored response that a request selects; of several the newest (RFC 9111 section 4.1).
    pub fn select(&self, request: Fields<'_>) -> Option<&Arc<Object>> {
        self.0.iter().rev().find(|object| object.variant.matches(request))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.0.iter()
    }

    fn with(&self, object: Arc<Object>, most: usize) -> Self {
        let mut variants = self.without(&object);
        if variants.0.len() >= most {
            variants.0.remove(0);
        }
        variants.0.push(object);
        variants
    }

    fn without(&self, object: &Object) -> Self {
        Variants(self.0.iter().filter(|other| other.variant != object.variant).cloned().collect())
    }
}

/// A handle on the objects in memory, never more than the configured number of bytes.
#[derive(Clone)]
pub struct MemoryStore {
    cache: Cache<CacheKey, Arc<Variants>>,
    max_size: u64,
}

impl MemoryStore {
    pub fn new(config: &CacheMemory) -> Self {
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
                let weight: usize = variants.iter().map(|object| object.weight()).sum();
                u32::try_from(weight + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
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

    /// Takes one object out, if it is still the one that is stored.
    pub fn remove(&self, object: &Arc<Object>) {
        self.cache.entry_by_ref(&object.key).and_compute_with(|entry| {
            let Some(variants) = entry.map(|entry| entry.into_value()) else { return Op::Nop };
            if !variants.iter().any(|other| Arc::ptr_eq(other, object)) {
                return Op::Nop;
            }
            let left = variants.without(object);
            if left.0.is_empty() { Op::Remove } else { Op::Put(Arc::new(left)) }
        });
    }

    /// Counts the bytes of an object anew, if it is still stored: it has grown.
    pub fn weigh_again(&self, object: &Arc<Object>) {
        self.cache.entry_by_ref(&object.key).and_compute_with(|entry| {
            let variants = entry.map(|entry| entry.into_value());
            let stored = variants.filter(|variants| variants.iter().any(|other| Arc::ptr_eq(other, object)));
            stored.map_or(Op::Nop, Op::Put)
        });
    }

    /// Takes all objects of a key out.
    pub fn remove_key(&self, key: &str) {
        self.cache.invalidate(key);
    }

    /// All objects, in no order. What is stored meanwhile may or may not be among them.
    pub fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        self.cache.iter().flat_map(|(_, variants)| variants.0.clone())
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
