//! What purges hit: freed, counted, or listed.

use std::sync::Arc;

use super::object::Object;
use super::purge::{DryRun, Freed, PurgeSeq, Standing, Target, add_freed};
use super::store::disk::WouldHit;
use super::stored::Cache;

/// Purges that are kept for the sake of a disk that cannot be swept.
const MOST_MARKS: usize = 100_000;

/// What a sweep freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub objects: u64,
    pub bytes: u64,
}

impl Cache {
    /// Frees what purges have killed and forgets the purges that nothing is older than; `oldest_fill`: the number of the oldest
    /// fill that is running.
    pub fn sweep(&self, oldest_fill: Option<PurgeSeq>) -> Swept {
        // Also where a disk holds the purges back.
        self.purges.flush();
        // What is stored while this runs comes from a fill that is running now, or began later than now.
        let current = self.purges.current();
        let mut oldest = oldest_fill.unwrap_or(PurgeSeq(u64::MAX)).min(current);
        let mut freed = Freed::new();
        for object in self.memory.objects() {
            if object.standing(&self.purges) == Standing::Dead {
                let killer = self.purges.killer(&object.identity()).unwrap_or_default();
                add_freed(&mut freed, killer, (1, object.weight() as u64));
                self.memory.remove(&object);
            } else {
                oldest = oldest.min(object.checked());
            }
        }
        let on_disk = self.disk.sweep(&mut freed);
        let all_is_swept = on_disk.unswept.is_empty() && !on_disk.scanning;
        let done = all_is_swept && on_disk.oldest >= current;
        self.purges.history.swept(&freed, done.then_some(current));
        // A disk that could not be swept holds the purges back, but not for ever; one that is still scanned, until it is.
        if all_is_swept || !on_disk.scanning && self.purges.marks() > MOST_MARKS {
            for path in &on_disk.unswept {
                tracing::warn!(
                    path = %path.display(),
                    "this disk cannot be swept, and more than {MOST_MARKS} purges wait for it: they are forgotten, and what it has from before them is not used any more"
                );
            }
            self.purges.retire(oldest.min(on_disk.oldest));
        }
        let add = |(objects, bytes), of_one: &(u64, u64)| (objects + of_one.0, bytes + of_one.1);
        let (objects, bytes) = freed.values().fold((0, 0), add);
        Swept { objects, bytes }
    }

    /// What a purge would hit, in memory and on disk: objects and bytes of each. `None`: another is being tried out.
    pub fn would_hit(&self, targets: &[Target]) -> Option<((u64, u64), WouldHit)> {
        let on_disk = self.disk.would_hit(targets)?;
        let dry_run = DryRun::of(targets);
        let hit = self.memory.objects().filter(|object| dry_run.hits(&object.identity()));
        let in_memory = hit.fold((0, 0), |(objects, bytes), object| (objects + 1, bytes + object.weight() as u64));
        Some((in_memory, on_disk))
    }

    /// The objects in memory that a purge hits, those asked for most often first.
    pub fn most_used(&self, targets: &[Target], most: usize) -> Vec<Arc<Object>> {
        let dry_run = DryRun::of(targets);
        let mut hit: Vec<Arc<Object>> =
            self.memory.objects().filter(|object| dry_run.hits(&object.identity())).collect();
        hit.sort_by_key(|object| std::cmp::Reverse(object.uses()));
        hit.truncate(most);
        hit
    }
}
