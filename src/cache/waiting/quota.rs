//! So many bytes and no more: who finds none left goes without. Past a half of them each network has its share.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::prefix::Prefix;

use super::charges::Tally;

/// Above this part of a bound somebody has to make room.
pub(crate) fn full(most: u64) -> u64 {
    most / 4 * 3
}

#[derive(Debug)]
pub(crate) struct Quota {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    taken: u64,
    most: u64,
    /// Of that, what the clients of one network may have once others need some.
    share: u64,
    of: Tally<Prefix>,
}

/// Bytes that are given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    prefix: Option<Prefix>,
    bytes: u64,
}

impl Quota {
    pub(crate) fn new(most: u64, share: u64) -> Arc<Self> {
        Arc::new(Quota { state: Mutex::new(State { taken: 0, most, share, of: Tally::default() }) })
    }

    pub(crate) fn set(&self, most: u64, share: u64) {
        let mut state = self.state.lock();
        (state.most, state.share) = (most, share);
    }

    /// What the clients of one network have.
    pub(crate) fn of(&self, prefix: Option<Prefix>) -> u64 {
        self.state.lock().of.of(prefix)
    }

    pub(crate) fn taken(&self) -> u64 {
        self.state.lock().taken
    }

    /// The same of the first half, for what can be done without.
    pub(crate) fn take_of_half(self: &Arc<Self>, prefix: Option<Prefix>, bytes: u64) -> Option<Share> {
        let has_room = {
            let state = self.state.lock();
            state.taken.saturating_add(bytes) <= state.most / 2
        };
        if has_room { self.take(prefix, bytes) } else { None }
    }

    pub(crate) fn take(self: &Arc<Self>, prefix: Option<Prefix>, bytes: u64) -> Option<Share> {
        let mut state = self.state.lock();
        let taken = state.taken.saturating_add(bytes);
        let is_fair =
            taken <= state.most / 2 || prefix.is_none() || state.of.of(prefix).saturating_add(bytes) <= state.share;
        if taken > state.most || !is_fair {
            return None;
        }
        state.taken = taken;
        state.of.add(prefix, bytes);
        Some(Share { quota: self.clone(), prefix, bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.quota.state.lock();
        state.taken -= self.bytes;
        state.of.subtract(self.prefix, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_never_more_than_there_may_be() {
        let quota = Quota::new(10, 10);
        let (first, second) = (quota.take(None, 6), quota.take(None, 4));
        assert!(first.is_some() && second.is_some());
        assert!(quota.take(None, 1).is_none() && quota.take(None, u64::MAX).is_none());
        drop(first);
        assert_eq!(quota.taken(), 4);
        quota.set(4, 4);
        assert!(quota.take(None, 1).is_none());
        drop(second);
        assert!(quota.take(None, 4).is_some());
    }

    #[test]
    fn one_network_leaves_some_for_others() {
        let [one, other] = ["192.0.2.1", "2001:db8::1"].map(|address| Some(Prefix::of(address.parse().unwrap())));
        let quota = Quota::new(100, 25);
        let taken: Vec<Share> = std::iter::from_fn(|| quota.take(one, 10)).collect();
        assert_eq!(taken.len(), 5, "a half, as long as nobody else needs it");
        let more: Vec<Share> = std::iter::from_fn(|| quota.take(other, 10)).collect();
        assert_eq!(more.len(), 2, "its share");
        assert!(quota.take(None, 30).is_some(), "those who are no crowd have none");
        drop((taken, more));
        assert!(quota.taken() == 0 && quota.state.lock().of.is_empty());
    }
}
