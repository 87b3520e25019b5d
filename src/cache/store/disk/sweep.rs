//! Freeing what purges have killed, and noting what has survived them, so that they can be forgotten.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::purge::{Freed, PurgeSeq, Standing, add_freed};
use crate::cache::trouble::Trouble;

use super::DiskTier;
use super::file::{self, Patience, Rewritten};
use super::filter::Suspects;
use super::format::Header;
use super::health::{Operation, State};
use super::id::FileId;
use super::index::Entry;
use super::pool::Pace;
use super::restore;
use super::running::{Progress, Work, on_each};
use super::trust;
use super::volume::Volume;

/// How long syncing may take, which waits for all that was written lately.
const SYNC_PATIENCE: Duration = Duration::from_secs(600);
const SWEEP: Work =
    Work { name: "disk-sweep", what: "the sweep of the disk cache", patience: 15, busy: |volume| &volume.sweeping };

/// What a sweep did.
pub struct DiskSwept {
    /// The oldest purge sequence of what is left in the directories that were swept.
    pub oldest: PurgeSeq,
    /// Directories that could not be swept, or not wholly.
    pub unswept: Vec<PathBuf>,
    /// Of some it is not known yet what is in them: they are swept when it is.
    pub scanning: bool,
}

/// What a sweep is for: the same for all directories.
struct Task {
    suspects: Suspects,
    current: PurgeSeq,
    /// Up to which purges a restart knows of.
    durable: PurgeSeq,
}

/// What was done in one directory.
struct Swept {
    freed: Freed,
    oldest: PurgeSeq,
    /// Nothing that is dead is left, also should the node be killed or the power fail now.
    for_good: bool,
}

impl DiskTier {
    /// Takes as long as it takes: call it where blocking is allowed. `freed` gets what is freed.
    pub fn sweep(&self, freed: &mut Freed) -> DiskSwept {
        let purges = &self.shared.purges;
        let (current, in_force) = (purges.current(), purges.in_force());
        let suspects = Suspects::of(in_force.iter().map(|(target, seq)| (target, *seq)));
        let task = Arc::new(Task { suspects, current, durable: purges.durable() });
        let mut swept = DiskSwept { oldest: PurgeSeq(u64::MAX), unswept: Vec::new(), scanning: false };
        let volumes = self.volumes.load_full();
        let scanning: Vec<bool> = volumes.iter().map(|volume| volume.is_scanning()).collect();
        let each = on_each(&volumes, &SWEEP, move |volume, progress| sweep(volume, &task, progress));
        for ((volume, one), was_scanning) in each.zip(scanning) {
            let one = one.inspect(|one| one.freed.iter().for_each(|(seq, more)| add_freed(freed, *seq, *more)));
            match one.filter(|one| one.for_good) {
                Some(one) => swept.oldest = swept.oldest.min(one.oldest),
                // If it was, it may just have come to its end.
                None if volume.is_scanning() || was_scanning && volume.is_whole().is_some() => swept.scanning = true,
                None => swept.unswept.push(volume.root.clone()),
            }
        }
        // What was read before is not to be promoted any more.
        self.note_removal();
        swept
    }
}

fn sweep(volume: &Volume, task: &Task, progress: &Progress) -> Swept {
    let before = volume.files.lock().oldest_write();
    let began = volume.is_whole();
    let (freed, oldest) = walk(volume, task, progress);
    let all_is_known = began.is_some() && began == volume.is_whole();
    let for_good = all_is_known && is_done_for_good(volume, oldest.min(task.current).min(task.durable), progress);
    // What is written names no purge that a restart does not know of: none of those may be forgotten either.
    let oldest = oldest.min(before.unwrap_or(oldest)).min(task.durable);
    Swept { freed, oldest, for_good }
}

