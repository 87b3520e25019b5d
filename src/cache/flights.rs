//! The fills that are running, by key: where a request finds the one it can follow.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::plan::CacheKey;

use super::flight::Flight;
use super::purge::PurgeSeq;

const SHARDS: usize = 32;

type Shard = Mutex<HashMap<CacheKey, SmallVec<[Arc<Flight>; 1]>>>;

/// Running fills. A key has more than one while its variants are being filled.
pub struct Flights {
    shards: [Shard; SHARDS],
    hasher: RandomState,
}

/// What a request has to do.
pub enum Turn {
    /// Follow this fill.
    Follow(Arc<Flight>),
    /// Run this one: it has just been entered.
    Lead(Arc<Flight>),
}

impl Flights {
    pub fn new() -> Self {
        Flights { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }

    /// Joins a running fill that `suits`, else enters a new one.
    pub fn join_or_lead(&self, key: &CacheKey, seq: PurgeSeq, suits: impl Fn(&Flight) -> bool) -> Turn {
        let mut shard = self.shard(key).lock();
        let running = shard.get(key);
        if let Some(found) = running.and_then(|all| all.iter().find(|flight| flight.joinable && suits(flight))) {
            return Turn::Follow(found.clone());
        }
        let flight = Flight::new(key.clone(), seq, true);
        shard.entry(key.clone()).or_default().push(flight.clone());
        Turn::Lead(flight)
    }

    /// Enters a fill that nobody else may follow.
    pub fn alone(&self, key: &CacheKey, seq: PurgeSeq) -> Arc<Flight> {
        let flight = Flight::new(key.clone(), seq, false);
        self.shard(key).lock().entry(key.clone()).or_default().push(flight.clone());
        flight
    }

    /// Nobody can join it any more.
    pub fn remove(&self, flight: &Arc<Flight>) {
        let mut shard = self.shard(&flight.key).lock();
        if let Some(running) = shard.get_mut(&flight.key) {
            running.retain(|other| !Arc::ptr_eq(other, flight));
            if running.is_empty() {
                shard.remove(&flight.key);
            }
        }
    }

    /// How many fills are running.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().values().map(|running| running.len()).sum::<usize>()).sum()
    }

    /// The oldest purge sequence of a running fill.
    pub fn oldest_seq(&self) -> Option<PurgeSeq> {
        let of_shard = |shard: &Shard| shard.lock().values().flatten().map(|flight| flight.seq).min();
        self.shards.iter().filter_map(of_shard).min()
    }

    fn shard(&self, key: &CacheKey) -> &Shard {
        &self.shards[(self.hasher.hash_one(key) % SHARDS as u64) as usize]
    }
}
