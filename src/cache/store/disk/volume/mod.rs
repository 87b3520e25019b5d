//! One directory of the disk tier: its files, its index, its threads. Everything here that may wait for the disk runs
//! in the volume's own threads.

mod find;
mod gone;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::cache::purge::PurgeSeq;
use crate::cache::trouble::Trouble;
use crate::clock::Timestamp;
use crate::config::model::DiskDirectory;

use super::file::ReadError;
use super::format::Corrupt;
use super::health::{Health, Operation, State};
use super::id::{FileId, KeyHash};
use super::index::Index;
use super::journal::Journal;
use super::places::Places;
use super::pool::IoPool;
use super::scan::Scan;
use super::snapshot::{self, Known};
use super::stamp::{self, Trust};
use super::write_buffer::WriteBuffer;

pub use find::{Found, FoundHead};

/// Entries of a snapshot that are taken over under one lock.
const RESTORED_AT_ONCE: usize = 1024;
/// Locks for what is done to one file at a time.
const STRIPES: usize = 64;

/// What is the same for all volumes.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Of which purge log the sequences in the files are.
    pub log: u32,
    /// Up to which purges are forgotten.
    pub retired: Arc<AtomicU64>,
    /// Up to which purges a restart knows of. What is written says nothing of later ones: their numbers may be lost, and
    /// given again.
    pub durable: Arc<AtomicU64>,
    /// The newest purge when the directory was taken into use.
    pub newest: PurgeSeq,
    pub journal: Arc<Journal>,
    pub places: Arc<Places>,
    pub write_buffer: u64,
    pub read_timeout: Duration,
}

pub struct Volume {
    pub root: PathBuf,
    pub terms: Terms,
    max_size: AtomicU64,
    pub min_free: AtomicU64,
    pub(super) files: Mutex<Files>,
    stripes: [Mutex<()>; STRIPES],
    pub pool: IoPool,
    pub health: Health,
    pub scan: Scan,
    /// What waits to be written.
    pub write_buffer: Arc<WriteBuffer>,
    /// Bytes of bodies that are being written as they come, and bytes that they have room for.
    spooled: AtomicU64,
    for_spools: AtomicU64,
    /// The file system has less than `min_free` left, or has said that it is full.
    pub full: AtomicBool,
    next_aside: AtomicU64,
    /// Wakes the warden.
    pub(super) chores: Condvar,
    pub(super) closed: AtomicBool,
    /// What is noted in the journal above this is for whoever uses the directory next.
    noted_until: AtomicU64,
    /// It was left in order: nothing may be put in place any more.
    ended: AtomicBool,
    /// It is known which directory it is, and that no other process uses it: until then it is of no use, and has no fault.
    opened: AtomicBool,
    /// Held as long as this process uses the directory.
    lock: Mutex<Option<Arc<std::fs::File>>>,
    /// What is believed of files that are not in the index: they were there before this process was.
    before: Before,
    /// A sweep is going through it: not another, should that one hang.
    pub(super) sweeping: AtomicBool,
    /// A dry run is at it.
    pub(super) trying: AtomicBool,
    pub counters: Counters,
}

/// What is believed of what was in a directory when it was taken into use.
#[derive(Default)]
struct Before {
    /// All of it has survived the purges up to this.
    survived: AtomicU64,
    /// Higher numbers are not believed.
    up_to: AtomicU64,
    /// Nothing is believed.
    doubted: AtomicBool,
    /// The highest number that this process has written there.
    written: AtomicU64,
}

/// What is known of the files. Under one lock, so that what one part says holds for the others.
#[derive(Default)]
pub(super) struct Files {
    pub index: Index,
    /// Files that are being written; of several of a name the one that counts.
    writing: BTreeMap<FileId, Write>,
    /// Bodies that are being written as they come, by number.
    pub spooling: HashMap<u64, Spooling>,
    /// Files that are to be removed, and until then not to be found.
    pub doomed: BTreeSet<FileId>,
    next_write: u64,
}

/// A file that is being written.
#[derive(Debug, Clone, Copy)]
struct Write {
    /// A later write of the same file has a higher one.
    number: u64,
    seq: PurgeSeq,
}

/// A body that is being written as it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spooling {
    pub id: FileId,
    pub seq: PurgeSeq,
    /// It was made out of date meanwhile: it is not to be put in its place.
    pub spoilt: bool,
}

impl Files {
    /// Has no body put in its place that is being written as it comes and is one of these. Gives their names.
    fn spoil(&mut self, is_meant: impl Fn(FileId) -> bool) -> Vec<FileId> {
        let meant = self.spooling.values_mut().filter(|spooling| is_meant(spooling.id));
        meant
            .map(|spooling| {
                spooling.spoilt = true;
                spooling.id
            })
            .collect()
    }

