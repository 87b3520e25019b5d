//! The index in one file, written by a clean stop, so that the next start need not open every file.
//!
//! `magic, log, count of entries, count of doomed, entries, doomed, CRC-32`, little-endian; the entries in the order of
//! use. It is removed as it is read, for good: after a crash there is none, and the directory is scanned.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

use super::filter::Filter;
use super::id::{FileId, KeyHash};
use super::index::{Entry, Index};
use crate::cache::durable::if_there;
use crate::cache::purge::PurgeSeq;

const MAGIC: [u8; 8] = *b"SEAWIDX\x02";
const ID: usize = 20;
const ENTRY: usize = ID + 8 + 8 + 8;
const HEAD: usize = 8 + 4 + 8 + 8;

/// What is known of a directory.
pub struct Saved {
    /// Those used last first.
    pub entries: Vec<Entry>,
    /// Files that are to be removed.
    pub doomed: Vec<FileId>,
}

fn path(root: &Path) -> PathBuf {
    root.join("index")
}

/// Writes what was encoded of a directory.
pub(crate) fn save(root: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = root.join("tmp").join("index");
    fs::write(&aside, bytes)?;
    fs::rename(aside, path(root))
}

/// Reads it and removes it. `Ok(None)`: there is none that could be used.
pub(crate) fn take(root: &Path, log: u32) -> io::Result<Option<Saved>> {
    let path = path(root);
    let Some(bytes) = if_there(fs::read(&path))? else { return Ok(None) };
    // If it stays, or comes back when the power fails, the next process would believe it: then this one does not use it either.
    let removed = fs::remove_file(&path).and_then(|()| File::open(root)?.sync_all());
    Ok(removed.is_ok().then(|| decode(&bytes, log)).flatten())
}

/// What is known of a directory. Of the numbers are told: which purge log they are of, and the newest that a restart knows
/// of.
pub(crate) fn encode<'a>(
    (log, durable): (u32, PurgeSeq),
    index: &Index,
    doomed: impl ExactSizeIterator<Item = &'a FileId>,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + index.len() * ENTRY + doomed.len() * ID + 4);
    bytes.put_slice(&MAGIC);
    bytes.put_u32_le(log);
    bytes.put_u64_le(index.len() as u64);
    bytes.put_u64_le(doomed.len() as u64);
    for entry in index.by_use() {
        put_id(&mut bytes, entry.id);
        bytes.put_u64_le(entry.size());
        bytes.put_u64_le(entry.seq.min(durable).0);
        bytes.put_u64_le(entry.filter.0);
    }
    doomed.for_each(|id| put_id(&mut bytes, *id));
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32_le(crc);
    bytes
}

fn put_id(bytes: &mut Vec<u8>, id: FileId) {
    bytes.put_u128_le(id.key.number());
    bytes.put_u32_le(id.variant);
}

fn decode(bytes: &[u8], log: u32) -> Option<Saved> {
    let (mut left, crc) = bytes.split_last_chunk()?;
    let is_ours = left.len() >= HEAD && crc32fast::hash(left) == u32::from_le_bytes(*crc);
    if !is_ours || left.split_off(..MAGIC.len())? != MAGIC || left.get_u32_le() != log {
        return None;
    }
    let (entries, doomed) = (left.get_u64_le(), left.get_u64_le());
    let fits = entries.checked_mul(ENTRY as u64)?.checked_add(doomed.checked_mul(ID as u64)?)?;
    if fits != left.len() as u64 {
        return None;
    }
    let entry = |_| {
        let (id, size, seq, filter) = (get_id(&mut left), left.get_u64_le(), left.get_u64_le(), left.get_u64_le());
        Entry::new(id, size, PurgeSeq(seq), Filter(filter))
    };
    let entries = (0..entries).map(entry).collect();
    let doomed = (0..doomed).map(|_| get_id(&mut left)).collect();
    Some(Saved { entries, doomed })
}

fn get_id(left: &mut &[u8]) -> FileId {
    FileId { key: KeyHash::from(left.get_u128_le()), variant: left.get_u32_le() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> FileId {
        FileId { key: KeyHash::from(u128::from(number) << 70), variant: number }
    }

    #[test]
    fn what_was_known_is_known_again_and_nothing_else_is_believed() {
        let mut index = Index::default();
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
        save(root.path(), &encode((3, PurgeSeq(0)), &Index::default(), [].iter())).unwrap();
        assert!(take(root.path(), 3).unwrap().is_some());
        assert!(take(root.path(), 3).unwrap().is_none());
    }
}
