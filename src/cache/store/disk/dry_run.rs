//! What a purge would hit, without purging.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cache::purge::{DryRun, PurgeSeq, Target};

use super::DiskTier;
use super::file::{self, Patience};
use super::filter::Suspects;
use super::index::Entry;
use super::pool::Pace;
use super::restore;
use super::running::{Progress, Work, on_each};
use super::volume::Volume;

/// Somebody waits for it.
const DRY_RUN: Work =
    Work { name: "disk-dry-run", what: "the dry run of a purge", patience: 5, busy: |volume| &volume.in_dry_run };

/// What was found.
#[derive(Debug, Default)]
pub struct WouldHit {
    pub objects: u64,
    pub bytes: u64,
    /// Directories that could not be looked through.
    pub unknown: Vec<PathBuf>,
}

struct Task {
    dry_run: DryRun,
    suspects: Suspects,
    everything: bool,
}

impl DiskTier {
    /// What a purge would hit. Takes as long as it takes: call it where blocking is allowed. `None`: another is tried out.
    pub fn would_hit(&self, targets: &[Target]) -> Option<WouldHit> {
        let _one_at_a_time = self.dry_run.try_lock()?;
        let task = Arc::new(Task {
            dry_run: DryRun::of(targets),
            suspects: Suspects::of(targets.iter().map(|target| (target, PurgeSeq(1)))),
            everything: targets.contains(&Target::All),
        });
        let mut would_hit = WouldHit::default();
        let volumes = self.volumes.load_full();
        for (volume, hit) in on_each(&volumes, &DRY_RUN, move |volume, progress| count(volume, &task, progress)) {
            match hit {
                Some((objects, bytes)) => {
                    would_hit.objects += objects;
                    would_hit.bytes += bytes;
                }
                None => would_hit.unknown.push(volume.root.clone()),
            }
        }
        Some(would_hit)
    }
}

fn count(volume: &Volume, task: &Task, progress: &Progress) -> (u64, u64) {
    let (mut objects, mut bytes, mut pace) = (0, 0, Pace::new());
    for entries in volume.files.walk() {
        progress.step();
        for entry in entries.iter().filter(|entry| task.suspects.may_hit(entry.filter, PurgeSeq(0))) {
            if task.everything || is_hit(volume, entry, &task.dry_run, &mut pace) {
                objects += 1;
                bytes += entry.size();
            }
            progress.step();
        }
    }
    (objects, bytes)
}

fn is_hit(volume: &Volume, entry: &Entry, dry_run: &DryRun, pace: &mut Pace) -> bool {
    pace.keep();
    let record =
        file::read(&entry.id.path(&volume.root), volume.files.before.trust(Some(entry)), 0, Patience::Disk).ok();
    record.and_then(|record| restore::head(&record).ok()).is_some_and(|object| dry_run.hits(&object.identity()))
}
