//! One directory of the disk tier: what is known of its files, and its threads. Everything here that may wait for the disk
//! runs in the volume's own threads.

mod doomed;
mod write;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::cache::purge::Purges;
use crate::cache::trouble::Trouble;
use crate::clock::Timestamp;
use crate::config::model::{CacheDisk, DiskDirectory};

use super::catalogue::Catalogue;
use super::file::ReadError;
use super::format::Corrupt;
use super::health::{Health, Operation, State};
use super::id::{FileId, KeyHash};
use super::journal::{Doom, Journal};
use super::places::Places;
use super::pool::IoPool;
use super::saved_index;
use super::trust::{self, Before};
use super::write_buffer::WriteBuffer;

/// Locks for what is done to one file at a time.
const STRIPES: usize = 64;

/// What all volumes share.
#[derive(Clone)]
pub struct Shared {
    /// Of these the sequences in the files are. What is written says nothing of those that a restart may not know of: their
    /// numbers may be lost, and given again.
    pub purges: Arc<Purges>,
    pub journal: Arc<Journal>,
    pub places: Arc<Places>,
}

pub struct Volume {
    pub root: PathBuf,
    pub shared: Shared,
    pub files: Catalogue,
    pub pool: IoPool,
    pub health: Health,
    pub counters: Counters,
    /// What waits to be written.
    pub write_buffer: Arc<WriteBuffer>,
    pub read_timeout: Duration,
    max_size: AtomicU64,
    pub min_free: AtomicU64,
    /// The file system has less than `min_free` left, or has said that it is full.
    pub full: AtomicBool,
    /// Bytes of bodies that are being written as they come, and bytes that they have room for.
    spooled: AtomicU64,
    for_spools: AtomicU64,
    next_aside: AtomicU64,
    stripes: [Mutex<()>; STRIPES],
    /// It is known which directory it is, and that no other process uses it: until then it is of no use, and has no fault.
    opened: AtomicBool,
    /// Held as long as this process uses the directory.
    lock: Mutex<Option<Arc<File>>>,
    closed: AtomicBool,
    /// It was left in order: nothing may be put in place any more.
    ended: AtomicBool,
    /// What is noted in the journal above this is for whoever uses the directory next.
    noted_until: AtomicU64,
    /// A sweep is going through it: not another, should that one hang.
    pub sweeping: AtomicBool,
    pub in_dry_run: AtomicBool,
}

/// What has happened so far.
#[derive(Default)]
pub struct Counters {
    pub hits: AtomicU64,
    pub written: AtomicU64,
    pub written_bytes: AtomicU64,
    pub evicted: AtomicU64,
    pub troubles: [AtomicU64; Trouble::ALL.len()],
}

impl Volume {
    pub fn new(directory: &DiskDirectory, config: &CacheDisk, shared: Shared) -> Self {
        let volume = Volume {
            root: directory.path.clone(),
            files: Catalogue::new(Before::new(shared.purges.clone())),
            shared,
            pool: IoPool::start("disk", config.threads),
            health: Health::new(Timestamp::now()),
            counters: Counters::default(),
            write_buffer: WriteBuffer::new(config.write_buffer.0),
            read_timeout: config.read_timeout,
            max_size: AtomicU64::new(directory.max_size.0),
            min_free: AtomicU64::new(directory.min_free.0),
            full: AtomicBool::new(false),
            spooled: AtomicU64::new(0),
            for_spools: AtomicU64::new(0),
            next_aside: AtomicU64::new(0),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            opened: AtomicBool::new(false),
            lock: Mutex::default(),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            noted_until: AtomicU64::new(u64::MAX),
            sweeping: AtomicBool::new(false),
            in_dry_run: AtomicBool::new(false),
        };
        volume.heed_journal();
        volume
    }

    pub fn max_size(&self) -> u64 {
        self.max_size.load(Ordering::Relaxed)
    }

    /// Changes what may change while it runs.
    pub fn configure(&self, config: &DiskDirectory) {
        self.max_size.store(config.max_size.0, Ordering::Relaxed);
        self.min_free.store(config.min_free.0, Ordering::Relaxed);
        self.files.chores.notify_all();
    }

    /// Whether it is still to be taken into use, and nothing is the matter so far.
    pub fn is_opening(&self) -> bool {
        !self.opened.load(Ordering::Acquire) && self.health.state() == State::InService
    }

    /// Whether there may be a file of a key that may be read now.
    pub fn may_find(&self, key: KeyHash) -> bool {
        !self.is_opening() && self.files.may_have(key)
    }

