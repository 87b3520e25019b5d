//! Watches files for changes on disk: written in place, renamed over, or swapped by a
//! symbolic link as Kubernetes does with ConfigMaps. What is watched are the directories, since a file that
//! is replaced takes its own watch with it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A change is reported when nothing more has changed for this long,
const QUIET: Duration = Duration::from_millis(100);
/// or after this long at the latest.
const AT_LATEST: Duration = Duration::from_secs(1);

/// Tells when files have changed.
pub(crate) struct FileWatch {
    watcher: RecommendedWatcher,
    /// By their real paths.
    watched: HashMap<PathBuf, Identity>,
    events: mpsc::Receiver<()>,
    /// Those that cannot be.
    unwatched: HashSet<PathBuf>,
    /// Something has changed that has not been reported.
    unreported: bool,
}

impl FileWatch {
    pub(crate) fn new() -> notify::Result<Self> {
        // One place is enough: what matters is that something has changed, not what.
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(&event.kind)) {
                let _ = sender.try_send(()); // full: a change is already waiting to be reported
            }
        })?;
        Ok(FileWatch { watcher, watched: HashMap::new(), unwatched: HashSet::new(), events, unreported: false })
    }

    /// Watches the directories of these files, and no others. Tells whether some were not watched before: what
    /// changed in them until now has gone unnoticed.
    pub(crate) fn set_files<'p>(&mut self, files: impl IntoIterator<Item = &'p Path>) -> bool {
        let mut added = false;
        let wanted: HashMap<PathBuf, Identity> =
            files.into_iter().flat_map(directories).filter_map(|directory| identify(&directory)).collect();
        // A directory that was replaced has its name, but not its watch.
        for gone in self.watched.iter().filter(|(path, identity)| wanted.get(*path) != Some(*identity)) {
            let _ = self.watcher.unwatch(gone.0); // it may have been deleted, which ends its watch too
        }
        self.watched.retain(|path, identity| wanted.get(path) == Some(identity));
        for (directory, identity) in wanted {
            if self.watched.contains_key(&directory) {
                continue;
            }
            match self.watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory, identity);
                    added = true;
                }
                Err(error) if self.unwatched.insert(directory.clone()) => {
                    let directory = directory.display();
                    tracing::info!(%directory, %error, "a directory cannot be watched; its files are looked at now and then");
                }
                Err(_) => {} // as before
            }
        }
        added
    }

    /// Waits for the next change and for it to be over. Pends for ever when watching is not possible. Safe to
    /// cancel: no change is lost.
    pub(crate) async fn changed(&mut self) {
        if !self.unreported && self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.unreported = true;
        let latest = Instant::now() + AT_LATEST;
        while timeout_at(latest.min(Instant::now() + QUIET), self.events.recv()).await.is_ok_and(|e| e.is_some()) {}
        self.unreported = false;
    }
}

/// Tells states of files apart, whatever is in them: changes when one is written, replaced, added or removed.
pub(crate) fn stamp(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        let state = std::fs::metadata(file).ok();
        let state = state.map(|state| (state.dev(), state.ino(), state.size(), state.ctime(), state.ctime_nsec()));
        (file, state).hash(&mut hasher);
    }
    hasher.finish()
}

/// Device and inode: what a directory is, whatever it is called.
type Identity = (u64, u64);

/// A directory's real path and identity, if it is one.
fn identify(directory: &Path) -> Option<(PathBuf, Identity)> {
    let real = directory.canonicalize().ok()?;
    let metadata = std::fs::metadata(&real).ok().filter(std::fs::Metadata::is_dir)?;
    Some((real, (metadata.dev(), metadata.ino())))
}

/// The directory a file is in, and the one it really is in if it is reached by a link.
fn directories(file: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    };
    let mut found = vec![parent(file)];
    found.extend(file.canonicalize().ok().map(|real| parent(&real)));
    found
}

fn is_change(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_what_concerns_the_files_from_what_lies_beside_them() {
        let directory = tempfile::tempdir().unwrap();
        let [main, missing] = ["main.toml", "missing.toml"].map(|name| directory.path().join(name));
        std::fs::write(&main, "one").unwrap();
        let files = [main.clone(), missing.clone()];
        let mut seen = vec![stamp(&files)];
        std::fs::write(directory.path().join("access.log"), "a line").unwrap();
        assert_eq!(stamp(&files), seen[0]);
        std::fs::write(&missing, "there").unwrap();
        seen.push(stamp(&files));
        std::fs::write(directory.path().join("new"), "two").unwrap();
        std::fs::rename(directory.path().join("new"), &main).unwrap();
        seen.push(stamp(&files));
        std::fs::remove_file(&missing).unwrap();
        seen.push(stamp(&files));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }
}
