//! What is stored: the memory and the disk tier, the purges that decide what of it lives, and what is known not to be
//! storable. What it has for a request, [`super::lookup`] says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::config::model::{CacheRules, Config, OutageWindow};
use crate::observe::metrics::Metrics;
use crate::plan::CacheKey;

use super::coding;
use super::compressor::Compressor;
use super::flight::Flight;
use super::freshness::Usability;
use super::object::Object;
use super::part::Part;
use super::purge::{Purges, Standing};
use super::reason::SkipReason;
use super::store::disk::Loaded;
use super::store::{DiskTier, MemoryStore, Variants};
use super::uncacheable::Uncacheable;
use super::vary::Variant;

/// Variants of a key on disk where the route is not at hand that says how many.
const MOST_VARIANTS: usize = 100;

/// The cache of the node. It outlives configurations.
pub struct Cache {
    pub memory: MemoryStore,
    pub disk: Arc<DiskTier>,
    pub purges: Arc<Purges>,
    pub metrics: Arc<Metrics>,
    pub uncacheable: Uncacheable,
    compressor: Compressor,
    /// Bytes of the longest response of which a slice was stored.
    longest_sliced: AtomicU64,
}

impl Cache {
    pub fn new(config: &Config, purges: Arc<Purges>, metrics: Arc<Metrics>) -> Self {
        let disk = Arc::new(DiskTier::start(&config.disk, &purges));
        let memory = MemoryStore::new(&config.memory, write_evicted(&disk, &metrics));
        memory.waiting().set_limits(&config.limits);
        Cache {
            disk,
            compressor: Compressor::start(config.node.compress_threads, memory.clone(), metrics.clone()),
            memory,
            purges,
            metrics,
            uncacheable: Uncacheable::new(),
            longest_sliced: AtomicU64::new(0),
        }
    }

    /// Takes over what a new configuration may change while the node runs.
    pub fn configure(&self, config: &Config) {
        self.memory.configure(&config.memory);
        self.memory.waiting().set_limits(&config.limits);
        self.disk.configure(&config.disk);
    }

    /// The largest body that is kept in memory under a key, but for what its head takes of a site's own part.
    pub fn max_in_memory(&self, key: &str) -> u64 {
        self.memory.max_body(key, 0)
    }

    /// The largest body that is stored at all under a key.
    pub fn max_stored(&self, key: &str) -> u64 {
        self.max_in_memory(key).max(self.disk.max_object())
    }

    /// Bytes that what is stored in slices has at most. Of what a disk has from before nobody knows.
    pub fn longest_sliced(&self) -> u64 {
        if self.disk.is_in_use() { u64::MAX } else { self.longest_sliced.load(Ordering::Relaxed) }
    }

    /// What may be done with a stored response; `None` if a purge has killed it.
    pub fn usability(&self, object: &Object, now: Timestamp) -> Option<Usability> {
        object.freshness.usability(object.standing(&self.purges), now)
    }

    /// Whether a stored response is fresh now. What one client's `no-cache` brought does not count against it.
    pub fn is_fresh(&self, object: &Object) -> bool {
        matches!(self.usability(object, Timestamp::now()), Some(Usability::Fresh { .. }))
    }

    /// Whether a stored response may be used although the origin failed to confirm it (RFC 5861 section 4). It may have
    /// been purged meanwhile. `unreachable`: no origin gave a head at all, and for how long that may be covered.
    pub fn may_stand_in(&self, stale: &Object, unreachable: Option<OutageWindow>) -> bool {
        let (freshness, standing, now) = (&stale.freshness, stale.standing(&self.purges), Timestamp::now());
        freshness.usability(standing, now).is_some_and(|usability| !matches!(usability, Usability::Stale { .. }))
            || unreachable.is_some_and(|window| freshness.outlasts_origins(window, standing, now))
    }

    /// Stores what a fill has brought, unless a purge has hit it or an unsafe request changed it meanwhile.
    pub fn store(&self, object: Object, rules: &CacheRules, flight: &Flight) -> Arc<Object> {
        let object = Arc::new(object);
        if object.standing(&self.purges) != Standing::Dead && !flight.is_spoilt() {
            self.uncacheable.forget(object.key().as_str(), &object.variant);
            self.metrics.stored(object.freshness.basis.as_str());
            if let Some(slice) = object.part() {
                self.longest_sliced.fetch_max(slice.total, Ordering::Relaxed);
            }
            if object.content.in_memory().is_some() {
                self.memory.insert(object.clone(), rules.max_variants);
            }
            if self.disk.writes_at_once() || object.content.in_memory().is_none() {
                self.disk.store(&object, rules.max_variants);
            }
            if flight.is_spoilt() {
                self.discard(&object); // spoilt between the question and the insertion
            }
            self.compress(&object, rules);
        }
        object
    }

