//! Interim responses (1xx) on their way to clients.

use std::collections::VecDeque;

use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Interim responses of one exchange, for who wants to pass them on.
#[derive(Debug, Default)]
pub struct Interims {
    waiting: Mutex<VecDeque<(StatusCode, HeaderMap)>>,
    more: Notify,
}

/// Interim responses that may wait to be passed on. Who does not keep up does without: they are hints, but for the one that
/// a client waits for.
const MAX_WAITING: usize = 8;

impl Interims {
    pub fn push(&self, status: StatusCode, fields: HeaderMap) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING || status == StatusCode::CONTINUE {
            waiting.push_back((status, fields));
            drop(waiting);
            self.more.notify_waiters();
        }
    }

    /// The next one, for the only one who passes them on: it looks whenever it has polled the exchange.
    pub fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        self.waiting.lock().pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Tells another those from a place on, where many pass them on; gives the place after them. `with_cookies`: they are for
    /// that one alone.
    pub fn tell(&self, other: &Interims, from: usize, with_cookies: bool) -> usize {
        let waiting = self.waiting.lock();
        for (status, fields) in waiting.iter().skip(from) {
            let mut fields = fields.clone();
            if !with_cookies {
                fields.remove(header::SET_COOKIE);
            }
            other.push(*status, fields);
        }
        waiting.len()
    }

    /// Ends when there is one more from now on.
    pub fn more(&self) -> Notified<'_> {
        self.more.notified()
    }
}
