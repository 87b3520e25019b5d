//! Finding out at the start what is on a disk. The node serves meanwhile.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::super::trouble::Trouble;
use super::file::{self, Patience, ReadError};
use super::id::{FAN_OUT, FileId, KeyHash, directory_name};
use super::index::Entry;
use super::volume::Volume;

/// How far a scan has come.
#[derive(Default)]
pub struct Scan {
    done: AtomicBool,
    directories: AtomicU32,
    files: AtomicU64,
    removed: AtomicU64,
    /// How often it was begun.
    times: AtomicU64,
    /// Keys that were invalidated before the scan came to them.
    forgotten: Mutex<HashSet<KeyHash>>,
}

impl Scan {
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Per cent of the directories.
    pub fn percent(&self) -> u32 {
        if self.is_done() { 100 } else { self.directories.load(Ordering::Relaxed) * 100 / FAN_OUT }
    }

    /// Files found, and files that were of no use.
    pub fn found(&self) -> (u64, u64) {
        (self.files.load(Ordering::Relaxed), self.removed.load(Ordering::Relaxed))
    }

    /// What is stored of a key so far is out of date.
    pub fn forget(&self, key: KeyHash) {
        let mut forgotten = self.forgotten.lock();
        if !self.is_done() {
            forgotten.insert(key);
        }
    }

    pub fn is_forgotten(&self, key: KeyHash) -> bool {
        self.forgotten.lock().contains(&key)
    }

    /// How often it was begun.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Acquire)
    }

    /// What is on the disk is not known any more.
    pub fn restart(&self) {
        self.times.fetch_add(1, Ordering::AcqRel);
        self.done.store(false, Ordering::Release);
        self.directories.store(0, Ordering::Relaxed);
    }

    pub fn finish(&self) {
        let mut forgotten = self.forgotten.lock();
        self.done.store(true, Ordering::Release);
        *forgotten = HashSet::new();
    }
}

/// Enters all files of a volume into its index, as those used least; removes what is of no use.
pub fn run(volume: &Volume) -> io::Result<()> {
    for directory in 0..FAN_OUT {
        if volume.is_closed() {
            return Ok(());
        }
        for name in names(&volume.root.join(directory_name(directory)))? {
            match FileId::parse(&name) {
                Some(id) if id.key.directory() == directory => enter(volume, id)?,
                // Somebody else's; not ours to remove.
                _ => {
                    tracing::warn!(directory = %volume.root.display(), name, "there is a foreign file in the disk cache")
                }
            }
        }
        volume.scan.directories.store(directory + 1, Ordering::Relaxed);
    }
    volume.scan.finish();
    Ok(())
}

fn enter(volume: &Volume, id: FileId) -> io::Result<()> {
    if volume.files.lock().index.get(id).is_some() {
        return Ok(());
    }
    let path = id.path(&volume.root);
    let header = file::open(&path, Patience::Disk)
        .map_err(ReadError::from)
        .and_then(|file| file::read_header(&file, volume.trust(None), Patience::Disk));
    match header {
        Ok(header) => {
            let mut files = volume.files.lock();
            let is_outdated = volume.scan.is_forgotten(id.key) || volume.is_doubted();
            if is_outdated && files.index.get(id).is_none() {
                files.doomed.insert(id);
            } else if !files.doomed.contains(&id) {
                let entry = Entry::new(id, header.file_length(), header.seq, header.filter);
                files.index.insert_oldest(volume.believe(entry));
                volume.scan.files.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
        Err(error) if error.is_missing() => Ok(()),
        // Without descriptors no file could be read; it is tried again.
        Err(ReadError::Io(error)) if Trouble::of(&error) == Trouble::NoDescriptors => Err(error),
        // One that cannot be read must not keep the others from being known.
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "a file of the disk cache is of no use and is removed");
            volume.scan.removed.fetch_add(1, Ordering::Relaxed);
            let mut files = volume.files.lock();
            if files.index.get(id).is_none() {
                files.doomed.insert(id); // else it was written anew meanwhile
            }
            Ok(())
        }
    }
}

/// The files of a key, whether or not they are in the index yet.
pub fn names_of(root: &Path, key: KeyHash) -> Vec<FileId> {
    let names = names(&root.join(directory_name(key.directory()))).unwrap_or_default();
    names.iter().filter_map(|name| FileId::parse(name)).filter(|id| id.key == key).collect()
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
