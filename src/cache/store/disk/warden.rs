//! Looks after a volume in a thread of its own: opens it, scans it, frees what is doomed, keeps it below its limits, and
//! tries it again when it has failed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::lock::try_lock;
use crate::sandbox;

use super::health::State;
use super::id::FileId;
use super::pool::pause;
use super::saved_index;
use super::scan;
use super::volume::Volume;

/// How often it looks, if nothing wakes it.
const ROUND: Duration = Duration::from_secs(1);
/// Files it removes in a round, at most: a disk has other things to do.
const REMOVE_IN_A_ROUND: usize = 5000;
/// How often the journal is asked to forget what is gone, which takes a sync of the whole file system; and what of it is
/// forgotten sooner.
const SETTLE_EVERY: Duration = Duration::from_secs(60);
const MAX_UNSETTLED: usize = 10_000;
/// Bytes that are evicted when the file system says that it is full.
const FULL_EVICTS: u64 = 1 << 20;

pub(crate) fn start(volume: &Arc<Volume>) {
    let thread = std::thread::Builder::new().name("disk-warden".into());
    let warden = Warden { volume: volume.clone(), opened: None, device: None, settled: None };
    if let Err(error) = thread.spawn(move || warden.run()) {
        volume.health.enter(State::OutOfService, format!("its thread could not be started: {error}"), Timestamp::now());
    }
}

struct Warden {
    volume: Arc<Volume>,
    opened: Option<Opened>,
    /// The file system that it was on at first.
    device: Option<u64>,
    /// When the journal was settled last.
    settled: Option<Instant>,
}

/// The directory as it was when it was opened.
struct Opened {
    /// Not to be another process's before the warden has ended, too.
    lock: Arc<File>,
    device: u64,
    inode: u64,
}

impl Warden {
    fn run(mut self) {
        self.open();
        while !self.volume.is_closed() {
            let is_readable = self.opened.is_some() && self.volume.health.state() != State::OutOfService;
            if is_readable && !self.volume.files.scan.is_done() {
                self.scan();
            }
            self.look_after_directory();
            self.watch_free_space();
            let busy = self.free();
            self.settle();
            let mut files = self.volume.files.lock();
            if !self.volume.is_closed() && !busy {
                let _ = self.volume.files.chores.wait_for(&mut files, ROUND); // woken or not: it looks
            } else if !self.volume.is_closed() {
                drop(files);
                pause(ROUND / 10); // bounds the rate
            }
        }
    }

    fn open(&mut self) {
        let opened = open(&self.volume);
        if let Err(error) = opened.and_then(|opened| self.take(opened)) {
            self.give_up(&error);
        }
    }

    /// Fails if it cannot be told which directory it is: it is tried again then.
    fn take(&mut self, opened: Opened) -> io::Result<()> {
        let volume = &self.volume;
        if !volume.shared.places.recognise(&volume.root)? {
            volume.doubt("it is not the directory that was used before");
        }
        self.device = Some(opened.device);
        self.settled = None;
        volume.take_into_use(opened.lock.clone());
        self.opened = Some(opened);
        Ok(())
    }

    fn give_up(&self, error: &io::Error) {
        let volume = &self.volume;
        if volume.health.enter(State::OutOfService, error.to_string(), Timestamp::now()) {
            let hint = sandbox::hint(error, &volume.root);
            tracing::error!(path = %volume.root.display(), %error, hint, "the disk cache is out of service; the node goes on without it");
        }
    }

    fn scan(&self) {
        let volume = &self.volume;
        let path = volume.root.display();
        match saved_index::take(&volume.root, volume.shared.purges.log_id()) {
            Ok(Some(saved)) => {
                tracing::info!(%path, files = saved.entries.len(), "the disk cache is as the last process left it");
                let files = volume.files.restore(saved);
                if files > 0 {
                    tracing::warn!(%path, files, "files of the disk cache are not used any more: it is not known that they have survived all purges");
                }
                return;
            }
            Ok(None) => {}
            Err(error) => return self.give_up(&error),
        }
        if let Err(error) = scan::run(volume) {
            return self.give_up(&error);
        }
        let (files, removed) = volume.files.scan.found();
        tracing::info!(%path, files, removed, "the disk cache is scanned");
    }

