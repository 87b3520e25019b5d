//! Long work on one directory, in a thread of its own that is watched: a disk that hangs holds nobody else up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::health::Operation;
use super::volume::Volume;
use super::warden::pause;

/// Entries that are looked at under one lock.
pub const STEP: usize = 1024;
/// Files that are opened or removed in a second, at most: the disk has other things to do.
const MOST_OPENED: u32 = 10_000;

/// A kind of work.
pub struct Work {
    /// Of its threads.
    pub name: &'static str,
    /// For messages.
    pub what: &'static str,
    /// Seconds that one step may take, before the disk is taken for one that hangs.
    pub patience: u64,
    /// Whether a directory has a thread at it, which may hang.
    pub busy: fn(&Volume) -> &AtomicBool,
}

/// A thread at one directory.
pub struct Running<T> {
    result: Receiver<T>,
    progress: Arc<Progress>,
    what: &'static str,
}

/// How far it has come.
pub struct Progress {
    steps: AtomicU64,
    /// How long the next step may take, in seconds.
    patience: AtomicU64,
}

impl Progress {
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// What comes next may take so long.
    pub fn allow(&self, patience: Duration) {
        self.patience.store(patience.as_secs(), Ordering::Relaxed);
    }
}

/// Held while a thread is at a directory.
struct Busy(Arc<Volume>, &'static Work);

impl Drop for Busy {
    fn drop(&mut self) {
        (self.1.busy)(&self.0).store(false, Ordering::Release);
    }
}

impl<T: Send + 'static> Running<T> {
    /// `None`: it cannot be read, or an earlier thread is still at it.
    pub fn begin(
        volume: &Arc<Volume>,
        work: &'static Work,
        run: impl FnOnce(&Volume, &Progress) -> T + Send + 'static,
    ) -> Option<Self> {
        if volume.health.obstacle(Operation::Read).is_some() || (work.busy)(volume).swap(true, Ordering::AcqRel) {
            return None;
        }
        let one_at_a_time = Busy(volume.clone(), work);
        let progress = Arc::new(Progress { steps: AtomicU64::new(0), patience: AtomicU64::new(work.patience) });
        let (done, result) = mpsc::channel();
        let for_thread = progress.clone();
        let running = move || {
            let found = run(&one_at_a_time.0, &for_thread);
            drop(one_at_a_time);
            drop(done.send(found)); // nobody may wait for it any more
        };
        match std::thread::Builder::new().name(work.name.into()).spawn(running) {
            Ok(_) => Some(Running { result, progress, what: work.what }),
            Err(error) => {
                tracing::warn!(%error, path = %volume.root.display(), "there is no thread for {}", work.what);
                None
            }
        }
    }

    /// Waits for its end. `None`: the disk hangs, or the work failed badly.
    pub fn end(self, volume: &Volume) -> Option<T> {
        let mut before = 0;
        loop {
            let patience = Duration::from_secs(self.progress.patience.load(Ordering::Relaxed));
            match self.result.recv_timeout(patience) {
                Ok(found) => return Some(found),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let steps = self.progress.steps.load(Ordering::Relaxed);
            if steps == before {
                tracing::warn!(path = %volume.root.display(), "{} does not go on: the disk hangs", self.what);
                volume.strike(&std::io::ErrorKind::TimedOut.into());
                return None;
            }
            before = steps;
        }
    }
}

/// Bounds the rate.
pub struct Pace {
    since: Instant,
    opened: u32,
}

impl Pace {
    pub fn new() -> Self {
        Pace { since: Instant::now(), opened: 0 }
    }

    pub fn keep(&mut self) {
        self.opened += 1;
        let due = Duration::from_secs(1) * self.opened / MOST_OPENED;
        let ahead = due.saturating_sub(self.since.elapsed());
        if ahead > Duration::from_millis(10) {
            pause(ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_bounded() {
        let started = Instant::now();
        let mut pace = Pace::new();
        (0..MOST_OPENED / 5).for_each(|_| pace.keep());
        assert!(started.elapsed() > Duration::from_millis(150), "{:?}", started.elapsed());
    }
}
