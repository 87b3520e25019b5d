//! How many copies of a pool's requests are under way to another pool, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Copies {
    active: AtomicU32,
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    /// Their bodies were too long, or too many were under way.
    pub left_out: AtomicU64,
}

/// One that is under way, until this is dropped.
pub(super) struct CopyPlace(Arc<Copies>);

impl CopyPlace {
    /// One more, unless there are `most`.
    pub(super) fn take(copies: &Arc<Copies>, most: u32) -> Option<Self> {
        let one_more = |active: u32| (active < most).then_some(active + 1);
        let taken = copies.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| CopyPlace(copies.clone()))
    }

    pub(super) fn counts(&self) -> &Copies {
        &self.0
    }
}

impl Drop for CopyPlace {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
