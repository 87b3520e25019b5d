//! Freeing the places of what is out of use, and heeding what the journal has of that.

use std::fs;
use std::sync::atomic::Ordering;

use crate::cache::durable::if_there;

use super::super::health::{Operation, State};
use super::super::id::FileId;
use super::super::journal::Doom;
use super::super::pool::Pace;
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

    /// Frees the place of a file that is not in the index; whether that is done.
    pub fn unlink(&self, id: FileId) -> bool {
        let _stripe = self.stripe(id);
        if self.has_ended() {
            return false; // it is another process's by now
        }
        // It may have been written anew since.
        if self.files.lock().index.get(id).is_none()
            && let Err(error) = if_there(fs::remove_file(id.path(&self.root)))
        {
            self.fault(Operation::Write, &error);
            self.files.lock().doomed.insert(id);
            return false;
        }
        self.files.lock().doomed.remove(&id);
        true
    }

    /// Takes over what is noted as not to be used again.
    pub fn heed_journal(&self) {
        for (doom, _) in self.shared.journal.of(&self.root) {
            match doom {
                Doom::File(id) => self.files.remove(id),
                Doom::Key(key) => drop(self.files.remove_key(key)),
                Doom::All => self.files.doubt_all(),
            }
        }
    }

    /// What is noted in the journal after `number` is not for this process's use of the directory.
    pub fn heed_no_later(&self, number: u64) {
        self.noted_until.store(number, Ordering::Release);
    }

    /// Has the journal forget what is gone for good. Waits for the disk.
    pub fn settle_journal(&self) {
        // Only where all that is there is known, nothing else is left of what was noted.
        if !self.files.scan.is_done() || self.health.state() != State::InService {
            return;
        }
        // `All` was heeded only if nothing was believed: else it was noted while the directory was not in use.
        let (until, heeded) = (self.noted_until.load(Ordering::Acquire), self.files.before.is_doubted());
        let mut noted = self.shared.journal.of(&self.root);
        noted.retain(|(doom, number)| *number <= until && (heeded || *doom != Doom::All));
        if noted.is_empty() || !self.free_doomed(|| {}) {
            return;
        }
        match self.sync() {
            Ok(()) => {
                if noted.iter().any(|(doom, _)| *doom == Doom::All) {
                    self.files.before.doubt_no_longer();
                }
                self.shared.journal.forget(&self.root, &noted);
            }
            Err(error) => drop(self.fault(Operation::Write, &error)),
        }
    }
}
