//! One directory of the disk tier: its files, its index, its threads. Everything here that may wait for the disk runs
//! in the volume's own threads.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::config::model::DiskDirectory;

use super::super::super::object::Object;
use super::super::super::purge::PurgeSeq;
use super::super::super::trouble::Trouble;
use super::super::super::vary::Variant;
use super::body::FileBody;
use super::file::{self, Patience, ReadError, Record, RecordBody, Rewritten};
use super::format::{BLOCK, Corrupt, Header, Meta, room_for};
use super::health::{Health, Operation, State};
use super::id::{FileId, KeyHash};
use super::index::{Entry, Index};
use super::journal::{Doom, Journal};
use super::places::Places;
use super::pool::IoPool;
use super::restore;
use super::running::Pace;
use super::scan::{self, Scan};
use super::snapshot::{self, Known};
use super::stamp::{self, Trust};

/// Bodies up to this are read whole, if they may get into memory; larger ones are streamed.
pub const READ_WHOLE: u64 = 1 << 20;
/// Those up to this in any case: there is no more than one piece of them.
const ALWAYS_WHOLE: u64 = BLOCK;
/// Files that are evicted for one that is written, at most.
const EVICT_AT_ONCE: usize = 1024;
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
    waiting_bytes: AtomicU64,
    spooled: AtomicU64,
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

/// What was found.
#[derive(Clone)]
pub enum Found {
    /// The only one of its key.
    Object(Arc<Object>),
    /// One of several, of which only the head was read: most of them are not what is asked for.
    Head(Arc<FoundHead>),
}

/// One of several variants.
pub struct FoundHead {
    pub volume: Arc<Volume>,
    pub id: FileId,
    variant: Variant,
    response_time: Timestamp,
}

impl Found {
    pub fn variant(&self) -> &Variant {
        match self {
            Found::Object(object) => &object.variant,
            Found::Head(head) => &head.variant,
        }
    }

    pub fn response_time(&self) -> Timestamp {
        match self {
            Found::Object(object) => object.freshness.response_time,
            Found::Head(head) => head.response_time,
        }
    }
}

