//! Freeing what purges have killed, and noting what has survived them, so that they can be forgotten.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::super::object::Object;
use super::super::super::purge::{Freed, PurgeSeq, Purges, Standing};
use super::super::super::trouble::Trouble;
use super::DiskTier;
use super::file::{self, Patience, Rewritten};
use super::filter::Suspects;
use super::format::{Corrupt, Meta};
use super::health::{Operation, State};
use super::id::FileId;
use super::index::Entry;
use super::restore;
use super::running::{Pace, Progress, Running, STEP, Work};
use super::stamp;
use super::volume::Volume;

/// How long syncing may take, which waits for all that was written lately.
const SYNC_PATIENCE: Duration = Duration::from_secs(600);
const SWEEP: Work =
    Work { name: "disk-sweep", what: "the sweep of the disk cache", patience: 15, busy: |volume| &volume.sweeping };

/// What a sweep did.
#[derive(Default)]
pub struct DiskSwept {
    pub objects: u64,
    pub bytes: u64,
    /// By the purge that had killed it.
    pub freed: Freed,
    /// The oldest purge sequence of what is left in the directories that were swept.
    pub oldest: PurgeSeq,
    /// Directories that could not be swept, or not wholly.
    pub unswept: Vec<PathBuf>,
    /// Of some it is not known yet what is in them: they are swept when it is.
    pub scanning: bool,
}

/// What a sweep is for: the same for all directories.
struct Task {
    purges: Arc<Purges>,
    suspects: Suspects,
    current: PurgeSeq,
    /// Up to which purges a restart knows of.
    durable: PurgeSeq,
}

/// What was done in one directory.
struct Swept {
    objects: u64,
    bytes: u64,
    freed: Freed,
    oldest: PurgeSeq,
    /// Nothing that is dead is left, also should the node be killed or the power fail now.
    for_good: bool,
}

impl DiskTier {
    /// Takes as long as it takes: call it where blocking is allowed.
    pub fn sweep(&self, purges: &Arc<Purges>) -> DiskSwept {
        let (current, in_force) = (purges.current(), purges.in_force());
        let suspects = Suspects::of(in_force.iter().map(|(target, seq)| (target, *seq)));
        let task = Arc::new(Task { purges: purges.clone(), suspects, current, durable: purges.durable() });
        let mut swept = DiskSwept { oldest: PurgeSeq(u64::MAX), ..DiskSwept::default() };
        let volumes = self.volumes.load_full();
        let scanning: Vec<bool> = volumes.iter().map(|volume| volume.is_scanning()).collect();
        // Each by itself: one that hangs holds up no other.
        let begin = |volume| {
            let task = task.clone();
            Running::begin(volume, &SWEEP, move |volume, progress| sweep(volume, &task, progress))
        };
        let running: Vec<Option<Running<Swept>>> = volumes.iter().map(begin).collect();
        for ((volume, running), was_scanning) in volumes.iter().zip(running).zip(scanning) {
            let one = running.and_then(|running| running.end(volume));
            match one.is_some_and(|one| swept.add(one)) {
                true => {}
                // If it was, it may just have come to its end.
                false if volume.is_scanning() || was_scanning && volume.is_whole().is_some() => swept.scanning = true,
                false => swept.unswept.push(volume.root.clone()),
            }
        }
        // What was read before is not to be promoted any more.
        self.note_removal();
        swept
    }
}

impl DiskSwept {
    /// Whether it was swept for good.
    fn add(&mut self, one: Swept) -> bool {
        self.objects += one.objects;
        self.bytes += one.bytes;
        for (seq, (objects, bytes)) in one.freed {
            let total = self.freed.entry(seq).or_default();
            *total = (total.0 + objects, total.1 + bytes);
        }
        if one.for_good {
            self.oldest = self.oldest.min(one.oldest);
        }
        one.for_good
    }
}

