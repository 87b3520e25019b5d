//! Finding out at the start what is on a disk. The node serves meanwhile.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::cache::durable::if_there;
use crate::cache::trouble::Trouble;

use super::file::{self, Patience, ReadError};
use super::id::{FAN_OUT, FileId, KeyHash, directory_name};
use super::volume::Volume;

/// Enters all files of a volume into its index, as those used least; removes what is of no use.
pub(crate) fn run(volume: &Volume) -> io::Result<()> {
    for directory in 0..FAN_OUT {
        if volume.is_closed() {
            return Ok(());
        }
        for name in names(&volume.root.join(directory_name(directory)))? {
            match FileId::parse(&name) {
                Some(id) if id.key.directory() == directory => enter(volume, id)?,
                // Somebody else's; not ours to remove.
                _ => {
                    tracing::warn!(directory = %volume.root.display(), name, "there is a foreign file in the disk cache")
                }
            }
        }
        volume.files.scan.directories.store(directory + 1, Ordering::Relaxed);
    }
    volume.files.all_is_known();
    Ok(())
}

fn enter(volume: &Volume, id: FileId) -> io::Result<()> {
    if volume.files.lock().index.get(id).is_some() {
        return Ok(());
    }
    let path = id.path(&volume.root);
    let header = file::open(&path, Patience::Disk)
        .map_err(ReadError::from)
        .and_then(|file| file::read_header(&file, volume.files.before.trust(None), Patience::Disk));
    match header {
        Ok(header) => {
            let mut files = volume.files.lock();
            let is_outdated = files.is_forgotten(id.key) || volume.files.before.is_doubted();
            if is_outdated && files.index.get(id).is_none() {
                files.doomed.insert(id);
            } else if !files.doomed.contains(&id) {
                files.index.insert_oldest(volume.files.before.believe(header.entry(id)));
                volume.files.scan.files.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
        Err(error) if error.is_missing() => Ok(()),
        // Without descriptors no file could be read; it is tried again.
        Err(ReadError::Io(error)) if Trouble::of(&error) == Trouble::NoDescriptors => Err(error),
        // One that cannot be read must not keep the others from being known.
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "a file of the disk cache is of no use and is removed");
            volume.files.scan.removed.fetch_add(1, Ordering::Relaxed);
            let mut files = volume.files.lock();
            if files.index.get(id).is_none() {
                files.doomed.insert(id); // else it was written anew meanwhile
            }
            Ok(())
        }
    }
}

/// The files of a key, whether or not they are in the index yet.
pub(crate) fn names_of(root: &Path, key: KeyHash) -> Vec<FileId> {
    let names = names(&root.join(directory_name(key.directory()))).unwrap_or_default();
    names.iter().filter_map(|name| FileId::parse(name)).filter(|id| id.key == key).collect()
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = if_there(fs::read_dir(directory))? else { return Ok(Vec::new()) };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