impl Volume {
    pub fn start(config: &DiskDirectory, threads: usize, terms: Terms) -> Arc<Self> {
        let before = Before { up_to: AtomicU64::new(terms.newest.0), ..Before::default() };
        let volume = Arc::new(Volume {
            root: config.path.clone(),
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
            waiting_bytes: AtomicU64::new(0),
            spooled: AtomicU64::new(0),
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

    /// Bytes that wait to be written.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Ordering::Relaxed)
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

    /// Reads what there is of a key: of several variants the heads, of a single one all, as far as bodies are read whole.
    pub async fn find(
        self: &Arc<Self>,
        key: KeyHash,
        name: &str,
        max_in_memory: u64,
    ) -> Result<SmallVec<[Found; 1]>, Trouble> {
        if self.is_opening() {
            return Ok(SmallVec::new());
        }
        if let Some(trouble) = self.health.obstacle(Operation::Read) {
            return Err(self.count(trouble));
        }
        let mut ids: SmallVec<[FileId; 2]> =
            self.files.lock().index.variants(key).iter().map(|entry| entry.id).collect();
        if ids.is_empty() && !self.scan.is_done() && !self.scan.is_forgotten(key) {
            let volume = self.clone();
            let names = self.in_pool(move || scan::names_of(&volume.root, key), self.terms.read_timeout).await?;
            let files = self.files.lock();
            ids = names.into_iter().filter(|id| !files.doomed.contains(id)).collect();
        }
        match (ids.len(), ids.first().copied()) {
            (_, None) => Ok(SmallVec::new()),
            (1, Some(only)) => {
                let object = self.whole(only, name, max_in_memory).await?;
                Ok(object.into_iter().map(Found::Object).collect())
            }
            _ => self.heads(&ids, name).await,
        }
    }

    /// Reads one file; `None`: it is not there.
    pub async fn whole(
        self: &Arc<Self>,
        id: FileId,
        name: &str,
        max_in_memory: u64,
    ) -> Result<Option<Arc<Object>>, Trouble> {
        let whole_up_to = max_in_memory.clamp(ALWAYS_WHOLE, READ_WHOLE);
        let known = self.files.lock().index.get(id);
        let quick = self.read_now((id, known), name, whole_up_to, Patience::PageCache);
        let read = match quick {
            Err(error) if error.needs_disk() => {
                self.files.lock().index.disprove(id); // more comes into memory than is looked at
                let (volume, name) = (self.clone(), name.to_owned());
                let read = move || {
                    let _stripe = volume.stripe(id); // nobody changes it meanwhile
                    volume.read_now((id, known), &name, whole_up_to, Patience::Disk)
                };
                let read = self.in_pool(read, self.terms.read_timeout).await?;
                if read.is_ok() {
                    self.health.success(Operation::Read);
                }
                read
            }
            read => read,
        };
        let object = self.unless_missing(id, known, read)?;
        if let Some(object) = &object {
            let mut files = self.files.lock();
            files.index.touch(id);
            // What is known of the file that was there before and is known of that which is there now holds for what was
            // read, whichever of them that was.
            if let Some((before, now)) = known.zip(files.index.get(id)) {
                object.survived(before.seq.min(now.seq), None);
            }
            drop(files);
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(object.map(Arc::new))
    }

    /// Reads the heads of several variants.
    async fn heads(self: &Arc<Self>, ids: &[FileId], name: &str) -> Result<SmallVec<[Found; 1]>, Trouble> {
        let known: Vec<(FileId, Option<Entry>)> = {
            let files = self.files.lock();
            ids.iter().map(|id| (*id, files.index.get(*id))).collect()
        };
        let (mut heads, mut slow) = (Vec::new(), Vec::new());
        for file in known {
            match self.read_now(file, name, 0, Patience::PageCache) {
                Err(error) if error.needs_disk() => slow.push(file),
                head => heads.push((file, head)),
            }
        }
        if !slow.is_empty() {
            {
                let mut files = self.files.lock();
                slow.iter().for_each(|(id, _)| files.index.disprove(*id)); // as above
            }
            let (volume, name) = (self.clone(), name.to_owned());
            let read = move |file: (FileId, Option<Entry>)| {
                let _stripe = volume.stripe(file.0);
                (file, volume.read_now(file, &name, 0, Patience::Disk))
            };
            let read_all = move || slow.into_iter().map(read).collect::<Vec<_>>();
            heads.extend(self.in_pool(read_all, self.terms.read_timeout).await?);
        }
        let (mut found, mut trouble) = (SmallVec::new(), None);
        for ((id, known), head) in heads {
            match self.unless_missing(id, known, head) {
                Ok(object) => found.extend(object.map(|object| self.found_head(id, &object))),
                Err(other) => trouble = Some(other),
            }
        }
        match trouble {
            Some(trouble) if found.is_empty() => Err(trouble),
            _ => Ok(found),
        }
    }

    fn found_head(self: &Arc<Self>, id: FileId, object: &Object) -> Found {
        let (variant, response_time) = (object.variant.clone(), object.freshness.response_time);
        Found::Head(Arc::new(FoundHead { volume: self.clone(), id, variant, response_time }))
    }

    /// What came of reading a file of which this was known; `None`: it is not there.
    fn unless_missing(
        &self,
        id: FileId,
        known: Option<Entry>,
        read: Result<Object, ReadError>,
    ) -> Result<Option<Object>, Trouble> {
        match read {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_missing() => {
                let mut files = self.files.lock();
                // Unless another took its place while this one was read.
                if files.index.get(id).map(|now| now.seq) == known.map(|before| before.seq) {
                    files.index.remove(id);
                }
                drop(files);
                self.counters.misses.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(self.unreadable(id, &error)),
        }
    }

    /// `known`: what the index has of the file.
    fn read_now(
        self: &Arc<Self>,
        (id, known): (FileId, Option<Entry>),
        name: &str,
        whole_up_to: u64,
        patience: Patience,
    ) -> Result<Object, ReadError> {
        let trust = self.trust(known.as_ref());
        let Record { header, meta, body } = file::read(&id.path(&self.root), trust, whole_up_to, patience)?;
        let meta = Meta::decode(&meta)?;
        if meta.key != name {
            return Err(Corrupt::Key.into());
        }
        let content = match body {
            RecordBody::Whole(body) => body.into(),
            RecordBody::Open(file) => FileBody::new(self.clone(), id, file, header).into(),
        };
        let object = restore::object(&header, &meta, content)?;
        object.survived(PurgeSeq(self.before.survived.load(Ordering::Acquire)), None);
        Ok(object)
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

    /// Has an object written, if the disk keeps up. What was there of it before is gone either way.
    pub fn store(self: &Arc<Self>, object: Arc<Object>, max_variants: usize) {
        let id = FileId::new(KeyHash::of(object.key().as_str()), &object.variant);
        let number = self.begin_write(id, object.checked());
        if self.is_opening() {
            return self.abandon_write(id, number);
        }
        let bytes = object.weight() as u64;
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let obstacle = self.obstacle().or((waiting + bytes > self.terms.write_buffer).then_some(Trouble::Slow));
        let volume = self.clone();
        let write = move || {
            if let Err(error) = volume.write(id, number, &object, max_variants) {
                volume.fault(Operation::Write, &error);
                volume.abandon_write(id, number);
            }
            volume.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        };
        let obstacle = match obstacle {
            None if self.pool.write(write) => return,
            None => Trouble::Slow,
            Some(obstacle) => obstacle,
        };
        self.count(obstacle);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.abandon_write(id, number);
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

    /// What is stored under a name is out of date from now on. The number tells this write from later ones.
    pub(super) fn begin_write(&self, id: FileId, seq: PurgeSeq) -> u64 {
        self.begin(&mut self.files.lock(), id, seq)
    }

    /// The same for a body that was written as it came. `None`: it is out of date already.
    pub(super) fn begin_spooled(&self, spool: u64, id: FileId, seq: PurgeSeq) -> Option<u64> {
        let mut files = self.files.lock();
        let is_spoilt = files.spooling.get(&spool).is_none_or(|spooling| spooling.spoilt);
        (!is_spoilt).then(|| self.begin(&mut files, id, seq))
    }

    /// Has a body that is being written as it comes not be put in its place.
    pub(super) fn spoil(&self, spool: u64) {
        if let Some(spooling) = self.files.lock().spooling.get_mut(&spool) {
            spooling.spoilt = true;
        }
    }

    fn begin(&self, files: &mut Files, id: FileId, seq: PurgeSeq) -> u64 {
        let outdated = files.index.remove(id).is_some() || !self.scan.is_done();
        if outdated {
            files.doomed.insert(id);
        }
        files.next_write += 1;
        let number = files.next_write;
        files.writing.insert(id, Write { number, seq });
        number
    }

    pub(super) fn abandon_write(&self, id: FileId, number: u64) {
        let mut files = self.files.lock();
        if files.is_current(id, number) {
            files.writing.remove(&id);
        }
        if !files.doomed.is_empty() {
            self.chores.notify_all();
        }
    }

    fn write(&self, id: FileId, number: u64, object: &Object, max_variants: usize) -> std::io::Result<()> {
        let Some(body) = object.content.in_memory() else { return Ok(()) };
        let Some((header, meta)) = self.head_of(object) else { return Ok(()) };
        if !self.files.lock().is_current(id, number) {
            return Ok(()); // out of date before it was written
        }
        let (_, aside) = self.aside();
        self.make_room(header.file_length(), EVICT_AT_ONCE);
        if !self.fits(header.file_length()) {
            self.abandon_write(id, number); // more is to be evicted than one write may do: the warden is at it
            return Ok(());
        }
        let written = file::write_aside(&aside, &header, &meta, body);
        let committed = written.and_then(|()| self.commit(id, number, &aside, &header, max_variants));
        if committed.is_err() {
            let _ = std::fs::remove_file(&aside); // the first error is what counts
        }
        committed
    }

    /// Header and metadata of an object; `None`: they are too large to be kept.
    pub(super) fn head_of(&self, object: &Object) -> Option<(Header, Vec<u8>)> {
        let meta = restore::meta(object).encode()?;
        Some((self.header_of(object, &meta, room_for(meta.len())), meta))
    }

    /// The header of an object, as a restart may find it.
    pub(super) fn header_of(&self, object: &Object, meta: &[u8], meta_room: u32) -> Header {
        let header = restore::header(object, meta, meta_room, self.terms.log);
        Header { seq: header.seq.min(self.durable()), ..header }
    }

    fn durable(&self) -> PurgeSeq {
        PurgeSeq(self.terms.durable.load(Ordering::Acquire))
    }

    /// A number and a name for a file that is being written.
    pub(super) fn aside(&self) -> (u64, PathBuf) {
        let number = self.next_aside.fetch_add(1, Ordering::Relaxed);
        (number, self.root.join("tmp").join(number.to_string()))
    }

    /// Puts what was written aside in its place, unless it is out of date by now.
    pub(super) fn commit(
        &self,
        id: FileId,
        number: u64,
        aside: &std::path::Path,
        header: &Header,
        max_variants: usize,
    ) -> std::io::Result<()> {
        let _stripe = self.stripe(id);
        if self.ended.load(Ordering::Acquire) || !self.files.lock().is_current(id, number) {
            return std::fs::remove_file(aside);
        }
        file::rename(aside, &id.path(&self.root))?;
        self.health.success(Operation::Write);
        self.counters.written.fetch_add(1, Ordering::Relaxed);
        self.counters.written_bytes.fetch_add(header.file_length(), Ordering::Relaxed);
        self.wrote(header.seq);
        let mut files = self.files.lock();
        if !files.is_current(id, number) {
            files.doomed.insert(id);
            return Ok(());
        }
        // What is written may say less than is known.
        let survived = files.writing.remove(&id).map_or(header.seq, |write| write.seq);
        files.doomed.remove(&id);
        let entry = Entry::new(id, header.file_length(), header.seq, header.filter);
        files.index.insert(entry.having_survived(survived));
        self.displace_variants(&mut files, id, max_variants);
        if !files.doomed.is_empty() {
            self.chores.notify_all();
        }
        Ok(())
    }

    /// Evicts what was not used for the longest time until there is room for a file. Bounded: if the limit was lowered
    /// by much, the warden does the rest.
    pub(super) fn make_room(&self, length: u64, most: usize) {
        for _ in 0..most {
            let oldest = {
                let mut files = self.files.lock();
                let spooled = self.spooled.load(Ordering::Relaxed);
                let over = files.index.bytes() + spooled + length > self.max_size();
                over.then(|| files.index.pop_oldest()).flatten()
            };
            let Some(oldest) = oldest else { return };
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
            self.unlink(oldest.id);
        }
    }

    /// Whether something of this length is within the limit, besides what is there.
    pub(super) fn fits(&self, length: u64) -> bool {
        self.files.lock().index.bytes() + self.spooled.load(Ordering::Relaxed) + length <= self.max_size()
    }

    /// Counts bytes of files that are being written as their bodies come.
    pub(super) fn spooled(&self, bytes: i64) {
        self.spooled.fetch_add(bytes as u64, Ordering::Relaxed); // wraps: what is taken away was added before
    }

    pub(super) fn add_waiting(&self, bytes: i64) {
        self.waiting_bytes.fetch_add(bytes as u64, Ordering::Relaxed); // likewise
    }

    /// Frees the place of a file that is not in the index; whether that is done.
    pub(super) fn unlink(&self, id: FileId) -> bool {
        let _stripe = self.stripe(id);
        if self.ended.load(Ordering::Acquire) {
            return false; // it is another process's by now
        }
        // It may have been written anew since.
        if self.files.lock().index.get(id).is_none()
            && let Err(error) = std::fs::remove_file(id.path(&self.root))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.fault(Operation::Write, &error);
            self.files.lock().doomed.insert(id);
            return false;
        }
        self.files.lock().doomed.remove(&id);
        true
    }

    /// Frees the places of all that is doomed now, at a bounded rate; whether that is done. `step` is told of each.
    pub(super) fn free_doomed(&self, step: impl Fn()) -> bool {
        let doomed: Vec<FileId> = self.files.lock().doomed.iter().copied().collect();
        let mut pace = Pace::new();
        doomed.into_iter().all(|id| {
            pace.keep();
            step();
            self.unlink(id)
        })
    }

    /// Waits until the disk has all that was written and removed.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        let held = self.lock.lock().clone();
        let held = held.ok_or_else(|| std::io::Error::other("it is not open"))?;
        rustix::fs::syncfs(&held).map_err(Into::into)
    }

    /// Makes room among the variants of a key, at the expense of those whose fill began first.
    fn displace_variants(&self, files: &mut Files, id: FileId, most: usize) {
        let mut variants = files.index.variants(id.key);
        variants.sort_by_key(|entry| (entry.id == id, entry.seq));
        for entry in variants.iter().take(variants.len().saturating_sub(most)) {
            files.index.remove(entry.id);
            files.doomed.insert(entry.id);
        }
    }

    /// Changes the head of a stored object whose body stays, as after a 304.
    pub fn rewrite(self: &Arc<Self>, object: Arc<Object>) {
        let id = FileId::new(KeyHash::of(object.key().as_str()), &object.variant);
        let volume = self.clone();
        let rewrite = move || {
            let Some(body) = object.content.on_disk() else { return };
            let Some((header, meta)) = volume.head_of(&object) else { return volume.remove(id) };
            let _stripe = volume.stripe(id);
            if volume.ended.load(Ordering::Acquire) {
                return;
            }
            match file::rewrite_head(&id.path(&volume.root), Some(body.inode()), &header, &meta) {
                Ok(Rewritten::Done) => {
                    volume.wrote(header.seq);
                    volume.files.lock().index.survived(id, object.checked());
                }
                Ok(Rewritten::NoRoom) => volume.remove(id),
                Ok(Rewritten::Another) => {}
                Err(error) if error.is_missing() => {}
                Err(error) => drop(volume.unreadable(id, &error)),
            }
        };
        // What is stale on disk is only validated once more.
        if !self.pool.write(rewrite) {
            self.count(Trouble::Slow);
        }
    }

    /// Takes a file out. It is not found any more; its place is freed in the background.
    pub fn remove(&self, id: FileId) {
        let mut files = self.files.lock();
        files.index.remove(id);
        files.writing.remove(&id);
        files.doomed.insert(id);
        drop(files);
        self.chores.notify_all();
    }

    /// The same, if it is there or may be; whether that is so.
    pub fn take_out(&self, id: FileId) -> bool {
        let mut files = self.files.lock();
        let is_coming = !files.spoil(|other| other == id).is_empty() || files.writing.contains_key(&id);
        let is_known = is_coming || files.index.get(id).is_some() || files.doomed.contains(&id);
        drop(files);
        let may_be_there = is_known || !self.scan.is_done();
        if may_be_there {
            self.remove(id);
        }
        may_be_there
    }

    /// Takes all variants of a key out. Says which may be there still.
    pub fn remove_key(&self, key: KeyHash) -> Vec<Doom> {
        let mut files = self.files.lock();
        // What is on its way is older than whatever takes it out.
        let mut ids = files.spoil(|id| id.key == key);
        ids.extend(files.index.variants(key).iter().map(|entry| entry.id));
        ids.extend(files.writing.range(FileId::all_of(key)).map(|(id, _)| *id));
        ids.extend(files.doomed.range(FileId::all_of(key)));
        let all_are_known = self.scan.is_done();
        // What the scan has yet to find is not to come back.
        self.scan.forget(key);
        drop(files);
        ids.iter().for_each(|id| self.remove(*id));
        if all_are_known { ids.into_iter().map(Doom::File).collect() } else { vec![Doom::Key(key)] }
    }

    pub(super) fn stripe(&self, id: FileId) -> MutexGuard<'_, ()> {
        self.stripes[id.key.directory() as usize % STRIPES].lock()
    }

    /// What was there is gone, or not to be trusted: it is looked for anew.
    pub(super) fn forget_all(&self) {
        let mut files = self.files.lock();
        self.before.up_to.fetch_max(self.before.written.load(Ordering::Acquire), Ordering::AcqRel);
        // First: nobody is to take an empty index for all there is.
        self.scan.restart();
        // What was replaced or removed while it was away stays doomed.
        files.index = Index::new();
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

    /// Nothing is believed any more of what was there before.
    pub(super) fn doubt(&self, why: &str) {
        tracing::warn!(path = %self.root.display(), "what is in the disk cache from before is not used: {why}");
        self.before.doubted.store(true, Ordering::Release);
        self.terms.journal.note(&self.root, [Doom::All]);
    }

    pub(super) fn let_go(&self) {
        *self.lock.lock() = None;
    }

    /// Up to which purges are forgotten.
    pub(super) fn retired(&self) -> PurgeSeq {
        PurgeSeq(self.terms.retired.load(Ordering::Acquire))
    }

    /// What is to be believed of a file. `known`: what the index has of it.
    pub(super) fn trust(&self, known: Option<&Entry>) -> Trust {
        let trust = Trust { retired: self.retired(), ..Trust::in_all(self.terms.log) };
        match known {
            // This process has looked at it, or has written it.
            Some(entry) => Trust { survived: entry.seq, ..trust },
            None if self.is_doubted() => Trust { retired: PurgeSeq(u64::MAX), ..trust },
            None => Trust {
                survived: PurgeSeq(self.before.survived.load(Ordering::Acquire)),
                up_to: PurgeSeq(self.before.up_to.load(Ordering::Acquire)),
                ..trust
            },
        }
    }

    /// Enters what was found of a file that was there before.
    pub(super) fn believe(&self, entry: Entry) -> Entry {
        entry.having_survived(PurgeSeq(self.before.survived.load(Ordering::Acquire)))
    }

    /// Numbers up to this are in the directory since this process uses it.
    pub(super) fn wrote(&self, seq: PurgeSeq) {
        self.before.written.fetch_max(seq.0, Ordering::AcqRel);
    }

    /// Takes over what is noted as not to be used again.
    pub(super) fn heed_journal(&self) {
        for (doom, _) in self.terms.journal.of(&self.root) {
            match doom {
                Doom::File(id) => self.remove(id),
                Doom::Key(key) => drop(self.remove_key(key)),
                Doom::All => self.doubt_all(),
            }
        }
    }

    /// What was there before is not to be used, also what was believed so far.
    fn doubt_all(&self) {
        let mut files = self.files.lock();
        self.before.doubted.store(true, Ordering::Release);
        let believed: Vec<FileId> = files.index.by_use().map(|entry| entry.id).collect();
        files.index = Index::new();
        files.doomed.extend(believed);
    }

    /// Whether nothing is believed of what was there before.
    pub(super) fn is_doubted(&self) -> bool {
        self.before.doubted.load(Ordering::Acquire)
    }

    /// What is noted in the journal after `number` is not for this process's use of the directory.
    pub(super) fn heed_no_later(&self, number: u64) {
        self.noted_until.store(number, Ordering::Release);
    }

    /// Has the journal forget what is gone for good. Waits for the disk.
    pub(super) fn settle_journal(&self) {
        // Only where all that is there is known, nothing else is left of what was noted.
        if !self.scan.is_done() || self.health.state() != State::InService {
            return;
        }
        // `All` was heeded only if nothing was believed: else it was noted while the directory was not in use.
        let (until, heeded) = (self.noted_until.load(Ordering::Acquire), self.is_doubted());
        let mut noted = self.terms.journal.of(&self.root);
        noted.retain(|(doom, number)| *number <= until && (heeded || *doom != Doom::All));
        if noted.is_empty() || !self.free_doomed(|| {}) {
            return;
        }
        match self.sync() {
            Ok(()) => {
                if noted.iter().any(|(doom, _)| *doom == Doom::All) {
                    self.before.doubted.store(false, Ordering::Release);
                }
                self.terms.journal.forget(&self.root, &noted);
            }
            Err(error) => drop(self.fault(Operation::Write, &error)),
        }
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

    /// Notes that files have survived all purges up to `seq`, as far as they are those that were judged.
    pub(super) fn survived(&self, judged: &[Entry], seq: PurgeSeq) {
        let mut files = self.files.lock();
        judged.iter().for_each(|entry| files.index.survived_unless_changed(entry, seq));
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