    /// Notices that the directory is gone, or another one is in its place; and tries what has failed.
    fn look_after_directory(&mut self) {
        let volume = self.volume.clone();
        if let Some(opened) = &self.opened
            && let Err(error) = opened.is_still(&volume.root)
        {
            self.give_up(&error);
        }
        if !volume.health.probe_is_due(Timestamp::now()) {
            return;
        }
        let is_same = |opened: &Opened| opened.is_still(&volume.root).is_ok();
        if !self.opened.as_ref().is_some_and(is_same) {
            self.opened = None;
            volume.release();
            let taken = match open(&volume) {
                // What lies under a mount point while the disk is not mounted must not be filled.
                Ok(opened) if self.device.is_some_and(|device| device != opened.device) => return,
                Ok(opened) => self.take(opened),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                return tracing::debug!(path = %volume.root.display(), %error, "the disk cache cannot be opened yet");
            }
            volume.files.forget_all();
        }
        match probe(&volume.root) {
            Ok(()) => {
                volume.health.recovered(Timestamp::now());
                tracing::info!(path = %volume.root.display(), "the disk cache is in service again");
            }
            Err(error) => tracing::debug!(path = %volume.root.display(), %error, "the disk cache does not work yet"),
        }
    }

    /// What was noted as not to be used again, and is gone for good, needs no note any more.
    fn settle(&mut self) {
        let volume = &self.volume;
        let is_due = self.settled.is_none_or(|settled| settled.elapsed() >= SETTLE_EVERY)
            || volume.shared.journal.count(&volume.root) > MAX_UNSETTLED;
        if is_due && volume.files.scan.is_done() {
            volume.settle_journal();
            self.settled = Some(Instant::now());
        }
    }

    /// Evicts what keeps the file system from having `min_free` left.
    fn watch_free_space(&self) {
        let volume = &self.volume;
        if volume.health.state() != State::InService {
            return; // of a read-only one, nothing could be removed
        }
        let Ok(stat) = rustix::fs::statvfs(&volume.root) else { return };
        let (free, least) = (stat.f_bavail * stat.f_frsize, volume.min_free.load(Ordering::Relaxed));
        let was_full = volume.full.load(Ordering::Relaxed);
        if free < least || was_full {
            let missing = least.saturating_sub(free).max(if was_full { FULL_EVICTS } else { 0 });
            let mut freed = 0;
            for _ in 0..REMOVE_IN_A_ROUND {
                if freed >= missing {
                    break;
                }
                let Some(entry) = volume.files.lock().index.pop_oldest() else { break };
                if !volume.evict(entry) {
                    break;
                }
                freed += entry.size();
            }
        }
        let Ok(stat) = rustix::fs::statvfs(&volume.root) else { return };
        volume.full.store(stat.f_bavail * stat.f_frsize <= least, Ordering::Relaxed);
    }

    /// Removes what is doomed, and what is above the limit. Whether there is more to do.
    fn free(&self) -> bool {
        let volume = &self.volume;
        let doomed: Vec<FileId> = volume.files.lock().doomed.iter().take(REMOVE_IN_A_ROUND).copied().collect();
        if volume.health.state() != State::InService || !doomed.into_iter().all(|id| volume.unlink(id)) {
            return false; // there is time when it works again
        }
        volume.make_room(0, REMOVE_IN_A_ROUND);
        let files = volume.files.lock();
        !files.doomed.is_empty() || files.index.bytes() > volume.max_size()
    }
}

impl Opened {
    fn is_still(&self, root: &Path) -> io::Result<()> {
        let now = fs::metadata(root)?;
        if (now.dev(), now.ino()) == (self.device, self.inode) {
            return Ok(());
        }
        Err(io::Error::other("another directory or file system is in its place"))
    }
}

/// Takes a directory into use, and removes what was left half-written.
fn open(volume: &Volume) -> io::Result<Opened> {
    let root = volume.root.as_path();
    volume.shared.places.check(root)?;
    fs::create_dir_all(root)?;
    // Held open for reading only, so that the file system can still be made read-only.
    let lock = root.join("lock");
    let lock = File::open(&lock).or_else(|_| File::create(&lock).and_then(|_| File::open(&lock)))?;
    if !try_lock(&lock)? {
        return Err(io::Error::other("another process uses it"));
    }
    let aside = root.join("tmp");
    fs::create_dir_all(&aside)?;
    for entry in fs::read_dir(&aside)? {
        let _ = fs::remove_file(entry?.path()); // of a file system that is read-only, what is stored can still be used
    }
    let metadata = fs::metadata(root)?;
    Ok(Opened { lock: Arc::new(lock), device: metadata.dev(), inode: metadata.ino() })
}

/// Whether files can be written, read and removed.
fn probe(root: &Path) -> io::Result<()> {
    let path = root.join("tmp").join("probe");
    fs::create_dir_all(root.join("tmp"))?;
    let text = [7; 4096];
    fs::write(&path, text)?;
    let read = fs::read(&path)?;
    fs::remove_file(&path)?;
    if read == text { Ok(()) } else { Err(io::Error::other("it does not keep what is written")) }
}
