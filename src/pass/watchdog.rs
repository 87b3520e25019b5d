//! Requests with a body that stop getting anywhere. pingora has no deadline for a body that does not come by HTTP/2, and
//! one for the whole of an upload to an origin by HTTP/2; here the one deadline is for each step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How far a passed request has come: its body, and then the response.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// Milliseconds after `started`.
    last: AtomicU64,
    body_is_there: AtomicBool,
}

impl Progress {
    pub fn new(started: Instant) -> Arc<Self> {
        Arc::new(Progress { started, last: AtomicU64::new(0), body_is_there: AtomicBool::new(false) })
    }

    /// Something came or went.
    pub fn step(&self) {
        self.last.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The whole body has come from the client.
    pub fn body_is_there(&self) {
        self.step();
        self.body_is_there.store(true, Ordering::Relaxed);
    }

    /// Ends when nothing has happened for too long: `for_body` while the client has yet to send, `for_response` then.
    pub async fn stalled(&self, for_body: Duration, for_response: Duration) {
        loop {
            let patience = if self.body_is_there.load(Ordering::Relaxed) { for_response } else { for_body };
            let idle = self.started.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)));
            if idle >= patience {
                return;
            }
            tokio::time::sleep(patience - idle).await;
        }
    }
}
