//! The fills that are running, by key: where a request finds the one it can follow.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::plan::CacheKey;

use super::fill_buffer::FillBuffer;
use super::flight::Flight;
use super::purge::PurgeSeq;
use super::vary::Variant;

const SHARDS: usize = 32;

type Running = HashMap<CacheKey, SmallVec<[Arc<Flight>; 1]>>;
type Shard = Mutex<Running>;

/// Running fills. A key has more than one while its variants are being filled.
pub struct Flights {
    shards: [Shard; SHARDS],
    running: AtomicUsize,
    /// More than this are not started: a fill goes on when its client has left, so clients do not bound them.
    most: AtomicUsize,
    pub buffer: Arc<FillBuffer>,
    /// Held for the moment in which the pieces of a large body become one.
    pub joining: Mutex<()>,
    hasher: RandomState,
}

/// What a request has to do.
pub enum Turn {
    /// Follow this fill.
    Follow(Arc<Flight>),
    /// Run this one: it has just been entered.
    Lead(Arc<Flight>),
    /// There are too many fills to start another.
    Full,
}

/// Of the fills of a key one that may be joined and `suits`.
fn joined(all: &[Arc<Flight>], suits: impl Fn(&Flight) -> bool) -> Option<Arc<Flight>> {
    all.iter().find(|flight| flight.joinable && !flight.is_spoilt() && suits(flight)).cloned()
}

impl Flights {
    /// `most` fills at one time.
    pub fn new(most: usize, buffer: FillBuffer) -> Self {
        Flights {
            shards: std::array::from_fn(|_| Mutex::default()),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            buffer: Arc::new(buffer),
            joining: Mutex::new(()),
            hasher: RandomState::new(),
        }
    }

    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Joins a running fill that `suits`, else enters a new one, which requests like this one may join.
    pub fn join_or_lead(
        &self,
        key: &CacheKey,
        seq: PurgeSeq,
        alike: Option<&Variant>,
        suits: impl Fn(&Flight) -> bool,
    ) -> Turn {
        let mut shard = self.shard(key.as_str()).lock();
        if let Some(found) = shard.get(key).and_then(|all| joined(all, suits)) {
            return Turn::Follow(found);
        }
        self.enter(&mut shard, key, seq, Some(alike.cloned())).map_or(Turn::Full, Turn::Lead)
    }

    /// A running fill that may be joined and `suits`.
    pub fn begun(&self, key: &CacheKey, suits: impl Fn(&Flight) -> bool) -> Option<Arc<Flight>> {
        let shard = self.shard(key.as_str()).lock();
        joined(shard.get(key)?, suits)
    }

    /// Enters a fill that nobody else may follow; `None` if there are too many.
    pub fn alone(&self, key: &CacheKey, seq: PurgeSeq) -> Option<Arc<Flight>> {
        self.enter(&mut self.shard(key.as_str()).lock(), key, seq, None)
    }

    /// Spoils all fills of a key.
    pub fn spoil(&self, key: &str) {
        self.shard(key).lock().get(key).into_iter().flatten().for_each(|flight| flight.spoil());
    }

    /// Nobody can join it any more.
    pub fn remove(&self, flight: &Arc<Flight>) {
        let mut shard = self.shard(flight.key.as_str()).lock();
        if let Some(running) = shard.get_mut(&flight.key) {
            let before = running.len();
            running.retain(|other| !Arc::ptr_eq(other, flight));
            self.running.fetch_sub(before - running.len(), Ordering::Relaxed);
            if running.is_empty() {
                shard.remove(&flight.key);
            }
        }
    }

    /// How many fills are running.
    pub fn len(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// The oldest purge sequence of a running fill.
    pub fn oldest_seq(&self) -> Option<PurgeSeq> {
        let of_shard = |shard: &Shard| shard.lock().values().flatten().map(|flight| flight.seq).min();
        self.shards.iter().filter_map(of_shard).min()
    }

    /// Enters a new one, if there is room; `joinable`: by whom.
    fn enter(
        &self,
        shard: &mut Running,
        key: &CacheKey,
        seq: PurgeSeq,
        joinable: Option<Option<Variant>>,
    ) -> Option<Arc<Flight>> {
        let most = self.most.load(Ordering::Relaxed);
        let one_more = |now| (now < most).then_some(now + 1);
        self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let flight = Flight::new(key.clone(), seq, joinable, self.buffer.clone());
        shard.entry(key.clone()).or_default().push(flight.clone());
        Some(flight)
    }

    fn shard(&self, key: &str) -> &Shard {
        &self.shards[(self.hasher.hash_one(key) % SHARDS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_fills_are_entered_than_may_be() {
        let key = |name: &str| CacheKey::from_written(&format!("s\u{1f}1\u{1f}h/{name}"));
        let flights = Flights::new(2, FillBuffer::new(0, Arc::default()));
        let Turn::Lead(first) = flights.join_or_lead(&key("a"), PurgeSeq(0), None, |_| true) else {
            panic!("there is room")
        };
        assert!(flights.alone(&key("a"), PurgeSeq(0)).is_some());
        assert!(matches!(flights.join_or_lead(&key("b"), PurgeSeq(0), None, |_| true), Turn::Full));
        assert!(flights.alone(&key("b"), PurgeSeq(0)).is_none());
        assert!(matches!(flights.join_or_lead(&key("a"), PurgeSeq(0), None, |_| true), Turn::Follow(_)));
        flights.remove(&first);
        flights.remove(&first);
        assert_eq!(flights.len(), 1, "what left twice leaves once");
        assert!(matches!(flights.join_or_lead(&key("b"), PurgeSeq(0), None, |_| true), Turn::Lead(_)));
    }
}
