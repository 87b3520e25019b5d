//! Who holds something for a client, and how long ago that client took some of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use crate::clock::ticks;

use super::charges::Client;

/// Bytes that a client has to take to have taken something.
const LEAST_STEP: u64 = 4 << 10;

/// Somebody that holds something for a client.
pub trait Holder: Send + Sync {
    /// Is to let go of it, and to end.
    fn let_go(&self);
}

/// A holder as the account has it.
pub struct Holding {
    pub(super) client: Client,
    /// When the client took something last: [`ticks`].
    taken: Arc<AtomicU64>,
    holder: Weak<dyn Holder>,
}

/// One client that has to be waited for.
#[derive(Debug)]
pub struct Waiter {
    pub(super) client: Client,
    taken: Arc<AtomicU64>,
    /// Bytes that were taken since.
    little: AtomicU64,
    told: Notify,
}

impl Waiter {
    pub fn new(client: Client) -> Arc<Self> {
        let taken = Arc::new(AtomicU64::new(ticks()));
        Arc::new(Waiter { client, taken, little: AtomicU64::new(0), told: Notify::new() })
    }

    /// Whether its client has others like it.
    pub fn is_one_of_many(&self) -> bool {
        self.client.connection().is_some()
    }

    /// The client has taken so many bytes. Few of them are no step: who takes a byte now and then must not outlast who takes
    /// steadily.
    pub fn step(&self, bytes: u64) {
        if self.little.fetch_add(bytes, Ordering::Relaxed) + bytes >= LEAST_STEP {
            self.little.store(0, Ordering::Relaxed);
            self.taken.store(ticks(), Ordering::Relaxed);
        }
    }

    /// Ends when the reader is to end.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    pub fn holding(self: &Arc<Self>) -> Holding {
        Holding::new(self.client, &self.taken, self)
    }

    /// The clock of a test has only begun: when something was taken is said by hand.
    #[cfg(test)]
    pub(super) fn took_at(&self, ticks: u64) {
        self.taken.store(ticks, Ordering::Relaxed);
    }
}

impl Holder for Waiter {
    fn let_go(&self) {
        self.told.notify_one();
    }
}

impl Holding {
    pub fn new<H: Holder + 'static>(client: Client, taken: &Arc<AtomicU64>, holder: &Arc<H>) -> Self {
        let holder: Weak<H> = Arc::downgrade(holder);
        Holding { client, taken: taken.clone(), holder }
    }

    /// Whether its holder is there still.
    pub fn is_live(&self) -> bool {
        self.holder.strong_count() > 0
    }

    /// What tells its holder from others that are there.
    pub fn address(&self) -> usize {
        self.holder.as_ptr().cast::<()>().addr()
    }

    /// What is taken of what went before counts for nothing, and what has just come cannot have been taken yet.
    pub(super) fn enter(&self) {
        self.taken.store(ticks(), Ordering::Relaxed);
    }

    /// When its client took something last.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn holder(&self) -> Option<Arc<dyn Holder>> {
        self.holder.upgrade()
    }
}