    fn is_current(&self, id: FileId, number: u64) -> bool {
        self.writing.get(&id).is_some_and(|write| write.number == number)
    }

    /// The oldest purge sequence of what is not yet in the index.
    pub fn oldest_write(&self) -> Option<PurgeSeq> {
        self.writing.values().map(|write| write.seq).chain(self.spooling.values().map(|spooling| spooling.seq)).min()
    }
}

/// What has happened so far.
#[derive(Default)]
pub struct Counters {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub written: AtomicU64,
    pub written_bytes: AtomicU64,
    pub evicted: AtomicU64,
    pub troubles: [AtomicU64; Trouble::ALL.len()],
}
impl Volume {
    pub fn start(config: &DiskDirectory, threads: usize, terms: Terms) -> Arc<Self> {
        let before = Before { up_to: AtomicU64::new(terms.newest.0), ..Before::default() };
        let volume = Arc::new(Volume {
            root: config.path.clone(),
            write_buffer: WriteBuffer::new(terms.write_buffer),
            terms,
            before,
            sweeping: AtomicBool::new(false),
            trying: AtomicBool::new(false),
            max_size: AtomicU64::new(config.max_size.0),
            min_free: AtomicU64::new(config.min_free.0),
            files: Mutex::default(),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            pool: IoPool::start("disk", threads),
            health: Health::new(Timestamp::now()),
            scan: Scan::default(),
            spooled: AtomicU64::new(0),
            for_spools: AtomicU64::new(0),
            full: AtomicBool::new(false),
            next_aside: AtomicU64::new(0),
            chores: Condvar::new(),
            closed: AtomicBool::new(false),
            noted_until: AtomicU64::new(u64::MAX),
            ended: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            lock: Mutex::default(),
            counters: Counters::default(),
        });
        volume.heed_journal();
        super::warden::start(&volume);
        volume
    }

    pub fn max_size(&self) -> u64 {
        self.max_size.load(Ordering::Relaxed)
    }

    /// Changes what may change while it runs.
    pub fn configure(&self, config: &DiskDirectory) {
        self.max_size.store(config.max_size.0, Ordering::Relaxed);
        self.min_free.store(config.min_free.0, Ordering::Relaxed);
        self.chores.notify_all();
    }

    /// Bytes, files, and bytes of memory of the index.
    pub fn usage(&self) -> (u64, u64, u64) {
        let files = self.files.lock();
        (files.index.bytes(), files.index.len() as u64, files.index.memory())
    }

    /// Whether it is still to be taken into use, and nothing is the matter so far.
    pub fn is_opening(&self) -> bool {
        !self.opened.load(Ordering::Acquire) && self.health.state() == State::InService
    }

    /// Whether there may be a file of a key that may be read now.
    pub fn may_find(&self, key: KeyHash) -> bool {
        !self.is_opening() && self.may_have(key)
    }

    /// Whether there may be a file of a key.
    pub fn may_have(&self, key: KeyHash) -> bool {
        !self.scan.is_done() || !self.files.lock().index.variants(key).is_empty()
    }

