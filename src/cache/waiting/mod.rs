//! What is held in memory for readers alone: bodies that the store has let go of while somebody is still being sent them,
//! pieces that wait for clients by HTTP/2, and the streams themselves. Whoever has to be waited for enters here; who takes at
//! once costs nothing.
//!
//! A body counts once, however many read it, and from the moment at which the store lets it go: until then it takes no
//! memory of its own. Past three quarters of the bound those are ended of which nothing was taken for the longest time;
//! past a half those that are stalled, and nothing large is kept in memory that is new. What one connection holds has a
//! bound of its own, and so has what the clients of one network hold: for a network that has its share nothing large that is
//! new is kept, so that few who trickle do not switch off storing for all. Nobody is ended for a share who keeps taking.
//! The last quarter is for streams as such, and for what is in hand where there is no room for it yet.

mod charges;
mod group;
mod holder;
mod quota;
mod room;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::clock::ticks;
use crate::config::model::Limits;
use crate::prefix::Prefix;

use charges::Charges;
use group::{Group, Whose};
use quota::Quota;

pub(crate) use charges::Client;
pub(crate) use holder::{Holder, Holding, Waiter};
pub(crate) use quota::{Share, full};
pub(crate) use turns::Turns;

use super::store::Variants;

/// Bytes that are every connection's due.
const DUE: u64 = 64 << 10;
/// Streams as such may take so large a part of the bound, and what is in hand without room as much; but always so much,
const SMALL_PART: u64 = 8;
const LEAST_SMALL_PART: u64 = 1 << 20;
/// and streams so much more, for those whose connections have only come for something that is slow.
const STREAMS_TOO: u64 = 8 << 20;

/// What requests' bodies may take at least.
const LEAST_UPLOADS: u64 = 16 << 20;

/// Why a reader had to end.
pub(crate) const NO_ROOM: &str = "the client takes too little, and there is no room for what waits";

/// Something that is held, until this is dropped: before the thing itself, whose place in memory is its name here.
pub struct Held {
    waiting: Arc<Waiting>,
    key: usize,
    holder: usize,
}

