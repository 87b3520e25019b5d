//! The node's state directory, `state_dir` of `[node]`: it belongs to one process at a time, and has what tells this node
//! from all others. What else is kept there looks after itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::lock::try_lock;
use crate::sandbox;

/// Characters of a node's identifier.
const ID_LENGTH: usize = 16;

/// The directory while it is in use.
#[derive(Debug)]
pub(crate) struct StateDir {
    /// What no other node has, over restarts too if there is a directory.
    pub node_id: Box<str>,
    /// Held until the process ends, however it does.
    _lock: Option<File>,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(
        "another process{} uses the state directory {}: stop it, or give each node a state_dir of its own",
        pid.as_ref().map(|pid| format!(" ({pid})")).unwrap_or_default(),
        path.display()
    )]
    InUse { path: PathBuf, pid: Option<String> },
    #[error("{what} in the state directory {}: {source}{}", path.display(), in_its_own_line(&sandbox::hint(.source, path)))]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn in_its_own_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\n  = hint: {hint}") }
}

impl StateError {
    fn of(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| StateError::Io { what, path, source }
    }
}

impl StateDir {
    /// Takes the directory for this process; without one, the node is another one each time it starts.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, StateError> {
        let Some(path) = path else { return Ok(StateDir { node_id: new_id(), _lock: None }) };
        let fail = |what| StateError::of(what, path);
        std::fs::create_dir_all(path).map_err(fail("cannot make the directory"))?;
        let lock = lock(path)?;
        let node_id = match read_id(path) {
            Some(id) => id,
            None => {
                let id = new_id();
                write_id(path, &id).map_err(fail("cannot write node-id"))?;
                id
            }
        };
        Ok(StateDir { node_id, _lock: Some(lock) })
    }
}

/// Two processes would give the same numbers to different purges.
fn lock(path: &Path) -> Result<File, StateError> {
    let fail = |what| StateError::of(what, path);
    let open = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path.join("lock"));
    let mut file = open.map_err(fail("cannot open lock"))?;
    if !try_lock(&file).map_err(fail("cannot lock lock"))? {
        let mut pid = String::new();
        let read = (&file).take(20).read_to_string(&mut pid);
        let pid = Some(pid.trim().to_owned()).filter(|pid| read.is_ok() && !pid.is_empty());
        return Err(StateError::InUse { path: path.to_owned(), pid });
    }
    // Only for people: a lock without a number is a lock.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(file)
}

fn read_id(path: &Path) -> Option<Box<str>> {
    let text = std::fs::read_to_string(path.join("node-id")).ok()?;
    let id = text.trim();
    (id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.into())
}

fn write_id(path: &Path, id: &str) -> io::Result<()> {
    let aside = path.join("node-id.new");
    let mut file = File::create(&aside)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    std::fs::rename(aside, path.join("node-id"))
}

fn new_id() -> Box<str> {
    format!("{:016x}", fastrand::u64(..)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_for_one_process_and_keeps_its_identifier() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = StateDir::open(Some(&path)).unwrap();
        let id = first.node_id.clone();
        // A lock is of the opened file, so a second opening is as good as a second process.
        let error = StateDir::open(Some(&path)).unwrap_err();
        assert!(error.to_string().contains(&format!("another process ({})", std::process::id())), "{error}");
        drop(first);
        assert_eq!(StateDir::open(Some(&path)).unwrap().node_id, id);
        std::fs::write(path.join("node-id"), "nonsense").unwrap();
        let renewed = StateDir::open(Some(&path)).unwrap().node_id;
        assert_eq!((renewed.len(), renewed == id), (ID_LENGTH, false));
        assert_ne!(StateDir::open(None).unwrap().node_id, StateDir::open(None).unwrap().node_id);
    }
}
