//! The requests of a site that are with its origins at one time, and how many may be.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Rarely;
use crate::tunnels::Tunnels;

/// Counts the requests of a site from when they need an origin until its answer has been read. One for all configurations.
#[derive(Debug)]
pub struct Running {
    count: AtomicU32,
    /// How many may be; [`u32::MAX`]: any number.
    most: AtomicU32,
    /// Somebody has made room.
    left: Notify,
    /// That there are too many.
    pub told: Rarely,
    /// Of these requests, those that have become tunnels, or are to.
    pub tunnels: Arc<Tunnels>,
}

/// A request that is with an origin, until this is dropped.
#[derive(Debug)]
pub struct RunningRequest(Arc<Running>);

/// A site has as many requests with its origins as it may.
#[derive(Debug)]
pub struct TooManyRequests;

impl Running {
    /// `most`: how many may be; `None`: any number.
    pub fn new(most: Option<u32>) -> Self {
        let most = AtomicU32::new(most.unwrap_or(u32::MAX));
        Running { count: AtomicU32::new(0), most, left: Notify::new(), told: Rarely::new(), tunnels: Arc::default() }
    }

    /// Takes over another bound. Those that run stay, and who waits may enter now.
    pub fn set_most(&self, most: Option<u32>) {
        self.most.store(most.unwrap_or(u32::MAX), Ordering::Relaxed);
        self.left.notify_waiters();
    }

    /// One more, unless there are too many.
    pub fn enter(self: &Arc<Self>) -> Result<RunningRequest, TooManyRequests> {
        let most = self.most.load(Ordering::Relaxed);
        let one_more = |running: u32| (running < most).then_some(running + 1);
        let entered = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.map(|_| RunningRequest(self.clone())).map_err(|_| TooManyRequests)
    }

    /// The same when there is room, or not at all.
    pub async fn enter_in_turn(self: &Arc<Self>, patience: Duration) -> Result<RunningRequest, TooManyRequests> {
        let deadline = Instant::now() + patience;
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable(); // who leaves after this look is not missed
            if let Ok(entered) = self.enter() {
                return Ok(entered);
            }
            if tokio::time::timeout_at(deadline, left).await.is_err() {
                return Err(TooManyRequests);
            }
        }
    }

    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_run_than_may() {
        let running = Arc::new(Running::new(Some(3)));
        let mut all: Vec<_> = (0..5).filter_map(|_| running.enter().ok()).collect();
        assert_eq!((all.len(), running.count()), (3, 3));
        all.pop();
        running.set_most(Some(2));
        assert!(running.enter().is_err(), "a smaller bound is kept when those have ended that ran before");
        running.set_most(Some(3));
        let fourth = running.enter();
        assert!(fourth.is_ok() && running.enter().is_err());
        running.set_most(None);
        assert!(running.enter().is_ok());
        drop((all, fourth));
        assert_eq!(running.count(), 0);
        assert!(running.told.is_time() && !running.told.is_time());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_enters_when_there_is_room() {
        let running = Arc::new(Running::new(Some(2)));
        let patience = Duration::from_secs(5);
        let enter_two = || (0..2).map(|_| running.enter().unwrap()).collect::<Vec<_>>();
        let mut all = enter_two();
        assert!(running.enter_in_turn(patience).await.is_err());
        let waits = || {
            let running = running.clone();
            tokio::spawn(async move { running.enter_in_turn(patience).await.is_ok() })
        };
        let waiting = [waits(), waits(), waits()];
        tokio::task::yield_now().await;
        all.clear();
        for waiting in waiting {
            assert!(waiting.await.unwrap(), "each that has entered leaves at once, and lets the next one in");
        }
        assert_eq!(running.count(), 0);
        // A larger bound lets in who waits, however long the others stay.
        let all = enter_two();
        let waiting = [waits(), waits()];
        tokio::task::yield_now().await;
        running.set_most(Some(4));
        for waiting in waiting {
            assert!(waiting.await.unwrap());
        }
        drop(all);
    }
}
