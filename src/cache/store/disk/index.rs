//! What is on one disk, in the order of use. Pure: it knows sizes and times, no files.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use crate::cache::purge::PurgeSeq;
use crate::cache::store::slab::{NIL, Order, Slab};

use super::filter::Filter;
use super::id::{FileId, KeyHash};

/// What sizes are counted in: what file systems give out.
const PAGE: u64 = 4096;

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub id: FileId,
    /// The newest purge that it is known to have survived.
    pub seq: PurgeSeq,
    pub filter: Filter,
    /// What it takes on disk, in pages.
    pages: u32,
    pub proof: Proof,
}

impl Entry {
    /// `length`: of the file, in bytes.
    pub fn new(id: FileId, length: u64, seq: PurgeSeq, filter: Filter) -> Self {
        Entry { id, seq, filter, pages: u32::try_from(length.div_ceil(PAGE)).unwrap_or(u32::MAX), proof: Proof(0) }
    }

    /// The same, known to have survived all purges up to `seq`.
    pub fn having_survived(self, seq: PurgeSeq) -> Self {
        Entry { seq: self.seq.max(seq), ..self }
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        u64::from(self.pages) * PAGE
    }
}

/// Whether all of a file's body was in memory and found undamaged, and what told the file apart then
/// ([`super::file::fingerprint`]). If not, a number that is another whenever something of it has come from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof(u32);

impl Proof {
    const PROVEN: u32 = 1 << 31;

    pub fn of(fingerprint: u32) -> Self {
        Proof(fingerprint | Self::PROVEN)
    }
}

/// All files of a disk: found by key, and in the order of use. About 75 bytes a file.
#[derive(Default)]
pub struct Index {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    entries: Slab<Entry>,
    use_order: Order,
    /// Counts disproofs.
    disproved: u32,
}

impl Index {
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes that all files take on disk.
    pub fn bytes(&self) -> u64 {
        self.use_order.bytes
    }

    /// Bytes of memory that it takes itself.
    pub fn memory(&self) -> u64 {
        (self.entries.memory() + self.table.allocation_size()) as u64
    }

    /// All variants of a key.
    pub fn variants(&self, key: KeyHash) -> SmallVec<[Entry; 2]> {
        let entries = self.table.iter_hash(self.hash(key)).map(|at| &self.entries[*at]);
        entries.filter(|entry| entry.id.key == key).copied().collect()
    }

    pub fn get(&self, id: FileId) -> Option<Entry> {
        self.find(id).map(|at| self.entries[at])
    }

    /// Enters a file as the one used last, in the place of one with the same name.
    pub fn insert(&mut self, entry: Entry) {
        self.remove(entry.id);
        let at = self.enter(entry);
        self.entries.link_newest(&mut self.use_order, at, entry.size());
    }

    /// Enters a file as the one that was not used for the longest time, unless there is one of its name.
    pub fn insert_oldest(&mut self, entry: Entry) {
        if self.find(entry.id).is_none() {
            let at = self.enter(entry);
            self.entries.link_oldest(&mut self.use_order, at, entry.size());
        }
    }

    /// Remembers that a file was used.
    pub fn touch(&mut self, id: FileId) {
        if let Some(at) = self.find(id).filter(|at| *at != self.use_order.newest) {
            let size = self.entries[at].size();
            self.entries.unlink(&mut self.use_order, at, size);
            self.entries.link_newest(&mut self.use_order, at, size);
        }
    }

    pub fn remove(&mut self, id: FileId) -> Option<Entry> {
        let at = self.find(id)?;
        Some(self.release(at))
    }

    /// Takes out the file that was not used for the longest time.
    pub fn pop_oldest(&mut self) -> Option<Entry> {
        Some(self.use_order.oldest).filter(|at| *at != NIL).map(|at| self.release(at))
    }

    /// Notes that a file has survived all purges up to `seq`. Nobody may put another in its place meanwhile.
    pub fn survived(&mut self, id: FileId, seq: PurgeSeq) {
        if let Some(entry) = self.get_mut(id) {
            *entry = entry.having_survived(seq);
        }
    }

    /// The same of one that was judged by what is in its entry, if that still says the same.
    pub fn survived_unless_changed(&mut self, judged: &Entry, seq: PurgeSeq) {
        if self.get(judged.id).is_some_and(|now| (now.seq, now.filter) == (judged.seq, judged.filter)) {
            self.survived(judged.id, seq);
        }
    }

    /// Notes what tells a file apart all of whose body was found undamaged, unless something of it has come from the disk
    /// since `before` was its proof.
    pub fn prove(&mut self, id: FileId, fingerprint: u32, before: Proof) {
        if let Some(entry) = self.get_mut(id).filter(|entry| entry.proof == before) {
            entry.proof = Proof::of(fingerprint);
        }
    }

