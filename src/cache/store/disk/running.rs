//! Long work on all directories, each in a thread of its own that is watched: a disk that hangs holds nobody else up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::health::Operation;
use super::volume::Volume;

/// A kind of work.
pub(crate) struct Work {
    /// Of its threads.
    pub name: &'static str,
    /// For messages.
    pub what: &'static str,
    /// Seconds that one step may take, before the disk is taken for one that hangs.
    pub patience: u64,
    /// Whether a directory has a thread at it, which may hang.
    pub busy: fn(&Volume) -> &AtomicBool,
}

/// How far a thread at one directory has come.
pub(crate) struct Progress {
    steps: AtomicU64,
    /// How long the next step may take, in seconds.
    patience: AtomicU64,
}

impl Progress {
    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// What comes next may take so long.
    pub(crate) fn allow(&self, patience: Duration) {
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

/// Does the work on all of them at one time, and gives what came of it one by one. `None`: the directory cannot be read or
/// hangs, an earlier thread is still at it, or the work failed badly.
pub(crate) fn on_each<'a, T: Send + 'static>(
    volumes: &'a [Arc<Volume>],
    work: &'static Work,
    run: impl Fn(&Volume, &Progress) -> T + Clone + Send + 'static,
) -> impl Iterator<Item = (&'a Arc<Volume>, Option<T>)> {
    let running: Vec<_> = volumes.iter().map(|volume| begin(volume, work, run.clone())).collect();
    volumes
        .iter()
        .zip(running)
        .map(|(volume, running)| (volume, running.and_then(|running| end(running, volume, work))))
}

fn begin<T: Send + 'static>(
    volume: &Arc<Volume>,
    work: &'static Work,
    run: impl FnOnce(&Volume, &Progress) -> T + Send + 'static,
) -> Option<(Receiver<T>, Arc<Progress>)> {
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
        Ok(_) => Some((result, progress)),
        Err(error) => {
            tracing::warn!(%error, path = %volume.root.display(), "there is no thread for {}", work.what);
            None
        }
    }
}

fn end<T>((result, progress): (Receiver<T>, Arc<Progress>), volume: &Volume, work: &Work) -> Option<T> {
    let mut before = 0;
    loop {
        let patience = Duration::from_secs(progress.patience.load(Ordering::Relaxed));
        match result.recv_timeout(patience) {
            Ok(found) => return Some(found),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let steps = progress.steps.load(Ordering::Relaxed);
        if steps == before {
            tracing::warn!(path = %volume.root.display(), "{} does not go on: the disk hangs", work.what);
            volume.strike();
            return None;
        }
        before = steps;
    }
}
