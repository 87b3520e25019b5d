//! What a file of the disk tier is called, so that a response is found by its key alone.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::object::Object;

/// Stands for a cache key. Nobody can make two keys with one; if it happened, the key in the file would tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(u64, u64); // not u128, whose alignment would make every entry of the index larger

/// One file: a key and which of its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    pub key: KeyHash,
    /// Two variants with one would only displace each other.
    pub variant: u32,
}

/// Directories that files are spread over: a million files are 244 in each.
pub(crate) const FAN_OUT: u32 = 4096;

impl KeyHash {
    pub fn of(key: &str) -> Self {
        let digest = Sha256::digest(key);
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        KeyHash::from(u128::from_be_bytes(first))
    }

    /// A number between 0 and 1 that depends on the key and something else.
    pub fn with(self, other: &Path) -> f64 {
        let digest = Sha256::new().chain_update(self.number().to_be_bytes()).chain_update(other.as_os_str().as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest.finalize()[..8]);
        // 53 bits are what a float holds.
        ((u64::from_be_bytes(first) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Two independent parts of the hash: one below `places`, and one that is never 0.
    pub fn place_and_mark(self, places: usize) -> (usize, u32) {
        (self.1 as usize % places, (self.1 >> 32) as u32 | 1)
    }

    /// The whole of it.
    pub fn number(self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }

    /// Which of the [`FAN_OUT`] directories its files are in.
    pub fn directory(self) -> u32 {
        (self.0 >> 52) as u32
    }
}

impl From<u128> for KeyHash {
    fn from(number: u128) -> Self {
        KeyHash((number >> 64) as u64, number as u64)
    }
}

impl FileId {
    pub fn of(object: &Object) -> Self {
        // What cannot be encoded has no strings and numbers: that does not exist.
        let written = postcard::to_allocvec(&object.variant).unwrap_or_default();
        FileId { key: KeyHash::of(object.key().as_str()), variant: crc32fast::hash(&written) }
    }

    pub fn path(self, root: &Path) -> PathBuf {
        root.join(directory_name(self.key.directory())).join(self.name())
    }

    pub fn name(self) -> String {
        format!("{:032x}-{:08x}", self.key.number(), self.variant)
    }

    /// All that a key can have.
    pub fn all_of(key: KeyHash) -> std::ops::RangeInclusive<Self> {
        FileId { key, variant: 0 }..=FileId { key, variant: u32::MAX }
    }

    /// Reads a file's name; `None`: it is none of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let (key, variant) = name.split_once('-')?;
        let key = KeyHash::from(u128::from_str_radix(key, 16).ok()?);
        let id = FileId { key, variant: u32::from_str_radix(variant, 16).ok()? };
        (id.name() == name).then_some(id)
    }
}

pub(crate) fn directory_name(number: u32) -> String {
    format!("{number:03x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (key, variant) in [(0, 0), (u128::MAX, u32::MAX), (0xabc << 116 | 7, 42)] {
            let id = FileId { key: KeyHash::from(key), variant };
            let path = id.path(Path::new("/r"));
            assert_eq!(FileId::parse(path.file_name().unwrap().to_str().unwrap()), Some(id));
            let directory = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
            assert_eq!(directory, directory_name(id.key.directory()));
            assert!(id.key.directory() < FAN_OUT);
        }
        for foreign in ["", "lost+found", "0-0", &"f".repeat(41), &format!("{}-0000000G", "0".repeat(32))] {
            assert_eq!(FileId::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_hash_of_a_key_never_changes() {
        // It is kept on disk.
        assert_eq!(format!("{:032x}", KeyHash::of("shop").number()), "8d9001d32c6a703d95921a77115050f3"); // printf shop | sha256sum
    }
}
