//! What is held in memory for readers alone: bodies that the store has let go of while somebody is still being sent them,
//! and pieces that wait for clients by HTTP/2. Whoever has to be waited for enters here; who takes at once costs nothing.
//!
//! A body counts once, however many read it, and from the moment at which the store lets it go: until then it takes no
//! memory of its own. Past three quarters of the bound those are ended of which nothing was taken for the longest time;
//! past a half those that are stalled, and nothing large is kept in memory that is new. What one connection holds has a
//! bound of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use tokio::sync::Notify;

use crate::clock::ticks;

use super::store::Variants;

/// Milliseconds after which a reader that has taken nothing is stalled.
const STALLED: u64 = 2_000;
/// So is one that holds the same for longer than this and a second for each so many bytes, however often it takes a little.
const PATIENCE: u64 = 10_000;
const BYTES_A_SECOND: u64 = 64 << 10;
/// Milliseconds between two looks for the stalled.
const LOOK_EVERY: u64 = 100;
/// What one connection may hold, and half as much in pieces: so large a part of the bound,
const SHARE: u64 = 8;
/// but a large body, if that is no more than a quarter.
const LEAST_SHARE: u64 = 8 << 20;

/// Why a reader had to end.
pub const NO_ROOM: &str = "the client takes too little, and there is no room for what waits";

/// Somebody that holds something for a client.
pub trait Holder: Send + Sync {
    /// Is to let go of it, and to end.
    fn let_go(&self);
}

/// A holder as the account has it.
pub struct Holding {
    /// Of a client with many holders; 0: it has this one.
    connection: usize,
    /// When the client took something last: [`ticks`].
    taken: Arc<AtomicU64>,
    holder: Weak<dyn Holder>,
}

/// Something that is held, until this is dropped: before the thing itself, whose place in memory is its name here.
pub struct Held {
    waiting: Arc<Waiting>,
    key: usize,
    holder: usize,
}

/// One client that has to be waited for.
#[derive(Debug)]
pub struct Waiter {
    connection: usize,
    taken: Arc<AtomicU64>,
    told: Notify,
}

/// The account.
pub struct Waiting {
    held: AtomicU64,
    most: AtomicU64,
    holders: AtomicUsize,
    /// When the stalled were looked for.
    looked: AtomicU64,
    ended: AtomicU64,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    /// Bodies that the store has, too, by their place in memory. They do not count.
    stored: HashMap<usize, Group>,
    /// What is here for readers alone: bodies likewise, pieces by the place of their holder.
    alone: HashMap<usize, Group>,
    /// What each connection has a part in of the latter.
    connections: HashMap<usize, Charged>,
}

/// Bytes of one connection: of everything, and of pieces.
#[derive(Debug, Clone, Copy, Default)]
struct Charged {
    all: u64,
    pieces: u64,
}

/// Those that hold one thing.
struct Group {
    /// Bytes that count in all, and in each of the connections.
    bytes: u64,
    charge: u64,
    /// Since when it is held: [`ticks`].
    entered: u64,
    is_pieces: bool,
    holders: SmallVec<[Holding; 1]>,
}

impl Waiter {
    pub fn new(connection: usize) -> Arc<Self> {
        Arc::new(Waiter { connection, taken: Arc::new(AtomicU64::new(ticks())), told: Notify::new() })
    }

    /// Whether its client has others like it.
    pub fn is_one_of_many(&self) -> bool {
        self.connection != 0
    }

    /// The client has taken something.
    pub fn step(&self) {
        self.taken.store(ticks(), Ordering::Relaxed);
    }

    /// Ends when the reader is to end.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    pub fn holding(self: &Arc<Self>) -> Holding {
        Holding::new(self.connection, &self.taken, self)
    }
}

impl Holder for Waiter {
    fn let_go(&self) {
        self.told.notify_one();
    }
}

