//! Making room: when somebody has to end, and who.

use std::sync::atomic::Ordering;

use crate::clock::ticks;
use crate::prefix::Prefix;

use super::group::Whose;
use super::quota::full;
use super::{All, Client, Holding, Waiting};

/// Milliseconds between two looks for the stalled.
const LOOK_EVERY: u64 = 100;
/// What one connection may hold, and half as much in pieces: so large a part of the bound,
const SHARE: u64 = 8;
/// but a large body, if that is no more than a quarter.
const LEAST_SHARE: u64 = 8 << 20;

impl Waiting {
    /// Whether so much is held that nothing large that is new is to be kept in memory: by all, or by those of the network
    /// for which it would be. The stalled make room first. Not to be asked with a lock of a holder's held.
    pub fn is_crowded(&self, prefix: Option<Prefix>) -> bool {
        let (half, share) = (self.most() / 2, self.share_of_prefix());
        if self.held() > half {
            self.end_stalled(self.held().saturating_sub(half), Whose::Stalled);
        }
        if self.held() <= half && prefix.is_none() {
            return false;
        }
        let charges = &self.all.lock().charges;
        // What a network has above its share is its own concern, as far as the bound for all allows.
        let has_its_share = charges.networks.of(prefix) + self.fetched.of(prefix) >= share;
        has_its_share && self.held() + self.fetched.taken() > half
            || self.held().saturating_sub(charges.networks.above(share)) > half
    }

    /// Has the stalled make room for so many bytes, if there are any.
    pub fn make_room(&self, bytes: u64) {
        if self.held() > 0 {
            self.end_stalled(bytes, Whose::Stalled);
        }
    }

    /// Ends stalled ones until so many bytes are free; looks for them now and then, however often it is asked.
    pub(super) fn end_stalled(&self, bytes: u64, whose: impl FnOnce(u64) -> Whose) {
        let (now, looked) = (ticks(), self.looked.load(Ordering::Relaxed));
        let mine = || self.looked.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if now >= looked + LOOK_EVERY && mine() {
            self.end_some(bytes, whose(now));
        }
    }

    /// What one connection may hold.
    pub(super) fn share(&self) -> u64 {
        (self.most() / SHARE).max(LEAST_SHARE.min(self.most() / 4))
    }

    /// What the clients of one network may.
    pub(super) fn share_of_prefix(&self) -> u64 {
        self.part_of_prefix(self.most()).max(self.share())
    }

    /// A client has `bytes` more, of a body: its connection and its network are to keep to their shares, as far as they have
    /// stalled ones. A single thing may be larger than a share.
    pub(super) fn bound_client(&self, client: Client, bytes: u64) {
        let (of_connection, of_prefix) = {
            let charges = &self.all.lock().charges;
            (charges.connections.of(client.connection()), charges.networks.of(client.prefix))
        };
        if of_connection > self.share().max(bytes) {
            self.end_some(bytes, Whose::Connection(client.connection, ticks()));
        }
        if let Some(prefix) = client.prefix
            && of_prefix > self.share_of_prefix().max(bytes)
        {
            self.end_some(bytes, Whose::Prefix(prefix, ticks()));
        }
    }

    /// There are `bytes` more: all together keep to the bound.
    pub(super) fn bound_all(&self, bytes: u64) {
        let held = self.held();
        if held > full(self.most()) || held + self.fills.load(Ordering::Relaxed) > self.most() {
            self.end_some(bytes, Whose::Anybody);
        }
    }

    /// Ends those of which nothing was taken for the longest time, until so many bytes are free for whom it is done.
    pub(super) fn end_some(&self, bytes: u64, whose: Whose) {
        let (mut left, mut ended) = (bytes, Vec::new());
        {
            let mut guard = self.all.lock();
            let All { alone, charges, .. } = &mut *guard;
            while left > 0 {
                let groups = alone.iter().filter(|(_, group)| whose.frees(group) > 0);
                let Some((_, key)) = groups.map(|(key, group)| (group.taken(whose), *key)).min() else { break };
                let Some(group) = alone.get_mut(&key) else { break };
                left = left.saturating_sub(whose.frees(group));
                while let Some(place) = group.holders.iter().position(|holding| whose.has(holding.client)) {
                    let holding = group.holders.swap_remove(place);
                    group.discharge(holding.client, charges);
                    ended.push(holding);
                }
                if group.holders.is_empty() {
                    self.held.fetch_sub(group.bytes, Ordering::Relaxed);
                    alone.remove(&key);
                }
            }
        }
        // Without the lock: whoever lets go may leave at once.
        for holder in ended.iter().filter_map(Holding::holder) {
            self.ended.fetch_add(1, Ordering::Relaxed);
            holder.let_go();
        }
    }
}
