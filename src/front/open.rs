//! The open connections of all listeners: how many there may be, and who makes room for a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::clock::ticks;
use crate::config::model::Limits;
use crate::prefix::Prefix;

use super::serve::Shared;

/// Counts the open connections of all listeners, and knows which of them have nothing to do; [`Open::closed`] waits until
/// there are none.
#[derive(Clone)]
pub(crate) struct Open {
    count: watch::Sender<u32>,
    crowds: Arc<Mutex<Crowds>>,
    /// What the descriptors of the process are enough for.
    allowed: u32,
}

/// One open connection.
pub(crate) struct OpenGuard {
    open: Open,
    shared: Arc<Shared>,
    id: u64,
    pub place: Arc<Place>,
}

/// A connection's place among the others.
pub(crate) struct Place {
    /// Its client's network, unless that is no crowd: a trusted proxy.
    pub prefix: Option<Prefix>,
    /// Since when it has had nothing to do: [`ticks`]; or [`BUSY`], or [`LEAVING`].
    rests: AtomicU64,
    told: Notify,
}

const BUSY: u64 = 0;
const LEAVING: u64 = u64::MAX;

impl Place {
    /// One that has not sent anything has nothing to do.
    fn new(prefix: Option<Prefix>, now: u64) -> Arc<Self> {
        Arc::new(Place { prefix, rests: AtomicU64::new(now), told: Notify::new() })
    }

    /// The connection has nothing to do from now on.
    pub(crate) fn rest(&self) {
        let _ = self.rests.compare_exchange(BUSY, ticks(), Ordering::Relaxed, Ordering::Relaxed); // it may be at rest
    }

    /// It has something to do.
    pub(crate) fn work(&self) {
        if self.rests.load(Ordering::Relaxed) != BUSY {
            let _ = self.change(|rests| (rests != LEAVING).then_some(BUSY));
        }
    }

    /// Ends when it is to make room for another.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    fn resting(&self) -> Option<u64> {
        Some(self.rests.load(Ordering::Relaxed)).filter(|rests| !matches!(*rests, BUSY | LEAVING))
    }

    /// Has it go, if it has nothing to do. Whether it goes.
    fn give_way(&self) -> bool {
        let goes = self.change(|rests| (!matches!(rests, BUSY | LEAVING)).then_some(LEAVING));
        if goes {
            self.told.notify_one();
        }
        goes
    }

    fn change(&self, to: impl Fn(u64) -> Option<u64>) -> bool {
        self.rests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, to).is_ok()
    }
}

#[derive(Default)]
struct Crowds {
    next: u64,
    all: Crowd,
    of: HashMap<Prefix, Crowd>,
}

/// Connections of which one may have to make room.
#[derive(Default)]
struct Crowd {
    places: HashMap<u64, Arc<Place>>,
    /// Of those that were at rest when they were looked for; the one that had rested longest is the last.
    spare: Vec<Arc<Place>>,
    /// When that was; 0: there may be more.
    looked: u64,
    /// How many have come since.
    came: usize,
}

/// Connections at rest that are found with one look at all, at most.
const SPARE: usize = 256;
/// Milliseconds between two such looks, where the first has found all.
const LOOK_EVERY: u64 = 100;

impl Crowd {
    fn insert(&mut self, id: u64, place: &Arc<Place>) {
        self.places.insert(id, place.clone());
        self.came += 1;
    }

    /// Has the one go that has rested longest. Whether there was one.
    fn make_room(&mut self, now: u64) -> bool {
        loop {
            match self.spare.pop() {
                Some(place) if place.give_way() => return true,
                Some(_) => {}
                // Soon again only if many are new, so that looking costs each of them the same.
                None if self.looked > 0 && now < self.looked + LOOK_EVERY && self.came * 2 < self.places.len() => {
                    return false;
                }
                None => {
                    self.came = 0;
                    let resting = self.places.values().filter_map(|place| Some((place.resting()?, place)));
                    let mut resting: Vec<(u64, &Arc<Place>)> = resting.collect();
                    resting.sort_unstable_by_key(|(since, _)| std::cmp::Reverse(*since));
                    let from = resting.len().saturating_sub(SPARE);
                    self.looked = if from > 0 { 0 } else { now };
                    self.spare = resting[from..].iter().map(|(_, place)| Arc::clone(place)).collect();
                }
            }
        }
    }
}

impl Open {
    pub(crate) fn new(allowed: u32) -> Self {
        Open { count: watch::Sender::new(0), crowds: Arc::default(), allowed }
    }

    pub(crate) fn count(&self) -> u32 {
        *self.count.borrow()
    }

    /// The cap on connections that is in force.
    pub(crate) fn most(&self, limits: &Limits) -> u32 {
        limits.max_connections.min(self.allowed)
    }

    /// Resolves when no connection is open.
    pub(crate) async fn closed(&self) {
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await; // its sender is here
    }

    /// Waits a moment for those who have been told to make room, if they are many.
    pub(crate) async fn let_some_go(&self, shared: &Shared) {
        let most = with_those_who_go(self.most(&shared.snapshot.load().config.limits));
        if self.count() >= most {
            let mut count = self.count.subscribe();
            let _ = tokio::time::timeout(GOING, count.wait_for(|count| *count < most)).await; // then it is refused
        }
    }