impl Holding {
    pub fn new<H: Holder + 'static>(connection: usize, taken: &Arc<AtomicU64>, holder: &Arc<H>) -> Self {
        let holder: Weak<H> = Arc::downgrade(holder);
        Holding { connection, taken: taken.clone(), holder }
    }

    /// Whether its holder is there still.
    pub fn is_live(&self) -> bool {
        self.holder.strong_count() > 0
    }

    /// What is taken of what went before counts for nothing, and what has just come cannot have been taken yet.
    fn enter(&self) {
        self.taken.store(ticks(), Ordering::Relaxed);
    }

    /// What tells its holder from others that are there.
    pub fn address(&self) -> usize {
        self.holder.as_ptr().cast::<()>().addr()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.leave(self.key, self.holder);
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting {
            held: AtomicU64::new(0),
            most: AtomicU64::new(u64::MAX),
            holders: AtomicUsize::new(0),
            looked: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            all: Mutex::default(),
        }
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Waiting {
    pub fn set_most(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Bytes that are held for readers alone.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// How often something was let go of for want of room, and whoever read it had to end.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether so much is held that nothing large that is new is to be kept in memory. The stalled make room first. Not to
    /// be asked with a lock of a holder's held.
    pub fn is_crowded(&self) -> bool {
        let half = self.most() / 2;
        if self.held() <= half {
            return false;
        }
        let (now, looked) = (ticks(), self.looked.load(Ordering::Relaxed));
        let mine = || self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if now >= looked + LOOK_EVERY && mine() {
            let over = self.held().saturating_sub(half);
            self.end_some(over, |group| group.is_stalled(now), |group| group.bytes);
        }
        self.held() > half
    }

    /// Enters somebody who holds a body that lies at a place in memory; as far as is known the store has it, too.
    pub fn hold_body(self: &Arc<Self>, body: usize, bytes: u64, holding: Holding) -> Held {
        let (holder, connection) = (holding.address(), holding.connection);
        holding.enter();
        let is_alone = {
            let mut guard = self.all.lock();
            let all = &mut *guard;
            self.holders.fetch_add(1, Ordering::SeqCst);
            let is_alone = all.alone.contains_key(&body);
            let groups = if is_alone { &mut all.alone } else { &mut all.stored };
            let group = groups.entry(body).or_insert_with(|| Group::of(bytes));
            group.holders.push(holding);
            if is_alone {
                let charge = group.charge;
                all.charge(connection, charge, false);
            }
            is_alone
        };
        if is_alone {
            self.bound_connection(connection, bytes);
        }
        Held { waiting: self.clone(), key: body, holder }
    }

    /// Enters somebody who holds pieces, if there is room; where there is none at all the stalled make some. What is the first
    /// of its connection is that connection's due: it has room in any case, and does not count. Who finds none holds nothing,
    /// and may ask again.
    pub fn hold_pieces(self: &Arc<Self>, bytes: u64, holder: &Arc<Waiter>) -> Option<Held> {
        if let Some(held) = self.enter_pieces(bytes, holder.holding()) {
            return Some(held);
        }
        // What is above a connection's share waits: its streams wait for each other's turns, and none of them is slow by that.
        if self.held() + bytes > self.full() {
            let now = ticks();
            self.end_some(bytes, |group| group.is_stalled(now), |group| group.bytes);
        }
        self.enter_pieces(bytes, holder.holding())
    }

    fn enter_pieces(self: &Arc<Self>, bytes: u64, holding: Holding) -> Option<Held> {
        let (key, connection) = (holding.address(), holding.connection);
        let mut guard = self.all.lock();
        let all = &mut *guard;
        let charged = all.connections.get(&connection).copied();
        let counted = if charged.is_some() { bytes } else { 0 };
        let has_room = |of: Charged| of.pieces + bytes <= self.share() / 2 && self.held() + bytes <= self.full();
        if !charged.is_none_or(has_room) {
            return None;
        }
        holding.enter();
        self.holders.fetch_add(1, Ordering::SeqCst);
        self.held.fetch_add(counted, Ordering::Relaxed);
        all.charge(connection, bytes, true);
        all.alone.insert(
            key,
            Group { bytes: counted, charge: bytes, entered: ticks(), is_pieces: true, holders: smallvec![holding] },
        );
        Some(Held { waiting: self.clone(), key, holder: key })
    }

    /// The store has let go of some responses; `after`: of the same key, what it has still.
    pub fn left(&self, gone: &Variants, after: Option<&Variants>) {
        if self.holders.load(Ordering::SeqCst) == 0 {
            return;
        }
        let stays: SmallVec<[usize; 8]> = after.into_iter().flat_map(bodies).collect();
        bodies(gone).filter(|body| !stays.contains(body)).for_each(|body| self.left_body(body));
    }

    /// The store does not have a body any more.
    pub fn left_body(&self, body: usize) {
        let (bytes, mut connections) = {
            let mut guard = self.all.lock();
            let all = &mut *guard;
            let Some(group) = all.stored.remove(&body) else { return };
            let connections: SmallVec<[usize; 4]> = group.holders.iter().map(|holding| holding.connection).collect();
            connections.iter().for_each(|connection| all.charge(*connection, group.charge, false));
            let bytes = group.bytes;
            all.alone.insert(body, Group { entered: ticks(), ..group });
            (bytes, connections)
        };
        self.held.fetch_add(bytes, Ordering::Relaxed);
        connections.sort_unstable();
        connections.dedup();
        connections.into_iter().for_each(|connection| self.bound_connection(connection, bytes));
        self.bound_all(bytes);
    }

    /// What one connection may hold.
    fn share(&self) -> u64 {
        (self.most() / SHARE).max(LEAST_SHARE.min(self.most() / 4))
    }

    /// Above this somebody has to make room.
    fn full(&self) -> u64 {
        self.most() / 4 * 3
    }

    /// One connection has `bytes` more, of a body: it is to keep to its share.
    fn bound_connection(&self, connection: usize, bytes: u64) {
        let charged = self.all.lock().connections.get(&connection).map_or(0, |charged| charged.all);
        // A single thing may be larger than the share.
        if connection != 0 && charged > self.share().max(bytes) {
            self.end_some(bytes, |group| group.is_of(connection) && !group.is_pieces, |group| group.charge);
        }
    }

    /// There are `bytes` more: all together keep to the bound.
    fn bound_all(&self, bytes: u64) {
        if self.held() > self.full() {
            self.end_some(bytes, |_| true, |group| group.bytes);
        }
    }

    /// Ends those of which nothing was taken for the longest time, among some, until so many bytes are free; `frees`: what
    /// each is worth.
    fn end_some(&self, bytes: u64, among: impl Fn(&Group) -> bool, frees: impl Fn(&Group) -> u64) {
        let (mut left, mut ended) = (bytes, Vec::new());
        {
            let mut guard = self.all.lock();
            let all = &mut *guard;
            while left > 0 {
                let groups = all.alone.iter().filter(|(_, group)| frees(group) > 0 && among(group));
                let oldest = groups.map(|(key, group)| (group.taken(), *key)).min();
                let Some(group) = oldest.and_then(|(_, key)| all.alone.remove(&key)) else { break };
                let pieces = group.is_pieces;
                group.holders.iter().for_each(|holding| all.discharge(holding.connection, group.charge, pieces));
                self.held.fetch_sub(group.bytes, Ordering::Relaxed);
                left = left.saturating_sub(frees(&group));
                ended.push(group);
            }
        }
        // Without the lock: whoever lets go may leave at once.
        for holder in ended.iter().flat_map(|group| &group.holders).filter_map(|holding| holding.holder.upgrade()) {
            self.ended.fetch_add(1, Ordering::Relaxed);
            holder.let_go();
        }
    }

    fn leave(&self, key: usize, holder: usize) {
        let mut guard = self.all.lock();
        let all = &mut *guard;
        self.holders.fetch_sub(1, Ordering::SeqCst);
        let is_alone = all.alone.contains_key(&key);
        let groups = if is_alone { &mut all.alone } else { &mut all.stored };
        // One that was ended has no group any more, or one of others.
        let Some(group) = groups.get_mut(&key) else { return };
        let Some(place) = group.holders.iter().position(|holding| holding.address() == holder) else { return };
        let (left, pieces) = (group.holders.swap_remove(place), group.is_pieces);
        let (bytes, charge) = (group.bytes, group.charge);
        let is_empty = group.holders.is_empty();
        if is_empty {
            groups.remove(&key);
        }
        if is_alone {
            all.discharge(left.connection, charge, pieces);
            self.held.fetch_sub(if is_empty { bytes } else { 0 }, Ordering::Relaxed);
        }
    }
}

impl All {
    fn charge(&mut self, connection: usize, bytes: u64, pieces: bool) {
        if connection != 0 {
            let charged = self.connections.entry(connection).or_default();
            charged.all += bytes;
            charged.pieces += if pieces { bytes } else { 0 };
        }
    }

    fn discharge(&mut self, connection: usize, bytes: u64, pieces: bool) {
        if let Some(charged) = self.connections.get_mut(&connection) {
            charged.all = charged.all.saturating_sub(bytes);
            charged.pieces = charged.pieces.saturating_sub(if pieces { bytes } else { 0 });
            if charged.all == 0 {
                self.connections.remove(&connection);
            }
        }
    }
}

impl Group {
    fn of(bytes: u64) -> Self {
        Group { bytes, charge: bytes, entered: ticks(), is_pieces: false, holders: SmallVec::new() }
    }

    fn is_of(&self, connection: usize) -> bool {
        self.holders.iter().any(|holding| holding.connection == connection)
    }

    /// Whether nothing of it was taken for a while, or so little that it is held for much too long.
    fn is_stalled(&self, now: u64) -> bool {
        let long = PATIENCE + self.charge * 1000 / BYTES_A_SECOND;
        self.taken() + STALLED < now || self.entered + long < now
    }

    /// When any of them took something last.
    fn taken(&self) -> u64 {
        self.holders.iter().map(|holding| holding.taken.load(Ordering::Relaxed)).max().unwrap_or(0)
    }
}

/// Where the bodies of some responses lie.
fn bodies(variants: &Variants) -> impl Iterator<Item = usize> {
    variants.objects().filter_map(|object| object.content.in_memory()).map(|body| body.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 64 << 20;
    const MIB: u64 = 1 << 20;

    fn account() -> Arc<Waiting> {
        let waiting = Arc::new(Waiting::default());
        waiting.set_most(MOST);
        waiting
    }

    fn waiter(connection: usize, taken: u64) -> Arc<Waiter> {
        let waiter = Waiter::new(connection);
        waiter.taken.store(taken, Ordering::Relaxed);
        waiter
    }

    fn is_told(waiter: &Waiter) -> bool {
        let told = std::pin::pin!(waiter.told());
        told.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn a_body_counts_once_and_only_when_it_is_here_for_readers_alone() {
        let waiting = account();
        let (one, other) = (waiter(0, 1), waiter(0, 2));
        let first = waiting.hold_body(100, 7 * MIB, one.holding());
        let second = waiting.hold_body(100, 7 * MIB, other.holding());
        assert_eq!(waiting.held(), 0, "the store has it");
        waiting.left_body(100);
        waiting.left_body(100);
        assert_eq!(waiting.held(), 7 * MIB);
        drop(first);
        assert_eq!(waiting.held(), 7 * MIB, "one holds it still");
        let third = waiting.hold_body(100, 7 * MIB, one.holding());
        drop((second, third));
        assert_eq!(waiting.held(), 0);
        let all = waiting.all.lock();
        assert!(all.stored.is_empty() && all.alone.is_empty() && all.connections.is_empty());
    }

    #[test]
    fn who_took_nothing_for_the_longest_time_goes_first() {
        let waiting = account();
        let waiters: Vec<_> = (0..5).map(|_| Waiter::new(0)).collect();
        let held: Vec<_> =
            (1..).zip(&waiters).map(|(at, one)| waiting.hold_body(at, 12 * MIB, one.holding())).collect();
        waiters.iter().zip([5, 3, 9, 7, 8]).for_each(|(one, taken)| one.taken.store(taken, Ordering::Relaxed));
        (1..=4).for_each(|body| waiting.left_body(body));
        assert_eq!(waiting.held(), 48 * MIB, "three quarters");
        waiting.left_body(5);
        assert_eq!((waiting.held(), waiting.ended()), (48 * MIB, 1));
        assert_eq!(waiters.iter().map(|one| is_told(one)).collect::<Vec<_>>(), [false, true, false, false, false]);
        drop(held);
        assert_eq!(waiting.held(), 0);
    }

    #[test]
    fn the_stalled_make_room_for_what_is_new() {
        let waiting = account();
        let (stalled, busy) = (waiter(0, 0), waiter(0, u64::MAX));
        let _held = [waiting.hold_body(1, 20 * MIB, stalled.holding()), waiting.hold_body(2, 20 * MIB, busy.holding())];
        stalled.taken.store(0, Ordering::Relaxed);
        busy.taken.store(u64::MAX, Ordering::Relaxed);
        [1, 2].into_iter().for_each(|body| waiting.left_body(body));
        assert_eq!(waiting.held(), 40 * MIB, "more than a half, less than three quarters");
        // The clock of a test has only begun: what is stalled is said by hand.
        waiting.end_some(MIB, |group| group.taken() < 1, |group| group.bytes);
        assert!(is_told(&stalled) && !is_told(&busy) && !waiting.is_crowded());
    }

    #[test]
    fn a_connection_keeps_to_its_share() {
        let waiting = account();
        let waiters: Vec<_> = (1..=100).map(|_| Waiter::new(77)).collect();
        let hold = |one: &Arc<Waiter>| waiting.hold_pieces(128 << 10, one);
        let mut held: Vec<_> = waiters.iter().map(hold).collect();
        assert_eq!((held.iter().flatten().count(), waiting.ended()), (32, 0), "nobody who takes is ended");
        assert!(waiting.held() < 4 * MIB);
        held.remove(0);
        assert!(hold(&waiters[99]).is_some(), "there is room again");
        let one = waiter(78, 0);
        let large = waiting.hold_body(1, 12 * MIB, one.holding());
        waiting.left_body(1);
        assert!(!is_told(&one), "a single thing may be large");
        drop((held, large));
        assert_eq!((waiting.held(), waiting.all.lock().connections.len()), (0, 0));
    }

    #[test]
    fn who_is_stalled() {
        let group = |charge, taken, entered| {
            let one = waiter(1, taken);
            let holders = smallvec![one.holding()];
            Group { bytes: charge, charge, entered, is_pieces: false, holders }
        };
        for (charge, taken, entered, expected) in [
            (MIB, 98_001, 90_000, false),
            (MIB, 97_999, 97_999, true), // takes nothing
            (128 << 10, 99_999, 88_001, false),
            (128 << 10, 99_999, 87_999, true), // takes a byte now and then
            (7 * MIB, 99_999, 0, false),
        ] {
            let is_stalled = group(charge, taken, entered).is_stalled(100_000);
            assert_eq!(is_stalled, expected, "{charge} {taken} {entered}");
        }
    }
}
