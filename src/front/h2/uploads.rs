//! The room for what clients send of requests' bodies before it is taken. 64 KiB are each connection's due.

use std::sync::Arc;

use crate::cache::waiting::Share;

use super::stream::Outbox;

/// What a client may send of all requests' bodies before their tasks have taken it.
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 20;

pub(crate) struct Uploads {
    outbox: Arc<Outbox>,
    /// Bytes that the streams' windows come to.
    windows: u64,
    shares: Vec<Share>,
}

/// Room is taken in steps of so many bytes.
const STEP: u64 = 64 << 10;

impl Uploads {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Uploads { outbox, windows: 0, shares: Vec::new() }
    }

    /// So many bytes more. Whether there is room.
    pub(crate) fn enter(&mut self, bytes: u32) -> bool {
        let windows = self.windows + u64::from(bytes);
        while self.shares.len() < Self::steps(windows) {
            match self.outbox.enter_upload(STEP) {
                Some(share) => self.shares.push(share),
                None => {
                    self.leave(0);
                    return false;
                }
            }
        }
        self.windows = windows;
        true
    }

    pub(crate) fn leave(&mut self, bytes: u32) {
        self.windows -= u64::from(bytes);
        self.shares.truncate(Self::steps(self.windows));
    }

    /// More than its own window lets it nobody can send.
    fn steps(windows: u64) -> usize {
        (windows.min(u64::from(CONNECTION_WINDOW)).div_ceil(STEP) as usize).saturating_sub(1)
    }
}
