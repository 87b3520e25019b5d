//! What is out of use: taking it out, freeing its place, noting it where that has to outlast the process; and what is
//! believed of what is left.

use std::sync::atomic::Ordering;

use crate::cache::purge::PurgeSeq;

use super::super::health::{Operation, State};
use super::super::id::{FileId, KeyHash};
use super::super::index::{Entry, Index};
use super::super::journal::Doom;
use super::super::running::Pace;
use super::super::stamp::Trust;
use super::Volume;

impl Volume {
    /// Frees the places of all that is doomed now, at a bounded rate; whether that is done. `step` is told of each.
    pub fn free_doomed(&self, step: impl Fn()) -> bool {
        let doomed: Vec<FileId> = self.files.lock().doomed.iter().copied().collect();
        let mut pace = Pace::new();
        doomed.into_iter().all(|id| {
            pace.keep();
            step();
            self.unlink(id)
        })
    }

    /// Waits until the disk has all that was written and removed.
    pub fn sync(&self) -> std::io::Result<()> {
        let held = self.lock.lock().clone();
        let held = held.ok_or_else(|| std::io::Error::other("it is not open"))?;
        rustix::fs::syncfs(&held).map_err(Into::into)
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

    /// What was there is gone, or not to be trusted: it is looked for anew.
    pub fn forget_all(&self) {
        let mut files = self.files.lock();
        self.before.up_to.fetch_max(self.before.written.load(Ordering::Acquire), Ordering::AcqRel);
        // First: nobody is to take an empty index for all there is.
        self.scan.restart();
        // What was replaced or removed while it was away stays doomed.
        files.index = Index::new();
    }

    /// Nothing is believed any more of what was there before.
    pub fn doubt(&self, why: &str) {
        tracing::warn!(path = %self.root.display(), "what is in the disk cache from before is not used: {why}");
        self.before.doubted.store(true, Ordering::Release);
        self.terms.journal.note(&self.root, [Doom::All]);
    }

    /// Up to which purges are forgotten.
    pub fn retired(&self) -> PurgeSeq {
        PurgeSeq(self.terms.retired.load(Ordering::Acquire))
    }

    /// What is to be believed of a file. `known`: what the index has of it.
    pub fn trust(&self, known: Option<&Entry>) -> Trust {
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
    pub fn believe(&self, entry: Entry) -> Entry {
        entry.having_survived(PurgeSeq(self.before.survived.load(Ordering::Acquire)))
    }

    /// Numbers up to this are in the directory since this process uses it.
    pub fn wrote(&self, seq: PurgeSeq) {
        self.before.written.fetch_max(seq.0, Ordering::AcqRel);
    }

    /// Takes over what is noted as not to be used again.
    pub fn heed_journal(&self) {
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
    pub fn is_doubted(&self) -> bool {
        self.before.doubted.load(Ordering::Acquire)
    }

    /// What is noted in the journal after `number` is not for this process's use of the directory.
    pub fn heed_no_later(&self, number: u64) {
        self.noted_until.store(number, Ordering::Release);
    }

    /// Has the journal forget what is gone for good. Waits for the disk.
    pub fn settle_journal(&self) {
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

    /// Notes that files have survived all purges up to `seq`, as far as they are those that were judged.
    pub fn survived(&self, judged: &[Entry], seq: PurgeSeq) {
        let mut files = self.files.lock();
        judged.iter().for_each(|entry| files.index.survived_unless_changed(entry, seq));
    }
}
