//! Up to which purge everything in a directory was swept: nothing in it is hit by an earlier one. Without that, files of a
//! disk that was away while purges were forgotten could come back with it, though a purge had hit them.

use std::fs;
use std::io;
use std::path::Path;

use crate::cache::purge::PurgeSeq;

use super::file;

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

/// Up to which purge a directory was swept.
pub fn read(root: &Path, log: u32) -> Option<PurgeSeq> {
    let text = fs::read_to_string(root.join("swept")).ok()?;
    let (of, seq) = text.trim_end().split_once(' ')?;
    (of.parse() == Ok(log)).then(|| seq.parse().ok().map(PurgeSeq)).flatten()
}

/// Notes that everything in a directory has survived all purges up to one. Durable when it returns.
pub fn write(root: &Path, log: u32, swept: PurgeSeq) -> io::Result<()> {
    if read(root, log) == Some(swept) {
        return Ok(());
    }
    file::replace(&root.join("swept"), &root.join("tmp").join("swept"), format!("{log} {}\n", swept.0).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_of_one_log_and_nonsense_is_none() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        assert_eq!(read(root.path(), 7), None, "never swept");
        write(root.path(), 7, PurgeSeq(9)).unwrap();
        assert_eq!((read(root.path(), 7), read(root.path(), 8)), (Some(PurgeSeq(9)), None));
        fs::write(root.path().join("swept"), "nonsense").unwrap();
        assert_eq!(read(root.path(), 7), None);
    }
}
