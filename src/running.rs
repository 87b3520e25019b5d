//! The requests of a site that are with its origins at one time, and how many may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the requests of a site that has a bound, from when they need an origin until its answer has been read. One for all
/// configurations.
#[derive(Debug, Default)]
pub struct Running(AtomicU32);

/// A request that is with an origin, until this is dropped.
#[derive(Debug)]
pub struct RunningRequest(Arc<Running>);

/// A site has as many requests with its origins as it may.
#[derive(Debug)]
pub struct TooManyRequests;

impl Running {
    /// One more, unless there are `most` already.
    pub fn enter(self: &Arc<Self>, most: u32) -> Result<RunningRequest, TooManyRequests> {
        let one_more = |running: u32| (running < most).then_some(running + 1);
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.map(|_| RunningRequest(self.clone())).map_err(|_| TooManyRequests)
    }

    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_run_than_may() {
        let running = Arc::new(Running::default());
        let mut all: Vec<_> = (0..5).filter_map(|_| running.enter(3).ok()).collect();
        assert_eq!((all.len(), running.count()), (3, 3));
        all.pop();
        assert_eq!(running.count(), 2);
        assert!(running.enter(2).is_err(), "a smaller bound is kept when those have ended that ran before");
        let fourth = running.enter(3);
        assert!(fourth.is_ok() && running.enter(3).is_err());
        drop((all, fourth));
        assert_eq!(running.count(), 0);
    }
}