    fn compress(&self, object: &Arc<Object>, rules: &CacheRules) {
        if let Some(compress) = &rules.compress
            && object.part().is_none()
            && object.head.varies_by_coding() // else caches further on would not know
            && object.content.in_memory().is_some()
            && coding::suits(compress, object.head.status, &object.head.fields(), Some(object.length()))
        {
            self.compressor.offer(object.clone(), compress.codings.clone());
        }
    }

    /// Enters what a fill has written to disk, under the same conditions. `untold`: something was removed that the
    /// flight could not be told of; perhaps this.
    pub fn stored_on_disk(&self, object: &Arc<Object>, flight: &Flight, untold: bool) {
        self.memory.remove_like(object); // something smaller was there before
        self.uncacheable.forget(object.key().as_str(), &object.variant);
        self.metrics.stored(object.freshness.basis.as_str());
        if untold || flight.is_spoilt() || object.standing(&self.purges) == Standing::Dead {
            self.disk.remove(object);
        }
    }

    /// Stores a part of a response, under the same conditions.
    pub fn store_part(&self, part: Part, rules: &CacheRules, flight: &Flight) {
        if part.object.standing(&self.purges) != Standing::Dead && !flight.is_spoilt() {
            self.metrics.stored(part.object.freshness.basis.as_str());
            let object = part.object.clone();
            // What a purge has killed is not to come back in new company.
            let may_join = |other: &Object| other.standing(&self.purges) != Standing::Dead;
            self.memory.insert_part(part, rules.max_variants, may_join);
            if flight.is_spoilt() {
                self.memory.remove(&object);
            }
        }
    }

    /// Puts what was read from disk into memory, if it is not too large for that and nothing was removed meanwhile.
    pub fn promote(&self, loaded: &Loaded<Arc<Object>>, rules: &CacheRules) {
        let object = &loaded.found;
        let room = || self.memory.max_body(object.key().as_str(), object.weight_beside_body());
        let fits = object.content.in_memory().is_some() && object.length() <= room();
        if !fits || object.standing(&self.purges) == Standing::Dead || !self.disk.is_current(loaded) {
            return;
        }
        self.memory.promote(object.clone(), rules.max_variants);
        if !self.disk.is_current(loaded) {
            self.memory.remove(object); // removed between the question and the insertion
        }
        self.compress(object, rules);
    }

    /// Gives the readers of a flight what is stored of it; `beside`: bytes that it keeps besides.
    pub fn share(&self, flight: &Arc<Flight>, body: &Bytes, object: &Object, beside: usize) -> bool {
        let is_shared = flight.share(body, (object.weight() + beside) as u64);
        if self.memory.with_body_of(object).is_none() {
            self.memory.waiting().left_body(body.as_ptr().addr()); // it was not stored, or not for long
        }
        is_shared
    }

    /// Takes an object out of all tiers.
    pub fn discard(&self, object: &Arc<Object>) {
        // Disk first: what is being promoted from there sees that something was removed, or is removed from memory below.
        self.disk.remove(object);
        self.memory.remove(object);
        if !self.disk.writes_at_once() {
            self.disk.remove(object); // memory may just have given it to the disk
        }
    }

    /// Keeps requests for a key that would get the like from waiting for each other for a while.
    pub fn remember_uncacheable(&self, key: &CacheKey, variant: Variant, reason: SkipReason, rules: &CacheRules) {
        if !rules.hit_for_miss.is_zero() {
            tracing::debug!(key = key.view().uri(), reason = reason.as_str(), "remembered as not cacheable");
            self.uncacheable.remember(key.as_str(), variant, Timestamp::now() + rules.hit_for_miss);
        }
    }

    /// Takes all variants of a key out of all tiers. It outlasts a restart once the number that it gives is
    /// [`DiskTier::kept`].
    pub fn remove_key(&self, key: &str) -> u64 {
        let number = self.disk.remove_key(key);
        self.memory.remove_key(key);
        match self.disk.writes_at_once() {
            true => number,
            false => number.max(self.disk.remove_key(key)), // memory may just have given it to the disk
        }
    }
}

/// Writes to disk what leaves memory, where it was not written at once.
fn write_evicted(disk: &Arc<DiskTier>, metrics: &Arc<Metrics>) -> impl Fn(&Variants) + Send + Sync + 'static {
    let (disk, metrics) = (disk.clone(), metrics.clone());
    move |evicted| {
        metrics.memory_evicted.inc_by(evicted.whole().count() as u64);
        if !disk.writes_at_once() {
            evicted.whole().for_each(|object| disk.store(object, MOST_VARIANTS));
        }
    }
}
