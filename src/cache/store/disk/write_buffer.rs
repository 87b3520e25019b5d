//! What waits in memory to be written to a disk: bounded, so that a slow disk takes no memory beyond it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The bytes that wait for one disk.
#[derive(Debug)]
pub struct WriteBuffer {
    bytes: AtomicU64,
    most: u64,
    /// Half of it is free again.
    room: Notify,
}

/// Bytes of it that are kept until this is dropped.
#[derive(Debug)]
pub struct WriteRoom {
    buffer: Arc<WriteBuffer>,
    pub bytes: u64,
}

impl WriteBuffer {
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(WriteBuffer { bytes: AtomicU64::new(0), most, room: Notify::new() })
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Enters so many, whether there is room or not.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are written, or given up.
    pub fn give_back(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before.saturating_sub(bytes) < self.most / 2 {
            self.room.notify_waiters();
        }
    }

    /// Keeps room for so many, if there is.
    pub fn keep(self: &Arc<Self>, bytes: u64) -> Option<WriteRoom> {
        let add = |waiting: u64| Some(waiting + bytes).filter(|after| *after <= self.most);
        let added = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.ok().map(|_| WriteRoom { buffer: self.clone(), bytes })
    }

    /// Whether there is room for so many.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        self.bytes() + bytes <= self.most
    }

    /// Waits until half of it is free.
    pub async fn room(&self) {
        loop {
            let room = self.room.notified();
            if self.bytes() < self.most / 2 {
                return;
            }
            room.await;
        }
    }
}

impl Drop for WriteRoom {
    fn drop(&mut self) {
        self.buffer.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_room_again_once_half_is_written() {
        let buffer = WriteBuffer::new(100);
        let kept = buffer.keep(40);
        buffer.add(60);
        assert!(kept.is_some() && buffer.keep(1).is_none());
        let mut room = std::pin::pin!(buffer.room());
        let mut is_there = || {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            room.as_mut().poll(&mut context).is_ready()
        };
        assert!(!is_there());
        drop(kept);
        assert!(buffer.bytes() == 60 && !is_there());
        buffer.give_back(20);
        assert!(is_there());
        buffer.add(1000);
        assert_eq!(buffer.bytes(), 1040, "what cannot wait enters all the same");
    }
}
