//! What a purge would hit, without purging.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::super::purge::{DryRun, PurgeSeq, Target};
use super::DiskTier;
use super::file::{self, Patience};
use super::filter::Suspects;
use super::index::Entry;
use super::running::{Pace, Progress, Running, STEP, Work};
use super::sweep::headed;
use super::volume::Volume;

/// Somebody waits for it.
const TRIAL: Work =
    Work { name: "disk-trial", what: "the dry run of a purge", patience: 5, busy: |volume| &volume.trying };

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
        let _one_at_a_time = self.trial.try_lock()?;
        let task = Arc::new(Task {
            dry_run: DryRun::of(targets),
            suspects: Suspects::of(targets.iter().map(|target| (target, PurgeSeq(1)))),
            everything: targets.contains(&Target::All),
        });
        let volumes = self.volumes.load_full();
        let begin = |volume| {
            let task = task.clone();
            Running::begin(volume, &TRIAL, move |volume, progress| count(volume, &task, progress))
        };
        let running: Vec<Option<Running<(u64, u64)>>> = volumes.iter().map(begin).collect();
        let mut would_hit = WouldHit::default();
        for (volume, running) in volumes.iter().zip(running) {
            match running.and_then(|running| running.end(volume)) {
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
    let (mut objects, mut bytes) = (0, 0);
    let (mut pace, mut from) = (Pace::new(), Some(0));
    while let Some(place) = from {
        let (entries, next) = volume.files.lock().index.walk(place, STEP);
        from = next;
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
    let record = file::read(&entry.id.path(&volume.root), volume.trust(Some(entry)), 0, Patience::Disk).ok();
    record.and_then(|record| headed(&record).ok()).is_some_and(|object| dry_run.hits(&object.identity()))
}