    /// Does what may wait for the disk, for somebody who waits for it so long.
    pub async fn in_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        patience: Duration,
    ) -> Result<T, Trouble> {
        let (done, result) = oneshot::channel::<T>();
        let read = move || {
            // If nobody waits any more, a disk that is behind has one thing less to do.
            if !done.is_closed() {
                drop(done.send(work()));
            }
        };
        let before = self.pool.done();
        if !self.pool.read(read) {
            return Err(self.count(Trouble::Slow));
        }
        match tokio::time::timeout(patience, result).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(self.count(Trouble::IoError)), // it panicked
            Err(_) => {
                // Busy is one thing. Of a disk of which nothing at all came meanwhile, more is the matter.
                if self.pool.done() == before {
                    self.strike();
                }
                Err(self.count(Trouble::Slow))
            }
        }
    }

    /// Notes that it does not answer.
    pub fn strike(&self) {
        if self.health.fault(Operation::Read, &io::ErrorKind::TimedOut.into(), Timestamp::now()) {
            let state = self.health.state().as_str();
            tracing::error!(path = %self.root.display(), "the disk cache is {state}: it does not answer");
        }
    }

    /// Notes that a file could not be read, and removes it if it is damaged.
    pub fn unreadable(&self, id: FileId, error: &ReadError) -> Trouble {
        match error {
            ReadError::Corrupt(corrupt @ (Corrupt::Outdated | Corrupt::Ahead | Corrupt::OtherLog)) => {
                tracing::debug!(path = %id.path(&self.root).display(), %corrupt, "a stored file is not used any more");
                self.files.remove(id);
                self.count(Trouble::Outdated)
            }
            ReadError::Corrupt(corrupt) => {
                tracing::warn!(path = %id.path(&self.root).display(), %corrupt, "a stored file is unusable and is removed");
                self.files.remove(id);
                self.count(Trouble::Corrupt)
            }
            ReadError::Io(error) => self.fault(Operation::Read, error),
        }
    }

    /// Notes that a call failed.
    pub fn fault(&self, operation: Operation, error: &io::Error) -> Trouble {
        let trouble = Trouble::of(error);
        if trouble == Trouble::Full {
            self.full.store(true, Ordering::Relaxed);
            self.files.chores.notify_all();
        }
        if self.health.fault(operation, error, Timestamp::now()) {
            let state = self.health.state().as_str();
            tracing::error!(path = %self.root.display(), %error, "the disk cache is {state}");
        }
        self.count(trouble)
    }

    pub fn count(&self, trouble: Trouble) -> Trouble {
        if let Some(at) = Trouble::ALL.iter().position(|other| *other == trouble) {
            self.counters.troubles[at].fetch_add(1, Ordering::Relaxed);
        }
        trouble
    }

    /// Whether all that is in it is known and can be reached; and which time, if it was away in between.
    pub fn is_whole(&self) -> Option<u64> {
        let is_whole = self.files.scan.is_done() && self.health.state() == State::InService && !self.is_closed();
        is_whole.then(|| self.files.scan.times())
    }

    /// Whether it works, and it is still to be found out what is in it.
    pub fn is_scanning(&self) -> bool {
        !self.files.scan.is_done() && self.health.state() == State::InService
    }

    /// What keeps an object from being written now.
    pub fn obstacle(&self) -> Option<Trouble> {
        let obstacle = self.health.obstacle(Operation::Write);
        let obstacle = obstacle.or(self.is_closed().then_some(Trouble::OutOfService));
        obstacle.or(self.full.load(Ordering::Relaxed).then_some(Trouble::Full))
    }

    pub fn stripe(&self, id: FileId) -> MutexGuard<'_, ()> {
        self.stripes[id.key.directory() as usize % STRIPES].lock()
    }

    /// The directory is this process's from now on, and is used.
    pub fn take_into_use(&self, lock: Arc<File>) {
        *self.lock.lock() = Some(lock);
        let swept = trust::read_swept(&self.root, self.shared.purges.log_id()).unwrap_or_default();
        if !self.files.before.was_swept(swept) {
            self.doubt("it was swept for purges that the purge log does not have");
        }
        self.opened.store(true, Ordering::Release);
    }

    /// Nothing is believed any more of what was there before.
    pub fn doubt(&self, why: &str) {
        tracing::warn!(path = %self.root.display(), "what is in the disk cache from before is not used: {why}");
        self.files.before.doubt();
        self.shared.journal.note(&self.root, [Doom::All]);
    }

    pub fn release(&self) {
        *self.lock.lock() = None;
    }

    /// Ends its warden, and takes no more writes. What is open can be read to its end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.files.chores.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Leaves the directory to others.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.release();
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until the disk has all that was written and removed.
    pub fn sync(&self) -> io::Result<()> {
        let held = self.lock.lock().clone();
        let held = held.ok_or_else(|| io::Error::other("it is not open"))?;
        rustix::fs::syncfs(&held).map_err(Into::into)
    }

    /// Saves what is known of the directory for the next start, if that is all there is to be known.
    pub fn save(&self) -> io::Result<()> {
        let encoded = {
            let files = self.files.lock();
            let is_known = self.files.scan.is_done() && self.health.state() == State::InService && !files.is_writing();
            let purges = &self.shared.purges;
            let log = (purges.log_id(), purges.durable());
            is_known.then(|| saved_index::encode(log, &files.index, files.doomed.iter()))
        };
        // Whoever still asks for something does not wait for the disk meanwhile.
        encoded.map_or(Ok(()), |bytes| saved_index::save(&self.root, &bytes))
    }
}
