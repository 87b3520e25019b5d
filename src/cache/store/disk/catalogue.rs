//! What is known of one directory: its files, how far the search for them has come, and what is believed of those that were
//! there before this process was. Nothing here waits for the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::purge::PurgeSeq;

use super::id::{FAN_OUT, FileId, KeyHash};
use super::index::{Entry, Index};
use super::journal::Doom;
use super::saved_index::Saved;
use super::trust::{Before, Trust};

/// Entries that are taken over or gone through under one lock: whoever asks for something needs the same.
const AT_ONCE: usize = 1024;

pub struct Catalogue {
    files: Mutex<Files>,
    pub scan: Scan,
    pub before: Before,
    /// Wakes who frees what is doomed.
    pub chores: Condvar,
}

/// What is known of the files. Under one lock, so that what one part says holds for the others.
#[derive(Default)]
pub struct Files {
    pub index: Index,
    /// Files that are being written; of several of a name the one that counts.
    writing: BTreeMap<FileId, Writing>,
    /// Bodies that are being written as they come, by number.
    pub spooling: HashMap<u64, Spooling>,
    /// Files that are to be removed, and until then not to be found.
    pub doomed: BTreeSet<FileId>,
    /// Keys that were invalidated before the scan came to them.
    forgotten: HashSet<KeyHash>,
    next_write: u64,
}

/// A file that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    pub id: FileId,
    /// A later write of the same file has a higher one.
    number: u64,
}

struct Writing {
    number: u64,
    seq: PurgeSeq,
}

/// A body that is being written as it comes.
#[derive(Debug, Clone, Copy)]
pub struct Spooling {
    pub id: FileId,
    pub seq: PurgeSeq,
    /// It was made out of date meanwhile: it is not to be put in its place.
    pub spoilt: bool,
}

/// How far finding out what is there has come.
#[derive(Default)]
pub struct Scan {
    done: AtomicBool,
    /// Directories that were looked through.
    pub directories: AtomicU32,
    pub files: AtomicU64,
    /// Files that were of no use.
    pub removed: AtomicU64,
    times: AtomicU64,
}

