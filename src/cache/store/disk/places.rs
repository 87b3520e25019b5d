//! Which directories were used, so that one whose disk is not mounted is told from one that is new, and one that was put in
//! the place of another from the other.
//!
//! Each directory has a marker, and the state directory has `disks.json`: the marker of each, and whether the directory was
//! on a file system of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::cache::durable::{if_there, replace};

const MARKER: &str = "marker";

/// What a directory was when it was used last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    marker: String,
    /// Whether it was on the file system of `/`.
    beside_root: bool,
    /// Whether it was on that of the state directory.
    beside_state: bool,
}

#[derive(Debug)]
pub struct Places {
    /// The state directory; `None`: nothing is remembered.
    state: Option<PathBuf>,
    known: Mutex<BTreeMap<PathBuf, Place>>,
}

impl Places {
    pub fn open(state: Option<&Path>) -> Self {
        let read = |state: &Path| match if_there(fs::read(state.join("disks.json")))? {
            Some(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            None => Ok(BTreeMap::new()),
        };
        let known = state.map_or(Ok(BTreeMap::new()), read).unwrap_or_else(|error| {
            tracing::warn!(%error, "it is not known any more which disks were used: one that is not mounted is not told");
            BTreeMap::new()
        });
        Places { state: state.map(Path::to_owned), known: Mutex::new(known) }
    }

    /// All directories that were used once.
    pub fn roots(&self) -> Vec<PathBuf> {
        self.known.lock().keys().cloned().collect()
    }

    /// Whether a directory may be taken into use. What lies under a mount point while the disk is not mounted must not be
    /// filled.
    pub fn check(&self, root: &Path) -> io::Result<()> {
        let known = self.known.lock().get(root).cloned();
        let Some(known) = known else { return Ok(()) };
        if marker_of(root)?.is_some() {
            return Ok(());
        }
        let now = self.place(root, String::new())?;
        if now.beside_root && !known.beside_root || now.beside_state && !known.beside_state {
            return Err(io::Error::other(
                "what was there before is gone and was on another file system: is the disk mounted?",
            ));
        }
        Ok(())
    }

    /// Marks a directory that is taken into use. `false`: it is another than was used under its name, or was used
    /// elsewhere, and nobody knows what in it is still to be believed. If that cannot be told, nothing is marked.
    pub fn recognise(&self, root: &Path) -> io::Result<bool> {
        let Some(state) = &self.state else { return Ok(true) };
        let (known, found) = (self.known.lock().get(root).cloned(), marker_of(root)?);
        let is_same = known.as_ref().map(|known| &known.marker) == found.as_ref();
        let marker = match found {
            Some(marker) => marker,
            None => {
                let marker = format!("{:016x}", fastrand::u64(..));
                // One that cannot be written has what it has.
                if replace(&root.join(MARKER), &root.join("marker.new"), marker.as_bytes()).is_err() {
                    return Ok(is_same);
                }
                marker
            }
        };
        let place = self.place(root, marker)?;
        if known.as_ref() != Some(&place) {
            let mut known = self.known.lock();
            known.insert(root.to_owned(), place);
            let text = serde_json::to_vec_pretty(&*known).map_err(io::Error::from)?;
            if let Err(error) = replace(&state.join("disks.json"), &state.join("disks.new"), &text) {
                tracing::warn!(%error, "it cannot be noted which disks are used");
            }
        }
        Ok(is_same)
    }

    fn place(&self, root: &Path, marker: String) -> io::Result<Place> {
        // Where it would be made, if it is not there.
        let here = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
        let there = root.ancestors().find_map(|path| fs::metadata(here(path)).ok());
        let device = there.ok_or(io::ErrorKind::NotFound)?.dev();
        let is_device_of = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.dev() == device);
        let beside_state = self.state.as_deref().is_some_and(is_device_of);
        Ok(Place { marker, beside_root: is_device_of(Path::new("/")), beside_state })
    }
}

/// `None`: there is none. One that cannot be read is not one that is not there.
fn marker_of(root: &Path) -> io::Result<Option<String>> {
    let marker = if_there(fs::read(root.join(MARKER)))?;
    Ok(marker.map(|marker| String::from_utf8_lossy(&marker).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_known_by_its_marker_and_a_missing_disk_by_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (state, root) = (directory.path().join("state"), directory.path().join("cache"));
        fs::create_dir(&state).unwrap();
        fs::create_dir(&root).unwrap();
        let places = Places::open(Some(&state));
        assert!(places.recognise(&root).unwrap(), "it is new");
        assert!(Places::open(Some(&state)).recognise(&root).unwrap(), "it is the same");
        fs::write(root.join(MARKER), "another").unwrap();
        let places = Places::open(Some(&state));
        assert!(!places.recognise(&root).unwrap(), "it is another");
        fs::remove_file(root.join(MARKER)).unwrap();
        places.check(&root).unwrap();
        assert!(!places.recognise(&root).unwrap(), "it was emptied");
        // One that cannot be read says nothing of what the directory is.
        fs::remove_file(root.join(MARKER)).unwrap();
        fs::create_dir(root.join(MARKER)).unwrap();
        assert!(places.check(&root).is_err() && places.recognise(&root).is_err());
        fs::remove_dir(root.join(MARKER)).unwrap();
        fs::write(root.join(MARKER), "another").unwrap();
        // As if it had been on a disk of its own, which is not mounted now.
        places.known.lock().get_mut(&root).unwrap().beside_state = false;
        places.check(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert!(places.check(&root).unwrap_err().to_string().contains("mounted"));
        assert_eq!(places.roots(), [root]);
    }
}
