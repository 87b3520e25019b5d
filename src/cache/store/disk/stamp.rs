//! Up to which purge everything in a directory was swept: nothing in it is hit by an earlier one. Without that, files of a
//! disk that was away while purges were forgotten could come back with it, though a purge had hit them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::super::super::purge::PurgeSeq;

/// What of a directory is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// Of which purge log the sequences in the files are.
    pub log: u32,
    /// Files with a lower sequence may have been hit by purges that are forgotten.
    pub from: PurgeSeq,
}

impl Trust {
    /// `retired`: up to which purges are forgotten.
    pub fn of(root: &Path, log: u32, retired: PurgeSeq) -> Self {
        let swept = read(root, log).unwrap_or_default();
        Trust { log, from: if swept >= retired { PurgeSeq(0) } else { retired } }
    }
}

fn read(root: &Path, log: u32) -> Option<PurgeSeq> {
    let text = fs::read_to_string(root.join("swept")).ok()?;
    let (of, seq) = text.trim_end().split_once(' ')?;
    (of.parse() == Ok(log)).then(|| seq.parse().ok().map(PurgeSeq)).flatten()
}

/// Notes that everything in a directory has survived all purges up to one. Durable when it returns.
pub fn write(root: &Path, log: u32, swept: PurgeSeq) -> io::Result<()> {
    if read(root, log) == Some(swept) {
        return Ok(());
    }
    let aside = root.join("tmp").join("swept");
    let mut file = File::create(&aside)?;
    writeln!(file, "{log} {}", swept.0)?;
    file.sync_all()?;
    fs::rename(&aside, root.join("swept"))?;
    File::open(root)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_swept_before_purges_were_forgotten_is_not_believed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        let from = |log, retired| Trust::of(root.path(), log, PurgeSeq(retired)).from.0;
        assert_eq!((from(7, 0), from(7, 5)), (0, 5), "never swept");
        write(root.path(), 7, PurgeSeq(9)).unwrap();
        assert_eq!([from(7, 5), from(7, 9), from(7, 10), from(8, 5)], [0, 0, 10, 5]);
        fs::write(root.path().join("swept"), "nonsense").unwrap();
        assert_eq!(from(7, 5), 5);
    }
}