    /// A new connection; `client`: whose, if that is known. Where there is no room for it one that has nothing to do makes
    /// some; `None`: none has.
    pub(crate) fn enter(&self, shared: &Arc<Shared>, client: Option<IpAddr>) -> Option<OpenGuard> {
        let metrics = &shared.observer.metrics;
        let entered = {
            let snapshot = shared.snapshot.load();
            let config = &snapshot.config;
            let prefix = client.and_then(|client| config.node.prefix_of(client));
            let most = self.most(&config.limits);
            self.take_place(prefix, most, share(most, config.limits.max_prefix_share), ticks())
        };
        let Some((id, place)) = entered else {
            metrics.connections_refused.inc();
            return None;
        };
        metrics.connections.inc();
        metrics.connections_total.inc();
        Some(OpenGuard { open: self.clone(), shared: shared.clone(), id, place })
    }

    fn take_place(&self, prefix: Option<Prefix>, most: u32, share: u32, now: u64) -> Option<(u64, Arc<Place>)> {
        let mut crowds = self.crowds.lock();
        let open_of = |prefix| crowds.of.get(&prefix).map_or(0, |of| of.places.len());
        if self.count() >= with_those_who_go(most) || prefix.map_or(0, open_of) >= with_those_who_go(share) as usize {
            return None; // room has been asked for and is not there yet
        }
        let full = prefix.and_then(|prefix| crowds.of.get_mut(&prefix).filter(|of| of.places.len() >= share as usize));
        let makes_room = match full {
            Some(crowd) => crowd.make_room(now), // whoever goes there makes room among all
            None => self.count() < most || crowds.all.make_room(now),
        };
        if !makes_room {
            return None;
        }
        self.count.send_modify(|count| *count += 1);
        crowds.next += 1;
        let (id, place) = (crowds.next, Place::new(prefix, now));
        crowds.all.insert(id, &place);
        if let Some(prefix) = prefix {
            crowds.of.entry(prefix).or_default().insert(id, &place);
        }
        Some((id, place))
    }

    fn leave_place(&self, id: u64, place: &Place) {
        place.rests.store(LEAVING, Ordering::Relaxed); // whoever looks for room finds none here
        let mut crowds = self.crowds.lock();
        crowds.all.places.remove(&id);
        if let Some(prefix) = place.prefix
            && let Some(crowd) = crowds.of.get_mut(&prefix)
        {
            crowd.places.remove(&id);
            if crowd.places.is_empty() {
                crowds.of.remove(&prefix);
            }
        }
        drop(crowds);
        self.count.send_modify(|count| *count -= 1);
    }
}

/// Connections that clients next to each other may have in any case.
const LEAST_SHARE: u32 = 32;

/// How many of `most` connections clients next to each other may have.
fn share(most: u32, percent: u32) -> u32 {
    (u64::from(most) * u64::from(percent) / 100).max(u64::from(LEAST_SHARE)).min(u64::from(most)) as u32
}

/// How long it is waited for those who have been told to make room.
const GOING: Duration = Duration::from_millis(200);

/// How many may be open with those that have been told to make room, which takes a moment.
fn with_those_who_go(most: u32) -> u32 {
    most.saturating_add((most / 16).max(16))
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.shared.observer.metrics.connections.dec();
        self.open.leave_place(self.id, &self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str) -> Option<Prefix> {
        Some(Prefix::of(address.parse().unwrap()))
    }

    #[test]
    fn who_has_rested_longest_makes_room_and_nobody_who_is_busy() {
        let open = Open::new(u32::MAX);
        let mut places: Vec<_> = (0..3).map(|_| open.take_place(None, 3, 3, 1000).unwrap()).collect();
        places.iter().for_each(|place| place.1.work());
        assert!(open.take_place(None, 3, 3, 1000).is_none(), "all are busy");
        for (place, since) in places.iter().zip([500, 300, 400]) {
            place.1.rests.store(since, Ordering::Relaxed);
        }
        assert!(open.take_place(None, 3, 3, 1050).is_none(), "not looked for again yet");
        let entered = open.take_place(None, 3, 3, 1100).unwrap();
        entered.1.work();
        assert_eq!(places.iter().map(|place| place.1.resting()).collect::<Vec<_>>(), [Some(500), None, Some(400)]);
        let (id, place) = places.remove(1);
        open.leave_place(id, &place);
        assert_eq!(open.count(), 3);
        places[0].1.work();
        let next = open.take_place(None, 3, 3, 1101).expect("the next one goes");
        next.1.work();
        assert!(open.take_place(None, 3, 3, 1102).is_none());
        drop(entered);
    }

    #[test]
    fn clients_next_to_each_other_have_a_share() {
        let open = Open::new(u32::MAX);
        for _ in 0..32 {
            open.take_place(prefix("192.0.1.7"), 100, 32, 1000).unwrap().1.work();
        }
        assert!(open.take_place(prefix("::ffff:192.0.1.9"), 100, 32, 1000).is_none());
        assert!(open.take_place(prefix("192.0.3.7"), 100, 32, 1000).is_some(), "another network");
        assert!(open.take_place(None, 100, 32, 1000).is_some(), "a trusted proxy");
        assert_eq!([share(20_000, 25), share(2, 25), share(200, 25), share(200, 100)], [5_000, 2, 50, 200]);
    }
}
