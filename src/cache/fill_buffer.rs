//! What fills hold in memory that is not stored yet, all together, and what is only passed on: bounded, however many clients
//! want however much.
//!
//! A fill whose length is known takes its room before anything comes, or knows then that it will not be stored. Past three
//! quarters of the bound, which are all that readers may hold, nothing large that is new is kept in memory: its body goes to
//! disk, or is only passed on, at the pace of its slowest reader and a small window at a time. What is passed on is counted
//! apart, so that slow readers of it do not keep others from being stored. What readers hold of what was stored,
//! [`super::waiting`] counts, under the same bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::prefix::Prefix;

use super::waiting::{self, Waiting};

/// How far the slowest reader of a response that is not stored may be behind the origin; and how much is kept of what
/// is on disk already, for the readers that are not far behind.
pub(crate) const WINDOW: u64 = 1 << 20;
/// A body that is no larger is kept for as long as there is any room: it is no more than every connection's due.
pub(crate) const SMALL: u64 = 64 << 10;

/// What bytes are held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// To be stored.
    Fills,
    /// Only passed on, at their readers' pace.
    Passing,
}

/// The accounts of bytes.
#[derive(Debug)]
pub struct FillBuffer {
    passing: AtomicU64,
    /// What readers hold, and what fills do: they have one bound.
    pub waiting: Arc<Waiting>,
}

impl FillBuffer {
    pub fn new(most: u64, waiting: Arc<Waiting>) -> Self {
        waiting.set_most(most);
        FillBuffer { passing: AtomicU64::new(0), waiting }
    }

    /// Bytes that are held now, for whatever.
    pub fn held(&self) -> u64 {
        self.fills() + self.passing.load(Ordering::Relaxed) + self.waiting.held()
    }

    fn fills(&self) -> u64 {
        self.waiting.fills.load(Ordering::Relaxed)
    }

    /// Bytes that may be.
    pub fn most(&self) -> u64 {
        self.waiting.most()
    }

    /// What is not for fills. Slow readers of what is only passed on must not keep others from being stored.
    fn others(&self) -> u64 {
        self.passing.load(Ordering::Relaxed).min(self.most() / 4) + self.waiting.held()
    }

    /// Whether nothing large that is new may be kept in memory for a client of this network. Not to be asked with a flight
    /// locked.
    pub fn is_full(&self, prefix: Option<Prefix>) -> bool {
        self.waiting.is_crowded(prefix) || self.fills() + self.others() > waiting::full(self.most())
    }

    /// Takes room ahead, for what is to be stored because a client of this network asked. `false`: there is none.
    pub fn reserve(&self, bytes: u64, prefix: Option<Prefix>) -> bool {
        let most = self.most();
        // As long as half is free nobody is asked whether there is room for what is small.
        if bytes <= SMALL && self.take_room(bytes, most / 2) {
            return true;
        }
        if self.waiting.is_crowded(prefix) {
            return false;
        }
        // What is stored may push out what others are being sent, and must not push them out, too. What is small, and a
        // network that has next to nothing, are not kept from being stored by the others.
        let has_little = prefix.is_some() && self.waiting.fetched.of(prefix) + bytes <= most / 8;
        let bound = match bytes <= SMALL || has_little {
            true => most / 8 * 7,
            false => waiting::full(most),
        };
        self.take_room(bytes, bound) || {
            self.waiting.make_room(bytes);
            self.take_room(bytes, bound)
        }
    }

    /// One body alone may have all.
    fn take_room(&self, bytes: u64, bound: u64) -> bool {
        let (most, others) = (self.most(), self.others());
        let bound = |before: u64| if before == 0 { most } else { bound };
        let add = |fills: u64| Some(fills + bytes).filter(|after| after + others <= bound(fills + others));
        self.waiting.fills.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    /// Whether there is so little room that there is no [`WINDOW`]: a piece at a time.
    pub fn is_tight(&self) -> bool {
        let (fills, passing) = (self.fills(), self.passing.load(Ordering::Relaxed));
        passing > self.most() / 4 || self.waiting.held() > self.most() / 2 || fills + self.others() > self.most()
    }

    pub fn take(&self, bytes: u64, account: Account) {
        self.of(account).fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn give_back(&self, bytes: u64, account: Account) {
        self.of(account).fetch_sub(bytes, Ordering::Relaxed);
    }

    fn of(&self, account: Account) -> &AtomicU64 {
        match account {
            Account::Fills => &self.waiting.fills,
            Account::Passing => &self.passing,
        }
    }
}