fn sweep(volume: &Volume, task: &Task, progress: &Progress) -> Swept {
    let mut swept = Swept { objects: 0, bytes: 0, freed: Freed::new(), oldest: PurgeSeq(u64::MAX), for_good: false };
    let before = volume.files.lock().oldest_write();
    let began = volume.is_whole();
    walk(volume, task, progress, &mut swept);
    let all_is_known = began.is_some() && began == volume.is_whole();
    swept.for_good =
        all_is_known && is_done_for_good(volume, swept.oldest.min(task.current).min(task.durable), progress);
    // What is written names no purge that a restart does not know of: none of those may be forgotten either.
    swept.oldest = swept.oldest.min(before.unwrap_or(swept.oldest)).min(task.durable);
    swept
}

fn walk(volume: &Volume, task: &Task, progress: &Progress, swept: &mut Swept) {
    let (mut pace, mut from) = (Pace::new(), Some(0));
    while let Some(place) = from {
        let (entries, next) = volume.files.lock().index.walk(place, STEP);
        from = next;
        progress.step();
        // What is of the current purge has survived them all, or began after them.
        let older = entries.into_iter().filter(|entry| entry.seq < task.current);
        let (suspected, survivors): (Vec<Entry>, Vec<Entry>) =
            older.partition(|entry| entry.seq < volume.retired() || task.suspects.may_hit(entry.filter, entry.seq));
        volume.survived(&survivors, task.current);
        for entry in suspected {
            pace.keep();
            progress.step();
            match look_at(volume, &task.purges, entry.id) {
                Verdict::Dead(killer) => {
                    volume.remove(entry.id);
                    swept.objects += 1;
                    swept.bytes += entry.size();
                    let (objects, bytes) = swept.freed.entry(killer.unwrap_or_default()).or_default();
                    (*objects, *bytes) = (*objects + 1, *bytes + entry.size());
                }
                Verdict::Survived => {}
                Verdict::Unknown => swept.oldest = swept.oldest.min(entry.seq),
            }
        }
    }
}

/// Whether nothing that is dead is left, whatever happens now; notes that in the directory.
fn is_done_for_good(volume: &Volume, swept: PurgeSeq, progress: &Progress) -> bool {
    // What is doomed from now on had survived, or is of a write that the sweep knows of.
    if !volume.free_doomed(|| progress.step()) {
        return false;
    }
    // What was removed or changed must not come back when the power fails, for the purges will be forgotten.
    progress.allow(SYNC_PATIENCE);
    match volume.sync().and_then(|()| stamp::write(&volume.root, volume.terms.log, swept)) {
        Ok(()) => {
            volume.wrote(swept);
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

fn look_at(volume: &Volume, purges: &Purges, id: FileId) -> Verdict {
    // Nobody puts another file in its place meanwhile: what the index knows is of this one.
    let _stripe = volume.stripe(id);
    let Some(entry) = volume.files.lock().index.get(id) else { return Verdict::Survived };
    let path = id.path(&volume.root);
    let record = match file::read(&path, volume.trust(Some(&entry)), 0, Patience::Disk) {
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
    let Ok(object) = headed(&record) else { return Verdict::Dead(None) };
    object.survived(entry.seq, None);
    match object.standing(purges) {
        Standing::Dead => return Verdict::Dead(purges.killer(&object.identity())),
        Standing::Live => {}
        Standing::SoftPurged { .. } if record.header.soft_purged == object.soft_purged() => {}
        // It has to outlive the purge's record.
        Standing::SoftPurged { .. } => {
            let Some((header, meta)) = volume.head_of(&object) else { return Verdict::Dead(None) };
            let header = super::format::Header { body: record.header.body, ..header };
            match file::rewrite_head(&path, None, &header, &meta) {
                Ok(Rewritten::Done) => volume.wrote(header.seq),
                Ok(Rewritten::NoRoom | Rewritten::Another) => return Verdict::Dead(None),
                Err(_) => return Verdict::Unknown,
            }
        }
    }
    volume.files.lock().index.survived(id, object.checked());
    Verdict::Survived
}

/// The object of a file, without its body.
pub fn headed(record: &file::Record) -> Result<Object, Corrupt> {
    let meta = Meta::decode(&record.meta)?;
    restore::object(&record.header, &meta, bytes::Bytes::new().into())
}