    /// Notes that some of a file comes from the disk.
    pub fn disprove(&mut self, id: FileId) {
        self.disproved = self.disproved.wrapping_add(1);
        let proof = Proof(self.disproved & !Proof::PROVEN);
        if let Some(entry) = self.get_mut(id) {
            entry.proof = proof;
        }
    }

    /// As [`Slab::walk`].
    pub fn walk(&self, from: usize, most: usize) -> (Vec<Entry>, Option<usize>) {
        let (entries, next) = self.entries.walk(from, most);
        (entries.copied().collect(), next)
    }

    /// All entries, those used last first.
    pub fn by_use(&self) -> impl Iterator<Item = &Entry> {
        self.entries.in_order(&self.use_order)
    }

    fn hash(&self, key: KeyHash) -> u64 {
        self.hasher.hash_one(key)
    }

    fn find(&self, id: FileId) -> Option<u32> {
        self.table.find(self.hash(id.key), |at| self.entries[*at].id == id).copied()
    }

    fn get_mut(&mut self, id: FileId) -> Option<&mut Entry> {
        let at = self.find(id)?;
        Some(&mut self.entries[at])
    }

    fn enter(&mut self, entry: Entry) -> u32 {
        let at = self.entries.insert(entry);
        let Index { table, hasher, entries, .. } = self;
        table.insert_unique(hasher.hash_one(entry.id.key), at, |at| hasher.hash_one(entries[*at].id.key));
        at
    }

    fn release(&mut self, at: u32) -> Entry {
        let entry = self.entries[at];
        if let Ok(found) = self.table.find_entry(self.hash(entry.id.key), |other| *other == at) {
            found.remove();
        }
        self.entries.unlink(&mut self.use_order, at, entry.size());
        self.entries.free(at);
        entry
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn entry(key: u128, variant: u32, length: u64) -> Entry {
        Entry::new(FileId { key: KeyHash::from(key), variant }, length, PurgeSeq(0), Filter(0))
    }

    /// Against a plain list, with everything that can be done to it in random order.
    #[test]
    fn it_is_what_a_list_would_be() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut index, mut list) = (Index::default(), Vec::<Entry>::new());
        for _ in 0..20_000 {
            let new = entry(random.u128(..40), random.u32(..2), random.u64(..3 * PAGE));
            let at = list.iter().position(|entry| entry.id == new.id);
            match random.u8(..10) {
                0..4 => {
                    at.map(|at| list.remove(at));
                    list.insert(0, new);
                    index.insert(new);
                }
                4 => {
                    index.insert_oldest(new);
                    if at.is_none() {
                        list.push(new);
                    }
                }
                5 | 6 => {
                    index.touch(new.id);
                    if let Some(at) = at {
                        let entry = list.remove(at);
                        list.insert(0, entry);
                    }
                }
                7 | 8 => assert_eq!(index.remove(new.id), at.map(|at| list.remove(at))),
                _ => assert_eq!(index.pop_oldest(), list.pop()),
            }
            assert_eq!(index.len(), list.len());
            assert_eq!(index.bytes(), list.iter().map(Entry::size).sum::<u64>());
            assert!(index.by_use().eq(list.iter()), "those used last first");
            let mut variants = index.variants(new.id.key);
            variants.sort_unstable_by_key(|entry| entry.id);
            let mut expected: Vec<Entry> = list.iter().filter(|entry| entry.id.key == new.id.key).copied().collect();
            expected.sort_unstable_by_key(|entry| entry.id);
            assert_eq!(variants[..], expected);
        }
        let (mut walked, mut from) = (HashMap::new(), Some(0));
        while let Some(place) = from {
            let (entries, next) = index.walk(place, 7);
            walked.extend(entries.into_iter().map(|entry| (entry.id, entry)));
            from = next;
        }
        assert_eq!(walked.len(), list.len());
    }

    #[test]
    fn what_one_file_has_survived_says_nothing_of_the_next_in_its_place() {
        let mut index = Index::default();
        index.insert(entry(1, 0, 1));
        let walked = index.get(entry(1, 0, 0).id).unwrap();
        let newer = Entry::new(walked.id, 1, PurgeSeq(5), Filter(7));
        index.insert(newer);
        index.survived_unless_changed(&walked, PurgeSeq(10));
        assert_eq!(index.get(walked.id), Some(newer));
        index.survived_unless_changed(&newer, PurgeSeq(10));
        index.survived_unless_changed(&newer, PurgeSeq(11));
        assert_eq!(index.get(walked.id).map(|entry| entry.seq), Some(PurgeSeq(10)));
    }

    #[test]
    fn an_entry_takes_little_memory() {
        let mut index = Index::default();
        for key in 0..100_000 {
            index.insert(entry(key, 0, 1));
        }
        assert!(index.memory() / 100_000 < 120, "{}", index.memory() / 100_000);
        assert!(size_of::<Entry>() <= 48, "{}", size_of::<Entry>());
    }
}