/// Frees what is dead. Gives what that was, and the oldest purge sequence of what could not be judged.
fn walk(volume: &Volume, task: &Task, progress: &Progress) -> (Freed, PurgeSeq) {
    let (mut freed, mut oldest, mut pace) = (Freed::new(), PurgeSeq(u64::MAX), Pace::new());
    for entries in volume.files.walk() {
        progress.step();
        // What is of the current purge has survived them all, or began after them.
        let older = entries.into_iter().filter(|entry| entry.seq < task.current);
        let retired = volume.shared.purges.retired();
        let (suspected, survivors): (Vec<Entry>, Vec<Entry>) =
            older.partition(|entry| entry.seq < retired || task.suspects.may_hit(entry.filter, entry.seq));
        volume.files.survived(&survivors, task.current);
        for entry in suspected {
            pace.keep();
            progress.step();
            match look_at(volume, entry.id) {
                Verdict::Dead(killer) => {
                    volume.files.remove(entry.id);
                    add_freed(&mut freed, killer.unwrap_or_default(), (1, entry.size()));
                }
                Verdict::Survived => {}
                Verdict::Unknown => oldest = oldest.min(entry.seq),
            }
        }
    }
    (freed, oldest)
}

/// Whether nothing that is dead is left, whatever happens now; notes that in the directory.
fn is_done_for_good(volume: &Volume, swept: PurgeSeq, progress: &Progress) -> bool {
    // What is doomed from now on had survived, or is of a write that the sweep knows of.
    if !volume.free_doomed(|| progress.step()) {
        return false;
    }
    // What was removed or changed must not come back when the power fails, for the purges will be forgotten.
    progress.allow(SYNC_PATIENCE);
    match volume.sync().and_then(|()| trust::write_swept(&volume.root, volume.shared.purges.log_id(), swept)) {
        Ok(()) => {
            volume.files.before.wrote(swept);
            true
        }
        Err(error) => {
            volume.fault(Operation::Write, &error);
            false
        }
    }
}

enum Verdict {
    /// By which purge, if it was one.
    Dead(Option<PurgeSeq>),
    Survived,
    /// It could not be read now.
    Unknown,
}

fn look_at(volume: &Volume, id: FileId) -> Verdict {
    let purges = &volume.shared.purges;
    // Nobody puts another file in its place meanwhile: what the index knows is of this one.
    let _stripe = volume.stripe(id);
    let Some(entry) = volume.files.lock().index.get(id) else { return Verdict::Survived };
    let path = id.path(&volume.root);
    let record = match file::read(&path, volume.files.before.trust(Some(&entry)), 0, Patience::Disk) {
        Ok(record) => record,
        Err(error) if error.is_missing() => return Verdict::Dead(None),
        Err(error) => {
            // What cannot be read cannot be judged, and is of no use. A disk that fails altogether is told by that.
            return match volume.unreadable(id, &error) {
                Trouble::NoDescriptors => Verdict::Unknown,
                _ if volume.health.state() != State::InService => Verdict::Unknown,
                _ => Verdict::Dead(None),
            };
        }
    };
    let Ok(object) = restore::head(&record) else { return Verdict::Dead(None) };
    object.survived(entry.seq, None);
    match object.standing(purges) {
        Standing::Dead => return Verdict::Dead(purges.killer(&object.identity())),
        Standing::Live => {}
        Standing::SoftPurged { .. } if record.header.soft_purged == object.soft_purged() => {}
        // It has to outlive the purge's record.
        Standing::SoftPurged { .. } => {
            let Some((header, meta)) = volume.head_of(&object) else { return Verdict::Dead(None) };
            let header = Header { body: record.header.body, ..header };
            match file::rewrite_head(&path, None, &header, &meta) {
                Ok(Rewritten::Done) => volume.files.before.wrote(header.seq),
                Ok(Rewritten::NoRoom | Rewritten::Another) => return Verdict::Dead(None),
                Err(_) => return Verdict::Unknown,
            }
        }
    }
    volume.files.lock().index.survived(id, object.checked());
    Verdict::Survived
}
