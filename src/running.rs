//! The requests of a site that run at one time, and how many may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the running requests of a site that has a bound. One for all configurations.
#[derive(Debug, Default)]
pub struct Running(AtomicU32);

/// A request that runs, until this is dropped.
#[derive(Debug)]
pub struct RunningRequest(Arc<Running>);

impl Running {
    /// One more; `None`: there are `most` already.
    pub fn enter(self: &Arc<Self>, most: u32) -> Option<RunningRequest> {
        let one_more = |running: u32| (running < most).then_some(running + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(RunningRequest(self.clone()))
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
        let mut all: Vec<_> = (0..5).filter_map(|_| running.enter(3)).collect();
        assert_eq!((all.len(), running.count()), (3, 3));
        all.pop();
        assert_eq!(running.count(), 2);
        assert!(running.enter(2).is_none(), "a smaller bound is kept when those have ended that ran before");
        let fourth = running.enter(3);
        assert!(fourth.is_some() && running.enter(3).is_none());
        drop((all, fourth));
        assert_eq!(running.count(), 0);
    }
}