    /// Does what may wait for the disk, for somebody who waits for it so long.
    pub(super) async fn in_pool<T: Send + 'static>(
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
                    self.strike(&std::io::ErrorKind::TimedOut.into());
                }
                Err(self.count(Trouble::Slow))
            }
        }
    }

    /// Notes that it does not answer.
    pub(super) fn strike(&self, error: &std::io::Error) {
        if self.health.fault(Operation::Read, error, Timestamp::now()) {
            let state = self.health.state().as_str();
            tracing::error!(path = %self.root.display(), "the disk cache is {state}: it does not answer");
        }
    }

    /// Notes that a file could not be read, and removes it if it is damaged.
    pub(super) fn unreadable(&self, id: FileId, error: &ReadError) -> Trouble {
        match error {
            ReadError::Corrupt(corrupt @ (Corrupt::Outdated | Corrupt::Ahead | Corrupt::OtherLog)) => {
                tracing::debug!(path = %id.path(&self.root).display(), %corrupt, "a stored file is not used any more");
                self.remove(id);
                self.count(Trouble::Outdated)
            }
            ReadError::Corrupt(corrupt) => {
                tracing::warn!(path = %id.path(&self.root).display(), %corrupt, "a stored file is unusable and is removed");
                self.remove(id);
                self.count(Trouble::Corrupt)
            }
            ReadError::Io(error) => self.fault(Operation::Read, error),
        }
    }

    /// Notes that a call failed.
    pub(super) fn fault(&self, operation: Operation, error: &std::io::Error) -> Trouble {
        let trouble = Trouble::of(error);
        if trouble == Trouble::Full {
            self.full.store(true, Ordering::Relaxed);
            self.chores.notify_all();
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
    pub(super) fn is_whole(&self) -> Option<u64> {
        let is_whole = self.scan.is_done() && self.health.state() == State::InService && !self.is_closed();
        is_whole.then(|| self.scan.times())
    }

    /// Whether it works, and it is still to be found out what is in it.
    pub(super) fn is_scanning(&self) -> bool {
        !self.scan.is_done() && self.health.state() == State::InService
    }

    /// What keeps an object from being written now.
    pub fn obstacle(&self) -> Option<Trouble> {
        let obstacle = self.health.obstacle(Operation::Write);
        let obstacle = obstacle.or(self.is_closed().then_some(Trouble::OutOfService));
        obstacle.or(self.full.load(Ordering::Relaxed).then_some(Trouble::Full))
    }

    pub(super) fn stripe(&self, id: FileId) -> MutexGuard<'_, ()> {
        self.stripes[id.key.directory() as usize % STRIPES].lock()
    }

    /// The directory is this process's from now on, and is used.
    pub(super) fn hold(&self, lock: Arc<std::fs::File>) {
        *self.lock.lock() = Some(lock);
        let retired = self.terms.retired.load(Ordering::Acquire);
        let swept = stamp::read(&self.root, self.terms.log).unwrap_or_default().0;
        // It was swept for all purges that are forgotten: what is there was hit by none of them.
        self.before.survived.store(if swept >= retired { retired } else { 0 }, Ordering::Release);
        let newest = self.before.up_to.load(Ordering::Acquire).max(self.before.written.load(Ordering::Acquire));
        if swept > newest {
            self.doubt("it was swept for purges that the purge log does not have");
        }
        self.opened.store(true, Ordering::Release);
    }

    pub(super) fn let_go(&self) {
        *self.lock.lock() = None;
    }

    /// Leaves the directory to others.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.let_go();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Saves what is known of the directory for the next start, if that is all there is to be known.
    pub fn save(&self) -> std::io::Result<()> {
        let encoded = {
            let files = self.files.lock();
            let is_known = self.scan.is_done() && self.health.state() == State::InService && files.writing.is_empty();
            let log = (self.terms.log, self.durable());
            is_known.then(|| snapshot::encode(log, &files.index, files.doomed.iter()))
        };
        // Whoever still asks for something does not wait for the disk meanwhile.
        encoded.map_or(Ok(()), |bytes| snapshot::save(&self.root, &bytes))
    }

    /// Takes over what the last process knew of the directory.
    pub(super) fn restore(&self, known: Known) {
        let mut outdated = 0;
        // In steps: whoever asks for something needs the same lock.
        for entries in known.entries.chunks(RESTORED_AT_ONCE) {
            let mut files = self.files.lock();
            for entry in entries.iter().map(|entry| self.believe(*entry)) {
                let Trust { retired, up_to, .. } = self.trust(None);
                // What was written or removed since the start is newer.
                let is_outdated = !(retired..=up_to).contains(&entry.seq) || self.scan.is_forgotten(entry.id.key);
                if is_outdated && files.index.get(entry.id).is_none() {
                    outdated += usize::from(files.doomed.insert(entry.id));
                } else if !is_outdated && !files.doomed.contains(&entry.id) {
                    files.index.insert_oldest(entry);
                }
            }
        }
        if outdated > 0 {
            tracing::warn!(path = %self.root.display(), files = outdated, "files of the disk cache are not used any more: it is not known that they have survived all purges");
        }
        self.files.lock().doomed.extend(known.doomed);
        self.scan.finish();
    }

    /// Ends its warden, and takes no more writes. What is open can be read to its end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.chores.notify_all();
    }
}

impl Default for Index {
    fn default() -> Self {
        Index::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_is_spoilt_by_what_takes_it_out() {
        let id = |key: u128, variant| FileId { key: KeyHash::from(key), variant };
        let mut files = Files::default();
        for (number, id) in [(1, id(7, 0)), (2, id(7, 1)), (3, id(8, 0))] {
            files.spooling.insert(number, Spooling { id, seq: PurgeSeq(number), spoilt: false });
        }
        assert_eq!(files.spoil(|other| other == id(7, 1)), [id(7, 1)]);
        let mut of_key = files.spoil(|other| other.key == KeyHash::from(7));
        of_key.sort_unstable();
        assert_eq!(of_key, [id(7, 0), id(7, 1)]);
        assert!(!files.spooling[&3].spoilt && files.spooling[&1].spoilt);
        assert_eq!(files.oldest_write(), Some(PurgeSeq(1)), "a sweep knows of it still");
    }
}