/// The account.
pub struct Waiting {
    held: AtomicU64,
    /// Bytes of fills that are to be stored, which [`super::fill_buffer`] counts.
    pub fills: AtomicU64,
    most: AtomicU64,
    holders: AtomicUsize,
    /// When the stalled were looked for.
    looked: AtomicU64,
    ended: AtomicU64,
    /// Percent of the bound that the clients of one network may have.
    prefix_share: AtomicU32,
    /// What streams as such take, whatever they are to wait for.
    pub(crate) streams: Arc<Quota>,
    in_hand: Arc<Quota>,
    /// What clients may send of bodies before it is taken, beyond what is every connection's due; and what is kept of bodies
    /// to be sent again, where others do not need the room.
    pub(crate) uploads: Arc<Quota>,
    /// Coders, by number, of what is compressed as it passes.
    pub(crate) coders: Arc<Quota>,
    /// What is being fetched for the clients of each network, to be stored in memory.
    pub(super) fetched: Arc<Quota>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    /// Bodies that the store has, too, by their place in memory. They do not count.
    stored: HashMap<usize, Group>,
    /// What is here for readers alone: bodies likewise, pieces by the place of their holder.
    alone: HashMap<usize, Group>,
    /// What everybody has a part in of the latter.
    charges: Charges,
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
            fills: AtomicU64::new(0),
            most: AtomicU64::new(u64::MAX),
            holders: AtomicUsize::new(0),
            looked: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            prefix_share: AtomicU32::new(100),
            streams: Quota::new(u64::MAX, u64::MAX),
            in_hand: Quota::new(u64::MAX, u64::MAX),
            uploads: Quota::new(u64::MAX, u64::MAX),
            coders: Quota::new(0, 0),
            fetched: Quota::new(u64::MAX, u64::MAX),
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
        self.divide();
    }

    /// What clients may take: coders, and of all that is here what the clients of one network may have.
    pub fn set_limits(&self, limits: &Limits) {
        self.prefix_share.store(limits.max_prefix_share, Ordering::Relaxed);
        self.divide();
        let coders = u64::from(limits.max_compressions);
        self.coders.set(coders, self.part_of_prefix(coders).max(1));
    }

    fn divide(&self) {
        let part = (self.most() / SMALL_PART).max(LEAST_SMALL_PART);
        let quotas =
            [(&self.streams, part + STREAMS_TOO), (&self.in_hand, part), (&self.uploads, part.max(LEAST_UPLOADS))];
        quotas.into_iter().for_each(|(quota, part)| quota.set(part, self.part_of_prefix(part)));
    }

    /// What of so many bytes the clients of one network may have.
    fn part_of_prefix(&self, bytes: u64) -> u64 {
        let part = u128::from(bytes) * u128::from(self.prefix_share.load(Ordering::Relaxed)) / 100;
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Enters what is in hand already while there is no room for it. `None`: there is too much of that.
    pub fn keep_in_hand(&self, waiter: &Waiter, bytes: u64) -> Option<Share> {
        self.in_hand.take(waiter.client.prefix, bytes)
    }

    /// Bytes of streams, and of what is in hand for them without room.
    pub fn streams(&self) -> u64 {
        self.streams.taken() + self.in_hand.taken() + self.uploads.taken()
    }

    /// Bytes that are held for readers alone, but for the streams themselves.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// How often something was let go of for want of room, and whoever read it had to end.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Enters what is being fetched for a client of a network.
    pub fn enter_fill(&self, prefix: Option<Prefix>, bytes: u64) -> Option<Share> {
        prefix.and_then(|prefix| self.fetched.take(Some(prefix), bytes))
    }

    /// Enters somebody who holds a body that lies at a place in memory; as far as is known the store has it, too.
    pub fn hold_body(self: &Arc<Self>, body: usize, bytes: u64, holding: Holding) -> Held {
        let (holder, client) = (holding.address(), holding.client);
        holding.enter();
        let is_alone = {
            let mut guard = self.all.lock();
            let All { stored, alone, charges } = &mut *guard;
            self.holders.fetch_add(1, Ordering::SeqCst);
            let is_alone = alone.contains_key(&body);
            let groups = if is_alone { alone } else { stored };
            let group = groups.entry(body).or_insert_with(|| Group::of(bytes));
            if is_alone {
                group.charge_to(client, charges);
            }
            group.holders.push(holding);
            is_alone
        };
        if is_alone {
            self.bound_client(client, bytes);
        }
        Held { waiting: self.clone(), key: body, holder }
    }

    /// Enters somebody who holds pieces, if there is room; where there is none the stalled make some. Of the first of its
    /// connection 64 KiB are that connection's due: they do not count, and for the rest there is a quarter that others leave.
    /// Who finds no room holds nothing, and may ask again.
    pub fn hold_pieces(self: &Arc<Self>, bytes: u64, holder: &Arc<Waiter>) -> Option<Held> {
        if let Some(held) = self.enter_pieces(bytes, holder.holding()) {
            return Some(held);
        }
        // What is above a connection's share waits: its streams wait for each other's turns, and none of them is slow by
        // that.
        if self.held() + bytes > full(self.most()) {
            // More than the one that asks needs: the next look is a while off, and others ask, too.
            self.end_stalled(bytes.max(self.most() / 16), Whose::Stalled);
        } else if let Some(prefix) = holder.client.prefix
            && self.all.lock().charges.networks.of(Some(prefix)) + bytes > full(self.share_of_prefix())
        {
            self.end_stalled(bytes, |now| Whose::Prefix(prefix, now));
        }
        self.enter_pieces(bytes, holder.holding())
    }

    fn enter_pieces(self: &Arc<Self>, bytes: u64, holding: Holding) -> Option<Held> {
        let (key, client) = (holding.address(), holding.client);
        let mut guard = self.all.lock();
        let All { alone, charges, .. } = &mut *guard;
        let is_first = charges.connections.of(client.connection()) == 0;
        let has_room_in = |part: fn(u64) -> u64, bytes| {
            charges.networks.of(client.prefix) + bytes <= part(self.share_of_prefix())
                && self.held() + bytes <= part(self.most())
        };
        let counted = if is_first { bytes.saturating_sub(DUE) } else { bytes };
        let has_room = match is_first {
            true => counted == 0 || has_room_in(|all| all, counted),
            false => {
                let pieces = charges.pieces.of(client.connection());
                pieces + bytes <= self.share() / 2 && has_room_in(full, bytes)
            }
        };
        if !has_room {
            return None;
        }
        holding.enter();
        self.holders.fetch_add(1, Ordering::SeqCst);
        self.held.fetch_add(counted, Ordering::Relaxed);
        let mut group = Group { charge: bytes, is_pieces: true, ..Group::of(counted) };
        group.charge_to(client, charges);
        group.holders.push(holding);
        alone.insert(key, group);
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
        let (bytes, clients) = {
            let mut guard = self.all.lock();
            let All { stored, alone, charges } = &mut *guard;
            let Some(group) = stored.remove(&body) else { return };
            let group = Group { entered: ticks(), ..group };
            let bytes = group.bytes;
            let clients = group.charge_all(charges);
            alone.insert(body, group);
            self.held.fetch_add(bytes, Ordering::Relaxed); // before anybody can take it off
            (bytes, clients)
        };
        clients.into_iter().for_each(|client| self.bound_client(client, bytes));
        self.bound_all(bytes);
    }

    fn leave(&self, key: usize, holder: usize) {
        let mut guard = self.all.lock();
        let All { stored, alone, charges } = &mut *guard;
        self.holders.fetch_sub(1, Ordering::SeqCst);
        let is_alone = alone.contains_key(&key);
        let groups = if is_alone { alone } else { stored };
        // One that was ended has no group any more, or one of others.
        let Some(group) = groups.get_mut(&key) else { return };
        let Some(place) = group.holders.iter().position(|holding| holding.address() == holder) else { return };
        let left = group.holders.swap_remove(place);
        let (bytes, is_empty) = (group.bytes, group.holders.is_empty());
        if is_alone {
            group.discharge(left.client, charges);
            self.held.fetch_sub(if is_empty { bytes } else { 0 }, Ordering::Relaxed);
        }
        if is_empty {
            groups.remove(&key);
        }
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

    fn of(connection: usize) -> Client {
        Client { connection, ..Client::NONE }
    }

    fn waiter(connection: usize, taken: u64) -> Arc<Waiter> {
        let waiter = Waiter::new(of(connection));
        waiter.took_at(taken);
        waiter
    }

    fn is_told(waiter: &Arc<Waiter>) -> bool {
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
        assert!(all.stored.is_empty() && all.alone.is_empty() && all.charges.is_empty());
    }

    #[test]
    fn who_took_nothing_for_the_longest_time_goes_first() {
        let waiting = account();
        let waiters: Vec<_> = (0..5).map(|_| Waiter::new(Client::NONE)).collect();
        let held: Vec<_> =
            (1..).zip(&waiters).map(|(at, one)| waiting.hold_body(at, 12 * MIB, one.holding())).collect();
        waiters.iter().zip([5, 3, 9, 7, 8]).for_each(|(one, taken)| one.took_at(taken));
        (1..=4).for_each(|body| waiting.left_body(body));
        assert_eq!(waiting.held(), 48 * MIB, "three quarters");
        waiting.left_body(5);
        assert_eq!((waiting.held(), waiting.ended()), (48 * MIB, 1));
        assert_eq!(waiters.iter().map(is_told).collect::<Vec<_>>(), [false, true, false, false, false]);
        drop(held);
        assert_eq!(waiting.held(), 0);
    }

    #[test]
    fn the_stalled_make_room_for_what_is_new() {
        let waiting = account();
        let (stalled, busy) = (waiter(0, 0), waiter(0, u64::MAX));
        let _held = [waiting.hold_body(1, 20 * MIB, stalled.holding()), waiting.hold_body(2, 20 * MIB, busy.holding())];
        stalled.took_at(0);
        busy.took_at(1 << 40);
        [1, 2].into_iter().for_each(|body| waiting.left_body(body));
        assert_eq!(waiting.held(), 40 * MIB, "more than a half, less than three quarters");
        waiting.end_some(MIB, Whose::Stalled(group::STALLED + 1));
        assert!(is_told(&stalled) && !is_told(&busy) && !waiting.is_crowded(None));
    }

    #[test]
    fn a_connection_keeps_to_its_share() {
        let waiting = account();
        let waiters: Vec<_> = (1..=100).map(|_| Waiter::new(of(77))).collect();
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
        assert!(waiting.held() == 0 && waiting.all.lock().charges.is_empty());
    }

    #[test]
    fn the_clients_of_one_network_keep_to_their_share() {
        let waiting = account();
        waiting.set_limits(&Limits::default()); // 25 percent for a network
        let prefix = |text: &str| Some(Prefix::of(text.parse().unwrap()));
        let client = |address: &str| Waiter::new(Client { connection: 0, prefix: prefix(address) });
        let near: Vec<_> = (1..=4).map(|number| client(&format!("192.0.2.{number}"))).collect();
        let far = client("198.51.100.1");
        let hold = |body, waiter: &Arc<Waiter>| waiting.hold_body(body, 6 * MIB, waiter.holding());
        let held = [hold(1, &near[0]), hold(1, &near[1]), hold(1, &far), hold(2, &near[2]), hold(3, &near[3])];
        [1, 2].into_iter().for_each(|body| waiting.left_body(body));
        assert_eq!(waiting.held(), 12 * MIB, "what several of them read counts once");
        let fill = waiting.enter_fill(near[0].client.prefix, 20 * MIB);
        assert!(!waiting.is_crowded(near[0].client.prefix), "others have enough: half of all is free");
        waiting.left_body(3);
        assert_eq!(waiting.ended(), 0, "18 of 16 MiB, but all of them take what they get");
        let [here, elsewhere] = [&near[0], &far].map(|waiter| waiter.client.prefix);
        let is_crowded = [here, elsewhere, None].map(|prefix| waiting.is_crowded(prefix));
        assert_eq!(is_crowded, [true, false, false], "no more is kept for them");
        drop(fill);
        assert!(!waiting.is_crowded(here));
        let later = |taken| group::STALLED + taken;
        near.iter().zip([5, 3, 9, 10]).for_each(|(one, taken)| one.took_at(taken));
        waiting.end_some(6 * MIB, Whose::Prefix(here.unwrap(), later(5)));
        assert_eq!(near.iter().map(is_told).collect::<Vec<_>>(), [false; 4], "of each body somebody takes");
        waiting.end_some(6 * MIB, Whose::Prefix(here.unwrap(), later(8)));
        assert_eq!(near.iter().map(is_told).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(!is_told(&far), "who reads the same from elsewhere goes on");
        assert_eq!(waiting.held(), 18 * MIB);
        drop(held);
        assert!(waiting.held() == 0 && waiting.all.lock().charges.is_empty());
    }
}
