//! Freeing what purges have killed, and noting what has survived them, so that they can be forgotten.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::super::object::Object;
use super::super::super::purge::{Freed, PurgeSeq, Purges, Standing, Target, Trial};
use super::super::super::trouble::Trouble;
use super::DiskTier;
use super::file::{self, Patience, Rewritten};
use super::filter::Suspect;
use super::format::{Corrupt, Meta};
use super::health::{Operation, State};
use super::index::Entry;
use super::restore;
use super::stamp;
use super::volume::Volume;
use super::warden::pause;

/// Entries that are looked at under one lock.
const STEP: usize = 1024;
/// Files that are opened in a second, at most: the disk has other things to do.
const MOST_OPENED: u32 = 10_000;

/// What a sweep did.
#[derive(Default)]
pub struct DiskSwept {
    pub objects: u64,
    pub bytes: u64,
    /// By the purge that had killed it.
    pub freed: Freed,
    /// The oldest purge sequence of what is left in the directories that were swept.
    pub oldest: PurgeSeq,
    /// Those that could not be swept, or not wholly.
    pub unswept: Vec<Arc<Volume>>,
}

/// Purges of which each hits what looks like it, if it is older.
type Suspects = Vec<(Suspect, PurgeSeq)>;

impl DiskTier {
    /// Takes as long as it takes: call it where blocking is allowed.
    pub fn sweep(&self, purges: &Purges) -> DiskSwept {
        let current = purges.current();
        let suspects = suspects(purges.in_force());
        let mut swept = DiskSwept { oldest: PurgeSeq(u64::MAX), ..DiskSwept::default() };
        for volume in self.volumes.load_full().iter() {
            let before = volume.files.lock().oldest_write();
            let began = volume.is_whole();
            let oldest = sweep(volume, purges, &suspects, current, &mut swept);
            // What was read before is not to be promoted any more.
            self.note_removal();
            if began.is_none() || began != volume.is_whole() || !swept_for_good(volume, oldest, current) {
                swept.unswept.push(volume.clone());
                continue;
            }
            swept.oldest = swept.oldest.min(before.unwrap_or(oldest)).min(oldest);
        }
        swept
    }

    /// Purges before `from` are forgotten without these having been swept for them.
    pub fn distrust(&self, unswept: &[Arc<Volume>], from: PurgeSeq) {
        unswept.iter().for_each(|volume| volume.distrust(from));
    }
}

/// Whether nothing that is dead is left, also should the node be killed now; notes it in the directory.
fn swept_for_good(volume: &Volume, oldest: PurgeSeq, current: PurgeSeq) -> bool {
    if !volume.files.lock().doomed.is_empty() {
        return false; // not unlinked yet: the next sweep sees to it
    }
    match stamp::write(&volume.root, volume.terms.log, oldest.min(current)) {
        Ok(()) => true,
        Err(error) => {
            volume.fault(Operation::Write, &error);
            false
        }
    }
}

/// Many purges may look alike; of those only the newest counts.
fn suspects(in_force: Vec<(Target, PurgeSeq)>) -> Suspects {
    let mut newest = std::collections::HashMap::new();
    for (target, seq) in in_force {
        let known = newest.entry(Suspect::of(&target)).or_insert(seq);
        *known = seq.max(*known);
    }
    newest.into_iter().collect()
}

fn sweep(volume: &Volume, purges: &Purges, suspects: &Suspects, current: PurgeSeq, swept: &mut DiskSwept) -> PurgeSeq {
    let mut oldest = PurgeSeq(u64::MAX);
    let mut pace = Pace { since: Instant::now(), opened: 0 };
    let mut from = Some(0);
    while let Some(place) = from {
        let (entries, next) = volume.files.lock().index.walk(place, STEP);
        from = next;
        for entry in entries {
            if entry.seq >= current {
                continue; // it survived them all, or began after them
            }
            let suspected = |(suspect, seq): &(Suspect, PurgeSeq)| *seq > entry.seq && entry.filter.is(suspect);
            if !suspects.iter().any(suspected) {
                volume.survived(entry.id, current);
                continue;
            }
            pace.keep();
            match look_at(volume, purges, &entry) {
                Verdict::Dead(killer) => {
                    volume.remove(entry.id);
                    swept.objects += 1;
                    swept.bytes += entry.size();
                    let (objects, bytes) = swept.freed.entry(killer.unwrap_or_default()).or_default();
                    (*objects, *bytes) = (*objects + 1, *bytes + entry.size());
                }
                Verdict::Survived => volume.survived(entry.id, current),
                Verdict::Unknown => oldest = oldest.min(entry.seq),
            }
        }
    }
    oldest
}

