//! Interim responses (1xx) on their way to the client.

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

/// Interim responses for who wants to pass them on, and looks for them whenever the exchange has been polled.
#[derive(Debug, Default)]
pub struct Interims(Mutex<Vec<(StatusCode, HeaderMap)>>);

/// Interim responses that may wait to be passed on. Who does not keep up does without: they are hints, but for the one that
/// a client waits for.
const MAX_WAITING: usize = 4;

impl Interims {
    /// The next one.
    pub fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        let mut waiting = self.0.lock();
        if waiting.is_empty() { None } else { Some(waiting.remove(0)) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub fn push(&self, status: StatusCode, fields: HeaderMap) {
        let mut waiting = self.0.lock();
        if waiting.len() < MAX_WAITING || status == StatusCode::CONTINUE {
            waiting.push((status, fields));
        }
    }
}
