//! The index in one file, written by a clean stop, so that the next start need not open every file.
//!
//! `magic, log, count of entries, count of doomed, entries, doomed, CRC-32`, little-endian; the entries in the order of
//! use. It is removed as it is read, for good: after a crash there is none, and the directory is scanned.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::super::purge::PurgeSeq;
use super::filter::Filter;
use super::id::{FileId, KeyHash};
use super::index::{Entry, Index};

const MAGIC: [u8; 8] = *b"SEAWIDX\x02";
const ID: usize = 20;
const ENTRY: usize = ID + 8 + 8 + 8;
const HEAD: usize = 8 + 4 + 8 + 8;

/// What is known of a directory.
pub struct Known {
    /// Those used last first.
    pub entries: Vec<Entry>,
    /// Files that are to be removed.
    pub doomed: Vec<FileId>,
}

fn path(root: &Path) -> PathBuf {
    root.join("index")
}

/// Writes what was encoded of a directory.
pub fn save(root: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = root.join("tmp").join("index");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    fs::rename(aside, path(root))
}

/// Reads it and removes it. `Ok(None)`: there is none that could be used.
pub fn take(root: &Path, log: u32) -> io::Result<Option<Known>> {
    let path = path(root);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // If it stays, or comes back when the power fails, the next process would believe it: then this one does not use it either.
    let removed = fs::remove_file(&path).and_then(|()| File::open(root)?.sync_all());
    Ok(removed.is_ok().then(|| decode(&bytes, log)).flatten())
}

/// What is known of a directory. Of the numbers are told: which purge log they are of, and the newest that a restart knows
/// of.
pub fn encode<'a>(
    (log, durable): (u32, PurgeSeq),
    index: &Index,
    doomed: impl ExactSizeIterator<Item = &'a FileId>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + index.len() * ENTRY + doomed.len() * ID + 4);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&log.to_le_bytes());
    bytes.extend_from_slice(&(index.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(doomed.len() as u64).to_le_bytes());
    for entry in index.by_use() {
        push_id(&mut bytes, entry.id);
        bytes.extend_from_slice(&entry.size().to_le_bytes());
        bytes.extend_from_slice(&entry.seq.min(durable).0.to_le_bytes());
        bytes.extend_from_slice(&entry.filter.0.to_le_bytes());
    }
    doomed.for_each(|id| push_id(&mut bytes, *id));
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn push_id(bytes: &mut Vec<u8>, id: FileId) {
    bytes.extend_from_slice(&id.key.number().to_le_bytes());
    bytes.extend_from_slice(&id.variant.to_le_bytes());
}

fn decode(bytes: &[u8], log: u32) -> Option<Known> {
    let (bytes, crc) = bytes.split_last_chunk()?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut left = Reader(bytes);
    if left.take::<8>()? != MAGIC || u32::from_le_bytes(left.take()?) != log {
        return None;
    }
    let (entries, doomed) = (left.number()?, left.number()?);
    let fits = entries.checked_mul(ENTRY as u64)?.checked_add(doomed.checked_mul(ID as u64)?)?;
    if fits != left.0.len() as u64 {
        return None;
    }
    let entry = |left: &mut Reader| {
        let (id, size, seq, filter) = (left.id()?, left.number()?, left.number()?, left.number()?);
        Some(Entry::new(id, size, PurgeSeq(seq), Filter(filter)))
    };
    let entries = (0..entries).map(|_| entry(&mut left)).collect::<Option<Vec<_>>>()?;
    let doomed = (0..doomed).map(|_| left.id()).collect::<Option<Vec<_>>>()?;
    Some(Known { entries, doomed })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Option<FileId> {
        let key = KeyHash::from(u128::from_le_bytes(self.take()?));
        Some(FileId { key, variant: u32::from_le_bytes(self.take()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> FileId {
        FileId { key: KeyHash::from(u128::from(number) << 70), variant: number }
    }

    #[test]
    fn what_was_known_is_known_again_and_nothing_else_is_believed() {
        let mut index = Index::new();
        for number in 0..10 {
            index.insert(Entry::new(id(number), 5000, PurgeSeq(u64::from(number)), Filter(7)));
        }
        let doomed = [id(77)];
        let known = decode(&encode((3, PurgeSeq(4)), &index, [].iter()), 3).unwrap();
        assert_eq!(known.entries.iter().map(|entry| entry.seq.0).max(), Some(4), "what a restart does not know of");
        let bytes = encode((3, PurgeSeq(9)), &index, doomed.iter());
        let known = decode(&bytes, 3).unwrap();
        assert!(known.entries.iter().eq(index.by_use()));
        assert_eq!(known.doomed, doomed);
        assert!(decode(&bytes, 4).is_none(), "of another purge log");
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at], 3).is_none());
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged, 3).is_none(), "{at}");
        }
    }

    #[test]
    fn it_is_read_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("tmp")).unwrap();
        assert!(take(root.path(), 3).unwrap().is_none());
        save(root.path(), &encode((3, PurgeSeq(0)), &Index::new(), [].iter())).unwrap();
        assert!(take(root.path(), 3).unwrap().is_some());
        assert!(take(root.path(), 3).unwrap().is_none());
    }
}