enum Verdict {
    /// By which purge, if it was one.
    Dead(Option<PurgeSeq>),
    Survived,
    /// It could not be read now.
    Unknown,
}

fn look_at(volume: &Volume, purges: &Purges, entry: &Entry) -> Verdict {
    let _stripe = volume.stripe(entry.id);
    let path = entry.id.path(&volume.root);
    let record = match file::read(&path, volume.trust(), 0, Patience::Disk) {
        Ok(record) => record,
        Err(error) if error.is_missing() => return Verdict::Dead(None),
        Err(error) => {
            // What cannot be read cannot be judged, and is of no use. A disk that fails altogether is told by that.
            return match volume.unreadable(entry.id, &error) {
                Trouble::NoDescriptors => Verdict::Unknown,
                _ if volume.health.state() != State::InService => Verdict::Unknown,
                _ => Verdict::Dead(None),
            };
        }
    };
    let Ok(object) = headed(&record) else { return Verdict::Dead(None) };
    match purges.standing(&object) {
        Standing::Dead => Verdict::Dead(purges.killer(&object)),
        Standing::Live => Verdict::Survived,
        Standing::SoftPurged { .. } if record.header.soft_purged == object.soft_purged() => Verdict::Survived,
        // It has to outlive the purge's record.
        Standing::SoftPurged { .. } => {
            let Some((header, meta)) = volume.head_of(&object) else { return Verdict::Dead(None) };
            let header = super::format::Header { body: record.header.body, ..header };
            match file::rewrite_head(&path, None, &header, &meta) {
                Ok(Rewritten::Done) => Verdict::Survived,
                Ok(Rewritten::NoRoom | Rewritten::Another) => Verdict::Dead(None),
                Err(_) => Verdict::Unknown,
            }
        }
    }
}

/// The object of a file, without its body.
fn headed(record: &file::Record) -> Result<Object, Corrupt> {
    let meta = Meta::decode(&record.meta)?;
    restore::object(&record.header, &meta, bytes::Bytes::new().into())
}

impl DiskTier {
    /// What a purge would hit: objects and bytes. Takes as long as it takes, as a sweep does.
    pub fn would_hit(&self, targets: &[Target]) -> (u64, u64) {
        let trial = Trial::of(targets);
        let suspects: Vec<Suspect> = targets.iter().map(Suspect::of).collect();
        let everything = targets.contains(&Target::All);
        let (mut objects, mut bytes) = (0, 0);
        for volume in self.volumes.load_full().iter() {
            let mut from = Some(0);
            while let Some(place) = from {
                let (entries, next) = volume.files.lock().index.walk(place, STEP);
                from = next;
                for entry in entries.iter().filter(|entry| suspects.iter().any(|suspect| entry.filter.is(suspect))) {
                    let path = entry.id.path(&volume.root);
                    let read = || file::read(&path, volume.trust(), 0, Patience::Disk).ok();
                    if everything
                        || read().and_then(|record| headed(&record).ok()).is_some_and(|object| trial.hits(&object))
                    {
                        objects += 1;
                        bytes += entry.size();
                    }
                }
            }
        }
        (objects, bytes)
    }
}

/// Bounds the rate.
struct Pace {
    since: Instant,
    opened: u32,
}

impl Pace {
    fn keep(&mut self) {
        self.opened += 1;
        let due = Duration::from_secs(1) * self.opened / MOST_OPENED;
        let ahead = due.saturating_sub(self.since.elapsed());
        if ahead > Duration::from_millis(10) {
            pause(ahead);
        }
    }
}