impl Catalogue {
    pub fn new(before: Before) -> Self {
        Catalogue { files: Mutex::default(), scan: Scan::default(), before, chores: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock()
    }

    /// Whether there may be a file of a key.
    pub fn may_have(&self, key: KeyHash) -> bool {
        !self.scan.is_done() || !self.lock().index.variants(key).is_empty()
    }

    /// All files, some at a time. What is entered or removed meanwhile may or may not be among them.
    pub fn walk(&self) -> impl Iterator<Item = Vec<Entry>> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let entries;
            (entries, next) = self.lock().index.walk(next?, AT_ONCE);
            Some(entries)
        })
    }

    /// What is stored under a name is out of date from now on.
    pub fn begin_write(&self, id: FileId, seq: PurgeSeq) -> Write {
        self.begin(&mut self.lock(), id, seq)
    }

    /// The same for a body that was written as it came. Out of date already, it has a number that never counts.
    pub fn begin_spooled(&self, spool: u64, id: FileId, seq: PurgeSeq) -> Write {
        let mut files = self.lock();
        match files.spooling.get(&spool) {
            Some(spooling) if !spooling.spoilt => self.begin(&mut files, id, seq),
            _ => Write { id, number: 0 },
        }
    }

    fn begin(&self, files: &mut Files, id: FileId, seq: PurgeSeq) -> Write {
        let outdated = files.index.remove(id).is_some() || !self.scan.is_done();
        if outdated {
            files.doomed.insert(id);
        }
        files.next_write += 1;
        let number = files.next_write;
        files.writing.insert(id, Writing { number, seq });
        Write { id, number }
    }

    pub fn abandon(&self, write: Write) {
        let mut files = self.lock();
        if files.is_current(write) {
            files.writing.remove(&write.id);
        }
        self.wake_for(&files);
    }

    /// Enters what was written and is in its place, unless it is out of date by now.
    pub fn written(&self, write: Write, entry: Entry, max_variants: usize) {
        self.before.wrote(entry.seq);
        let mut files = self.lock();
        if !files.is_current(write) {
            files.doomed.insert(write.id);
            return;
        }
        // What is written may say less than is known.
        let survived = files.writing.remove(&write.id).map_or(entry.seq, |writing| writing.seq);
        files.doomed.remove(&write.id);
        files.index.insert(entry.having_survived(survived));
        files.displace_variants(write.id, max_variants);
        self.wake_for(&files);
    }

    fn wake_for(&self, files: &Files) {
        if !files.doomed.is_empty() {
            self.chores.notify_all();
        }
    }

    /// Has a body that is being written as it comes not be put in its place.
    pub fn spoil(&self, spool: u64) {
        if let Some(spooling) = self.lock().spooling.get_mut(&spool) {
            spooling.spoilt = true;
        }
    }

    /// Takes a file out. It is not found any more; its place is freed in the background.
    pub fn remove(&self, id: FileId) {
        self.lock().remove(id);
        self.chores.notify_all();
    }

    /// The same, if it is there or may be; whether that is so.
    pub fn take_out(&self, id: FileId) -> bool {
        let mut files = self.lock();
        let is_coming = !files.spoil(|other| other == id).is_empty() || files.writing.contains_key(&id);
        let is_known = is_coming || files.index.get(id).is_some() || files.doomed.contains(&id);
        let may_be_there = is_known || !self.scan.is_done();
        if may_be_there {
            files.remove(id);
            self.chores.notify_all();
        }
        may_be_there
    }

    /// Takes all variants of a key out. Says which may be there still.
    pub fn remove_key(&self, key: KeyHash) -> Vec<Doom> {
        let mut files = self.lock();
        // What is on its way is older than whatever takes it out.
        let mut ids = files.spoil(|id| id.key == key);
        ids.extend(files.index.variants(key).iter().map(|entry| entry.id));
        ids.extend(files.writing.range(FileId::all_of(key)).map(|(id, _)| *id));
        ids.extend(files.doomed.range(FileId::all_of(key)));
        let all_are_known = self.scan.is_done();
        if !all_are_known {
            files.forgotten.insert(key); // what the scan has yet to find is not to come back
        }
        ids.iter().for_each(|id| files.remove(*id));
        self.wake_for(&files);
        if all_are_known { ids.into_iter().map(Doom::File).collect() } else { vec![Doom::Key(key)] }
    }

    /// What was there is gone, or not to be trusted: it is looked for anew.
    pub fn forget_all(&self) {
        let mut files = self.lock();
        self.before.includes_what_was_written();
        // First: nobody is to take an empty index for all there is.
        self.scan.restart();
        // What was replaced or removed while it was away stays doomed.
        files.index = Index::default();
    }

    /// Takes over what the last process knew of the directory. Gives how many files are out of date.
    pub fn restore(&self, saved: Saved) -> usize {
        let mut outdated = 0;
        for entries in saved.entries.chunks(AT_ONCE) {
            let mut files = self.lock();
            for entry in entries.iter().map(|entry| self.before.believe(*entry)) {
                let Trust { retired, up_to, .. } = self.before.trust(None);
                // What was written or removed since the start is newer.
                let is_outdated = !(retired..=up_to).contains(&entry.seq) || files.is_forgotten(entry.id.key);
                if is_outdated && files.index.get(entry.id).is_none() {
                    outdated += usize::from(files.doomed.insert(entry.id));
                } else if !is_outdated && !files.doomed.contains(&entry.id) {
                    files.index.insert_oldest(entry);
                }
            }
        }
        self.lock().doomed.extend(saved.doomed);
        self.all_is_known();
        outdated
    }

    /// The scan has come to its end.
    pub fn all_is_known(&self) {
        let mut files = self.lock();
        self.scan.done.store(true, Ordering::Release);
        files.forgotten = HashSet::new();
    }

    /// Nothing is believed any more of what was there before, also of what was believed so far.
    pub fn doubt_all(&self) {
        let mut files = self.lock();
        self.before.doubt();
        let believed: Vec<FileId> = files.index.by_use().map(|entry| entry.id).collect();
        files.index = Index::default();
        files.doomed.extend(believed);
    }

    /// Notes that files have survived all purges up to `seq`, as far as they are those that were judged.
    pub fn survived(&self, judged: &[Entry], seq: PurgeSeq) {
        let mut files = self.lock();
        judged.iter().for_each(|entry| files.index.survived_unless_changed(entry, seq));
    }
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

    fn remove(&mut self, id: FileId) {
        self.index.remove(id);
        self.writing.remove(&id);
        self.doomed.insert(id);
    }

    pub fn is_current(&self, write: Write) -> bool {
        self.writing.get(&write.id).is_some_and(|writing| writing.number == write.number)
    }

    pub fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// The oldest purge sequence of what is not yet in the index.
    pub fn oldest_write(&self) -> Option<PurgeSeq> {
        self.writing.values().map(|write| write.seq).chain(self.spooling.values().map(|spooling| spooling.seq)).min()
    }

    /// Whether a key was invalidated before the scan came to it.
    pub fn is_forgotten(&self, key: KeyHash) -> bool {
        self.forgotten.contains(&key)
    }

    /// Makes room among the variants of a key, at the expense of those whose fill began first.
    fn displace_variants(&mut self, id: FileId, most: usize) {
        let mut variants = self.index.variants(id.key);
        variants.sort_by_key(|entry| (entry.id == id, entry.seq));
        for entry in variants.iter().take(variants.len().saturating_sub(most)) {
            self.index.remove(entry.id);
            self.doomed.insert(entry.id);
        }
    }
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

    /// How often it was begun.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Acquire)
    }

    /// What is on the disk is not known any more.
    fn restart(&self) {
        self.times.fetch_add(1, Ordering::AcqRel);
        self.done.store(false, Ordering::Release);
        self.directories.store(0, Ordering::Relaxed);
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
