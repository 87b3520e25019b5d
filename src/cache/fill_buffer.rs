//! What fills hold in memory that is not stored yet, all together: bounded, however many clients want however much.
//!
//! Past the bound a fill keeps nothing more in memory: its body goes to disk, or is only passed on, at the pace of its
//! slowest reader and a small window at a time. So what fills hold is never more than `fill_buffer` of `[cache.memory]`,
//! a piece for each fill, and that window for each.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far the slowest reader of a response that is not stored may be behind the origin; and how much is kept of what
/// is on disk already, for the readers that are not far behind.
pub const WINDOW: u64 = 1 << 20;
/// The same when the buffer is full.
const NARROW_WINDOW: u64 = 64 << 10;

/// An account of bytes.
#[derive(Debug)]
pub struct FillBuffer {
    held: AtomicU64,
    most: AtomicU64,
}

impl FillBuffer {
    pub fn new(most: u64) -> Self {
        FillBuffer { held: AtomicU64::new(0), most: AtomicU64::new(most) }
    }

    pub fn set_most(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Bytes that are held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that may be.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.held() > self.most()
    }

    pub fn window(&self) -> u64 {
        if self.is_full() { NARROW_WINDOW } else { WINDOW }
    }

    pub fn take(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}
