//! What of the files in a directory is to be believed: nothing that purges may have hit that are forgotten.
//!
//! The directory says up to which purge everything in it was swept: nothing in it is hit by an earlier one. Without that,
//! files of a disk that was away while purges were forgotten could come back with it, though a purge had hit them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cache::durable::replace;
use crate::cache::purge::{PurgeSeq, Purges};

use super::index::Entry;

/// What of a file is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// Of which purge log the sequences in the files are.
    pub log: u32,
    /// Purges up to this are forgotten: nobody knows whether one of them hit what has not survived them all.
    pub retired: PurgeSeq,
    /// What the file is known to have survived, whatever its header says: that is not written anew for each purge.
    pub survived: PurgeSeq,
    /// Numbers above this were not given yet: they are of a log that was lost, or put back as it had been once.
    pub up_to: PurgeSeq,
}

impl Trust {
    /// In everything of a log.
    pub fn in_all(log: u32) -> Self {
        Trust { log, retired: PurgeSeq(0), survived: PurgeSeq(0), up_to: PurgeSeq(u64::MAX) }
    }
}

/// What is believed of what was in a directory when it was taken into use.
pub struct Before {
    purges: Arc<Purges>,
    survived: AtomicU64,
    /// Higher numbers are not believed.
    up_to: AtomicU64,
    /// Nothing is believed.
    doubted: AtomicBool,
    /// The highest number that this process has written there.
    written: AtomicU64,
}

impl Before {
    pub fn new(purges: Arc<Purges>) -> Self {
        Before {
            survived: AtomicU64::new(0),
            up_to: AtomicU64::new(purges.current().0),
            doubted: AtomicBool::new(false),
            written: AtomicU64::new(0),
            purges,
        }
    }

    /// What is to be believed of a file. `known`: what the index has of it.
    pub fn trust(&self, known: Option<&Entry>) -> Trust {
        let trust = Trust { retired: self.purges.retired(), ..Trust::in_all(self.purges.log_id()) };
        match known {
            // This process has looked at it, or has written it.
            Some(entry) => Trust { survived: entry.seq, ..trust },
            None if self.is_doubted() => Trust { retired: PurgeSeq(u64::MAX), ..trust },
            None => {
                let up_to = PurgeSeq(self.up_to.load(Ordering::Acquire));
                Trust { survived: self.survived(), up_to, ..trust }
            }
        }
    }

    /// Up to which purges all of it has survived.
    pub fn survived(&self) -> PurgeSeq {
        PurgeSeq(self.survived.load(Ordering::Acquire))
    }

    /// Enters what was found of a file.
    pub fn believe(&self, entry: Entry) -> Entry {
        entry.having_survived(self.survived())
    }

    /// Takes it for what has survived all purges up to this: the directory was swept for them. `false`: nobody knows of that
    /// purge.
    pub fn was_swept(&self, swept: PurgeSeq) -> bool {
        let retired = self.purges.retired();
        // All that are forgotten are among them, or nothing is known.
        self.survived.store(if swept >= retired { retired.0 } else { 0 }, Ordering::Release);
        swept.0 <= self.up_to.load(Ordering::Acquire).max(self.written.load(Ordering::Acquire))
    }

    /// Nothing is believed any more.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    /// What was doubted is gone.
    pub fn doubt_no_longer(&self) {
        self.doubted.store(false, Ordering::Release);
    }

    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// Numbers up to this are in the directory since this process uses it.
    pub fn wrote(&self, seq: PurgeSeq) {
        self.written.fetch_max(seq.0, Ordering::AcqRel);
    }

    /// What this process has written is among what is there from before.
    pub fn includes_what_was_written(&self) {
        self.up_to.fetch_max(self.written.load(Ordering::Acquire), Ordering::AcqRel);
    }
}

/// Up to which purge a directory was swept.
pub(crate) fn read_swept(root: &Path, log: u32) -> Option<PurgeSeq> {
    let text = fs::read_to_string(root.join("swept")).ok()?;
    let (of, seq) = text.trim_end().split_once(' ')?;
    (of.parse() == Ok(log)).then(|| seq.parse().ok().map(PurgeSeq)).flatten()
}

/// Notes that everything in a directory has survived all purges up to one. Durable when it returns.
pub(crate) fn write_swept(root: &Path, log: u32, swept: PurgeSeq) -> io::Result<()> {
    if read_swept(root, log) == Some(swept) {
        return Ok(());
    }
    replace(&root.join("swept"), &root.join("tmp").join("swept"), format!("{log} {}\n", swept.0).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_of_one_log_and_nonsense_is_none() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        assert_eq!(read_swept(root.path(), 7), None, "never swept");
        write_swept(root.path(), 7, PurgeSeq(9)).unwrap();
        assert_eq!((read_swept(root.path(), 7), read_swept(root.path(), 8)), (Some(PurgeSeq(9)), None));
        fs::write(root.path().join("swept"), "nonsense").unwrap();
        assert_eq!(read_swept(root.path(), 7), None);
    }
}
