//! Threads that wait for a disk, so that no worker has to. Their number and their queues are bounded: a disk that hangs
//! holds up its own threads and nobody else.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Reads that may wait.
const MAX_READS: usize = 1024;
/// Writes that may wait, however small they are.
const MAX_WRITES: usize = 16_384;

/// Reads that go before a write that waits.
const READS_A_WRITE: usize = 8;
/// Files that are opened or removed in a second, at most: the disk has other things to do.
const MAX_OPENED: u32 = 10_000;

type Job = Box<dyn FnOnce() + Send>;

/// The threads, through their queues. They end when it is dropped, after what is in the queues.
pub struct IoPool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    more: Condvar,
    idle: Condvar,
    /// Jobs that have ended.
    done: AtomicU64,
}

#[derive(Default)]
struct Queues {
    /// Somebody waits for these: they go first.
    reads: VecDeque<Job>,
    writes: VecDeque<Job>,
    /// Reads that went first since the last write.
    reads_in_a_row: usize,
    running: usize,
    closed: bool,
}

impl Queues {
    fn next(&mut self) -> Option<Job> {
        let writes_wait = !self.writes.is_empty();
        if writes_wait && (self.reads.is_empty() || self.reads_in_a_row >= READS_A_WRITE) {
            self.reads_in_a_row = 0;
            return self.writes.pop_front();
        }
        self.reads_in_a_row = if writes_wait { self.reads_in_a_row + 1 } else { 0 };
        self.reads.pop_front()
    }
}

impl IoPool {
    pub fn start(name: &str, threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        for number in 0..threads {
            let for_thread = shared.clone();
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            if let Err(error) = thread.spawn(move || work(&for_thread)) {
                tracing::error!(%error, "a thread for the disk cache could not be started");
            }
        }
        IoPool { shared }
    }

    /// Has a read done. `false`: too many wait already.
    pub fn read(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.push(|queues| &mut queues.reads, MAX_READS, Box::new(job))
    }

    /// Has a write done, after all that were asked for before it have begun. `false`: too many wait already.
    pub fn write(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.push(|queues| &mut queues.writes, MAX_WRITES, Box::new(job))
    }

    /// Counts jobs that have ended: one that stands still is of a disk that hangs, or has nothing to do.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Waits until there is nothing to do, or the time is over.
    pub fn settle(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut queues = self.shared.queues.lock();
        while !(queues.reads.is_empty() && queues.writes.is_empty() && queues.running == 0) {
            if self.shared.idle.wait_until(&mut queues, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    fn push(&self, queue: impl FnOnce(&mut Queues) -> &mut VecDeque<Job>, most: usize, job: Job) -> bool {
        let mut queues = self.shared.queues.lock();
        let queue = queue(&mut queues);
        if queue.len() >= most {
            return false;
        }
        queue.push_back(job);
        drop(queues);
        self.shared.more.notify_one();
        true
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        self.shared.queues.lock().closed = true;
        self.shared.more.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut queues = shared.queues.lock();
    loop {
        let Some(job) = queues.next() else {
            if queues.closed {
                return;
            }
            shared.more.wait(&mut queues);
            continue;
        };
        queues.running += 1;
        drop(queues);
        // A fault in one job must not end the thread for all others; whoever waits for it sees its channel close.
        if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a job of the disk cache failed badly");
        }
        shared.done.fetch_add(1, Ordering::Relaxed);
        queues = shared.queues.lock();
        queues.running -= 1;
        if queues.running == 0 {
            shared.idle.notify_all();
        }
    }
}

/// Bounds the rate of long work.
pub(crate) struct Pace {
    since: Instant,
    opened: u32,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Pace { since: Instant::now(), opened: 0 }
    }

    pub(crate) fn keep(&mut self) {
        self.opened += 1;
        let due = Duration::from_secs(1) * self.opened / MAX_OPENED;
        let ahead = due.saturating_sub(self.since.elapsed());
        if ahead > Duration::from_millis(10) {
            pause(ahead);
        }
    }
}

/// Only in threads that belong to the disk tier.
#[allow(clippy::disallowed_methods, reason = "it is no worker that waits")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn reads_go_first_and_a_panic_harms_nobody() {
        let pool = IoPool::start("test", 1);
        let (open, gate) = mpsc::channel::<()>();
        let (done, order) = mpsc::channel();
        assert!(pool.write(move || gate.recv().unwrap()));
        for (name, read) in [("write", false), ("read", true)] {
            let done = done.clone();
            let job = move || done.send(name).unwrap();
            assert!(if read { pool.read(job) } else { pool.write(job) });
        }
        assert!(pool.read(|| panic!("for the test")));
        assert!(!pool.settle(Duration::ZERO));
        open.send(()).unwrap();
        assert!(pool.settle(PATIENCE));
        assert_eq!(order.try_iter().collect::<Vec<_>>(), ["read", "write"]);
    }

    #[test]
    fn queues_are_bounded() {
        let pool = IoPool::start("test", 1);
        let (open, gate) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        assert!(pool.read(move || {
            began.send(()).unwrap();
            gate.recv().unwrap();
        }));
        begun.recv_timeout(PATIENCE).unwrap();
        assert_eq!((0..MAX_READS + 5).filter(|_| pool.read(|| {})).count(), MAX_READS);
        open.send(()).unwrap();
        assert!(pool.settle(PATIENCE));
    }

    #[test]
    fn the_rate_is_bounded() {
        let started = Instant::now();
        let mut pace = Pace::new();
        (0..MAX_OPENED / 5).for_each(|_| pace.keep());
        assert!(started.elapsed() > Duration::from_millis(150), "{:?}", started.elapsed());
    }
}
