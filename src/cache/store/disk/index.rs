//! What is on one disk, in the order of use. Pure: it knows sizes and times, no files.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use super::super::super::purge::PurgeSeq;
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
/// ([`super::file::print`]). If not, a number that is another whenever something of it has come from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof(u32);

impl Proof {
    const PROVEN: u32 = 1 << 31;

    pub fn of(print: u32) -> Self {
        Proof(print | Self::PROVEN)
    }
}

/// No node.
const NIL: u32 = u32::MAX;

struct Node {
    entry: Entry,
    /// Neighbours in the order of use; of a free node, `next` is the next free one.
    newer: u32,
    older: u32,
}

/// All files of a disk: found by key, and in the order of use. About 75 bytes a file.
pub struct Index {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    nodes: Vec<Node>,
    free: u32,
    newest: u32,
    oldest: u32,
    bytes: u64,
    /// Counts disproofs.
    disproved: u32,
}

impl Index {
    pub fn new() -> Self {
        Index {
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            nodes: Vec::new(),
            free: NIL,
            newest: NIL,
            oldest: NIL,
            bytes: 0,
            disproved: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes that all files take on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory that it takes itself.
    pub fn memory(&self) -> u64 {
        (self.nodes.capacity() * size_of::<Node>() + self.table.allocation_size()) as u64
    }

    /// All variants of a key.
    pub fn variants(&self, key: KeyHash) -> SmallVec<[Entry; 2]> {
        let nodes = self.table.iter_hash(self.hash(key)).map(|node| &self.nodes[*node as usize].entry);
        nodes.filter(|entry| entry.id.key == key).copied().collect()
    }

    pub fn get(&self, id: FileId) -> Option<Entry> {
        self.find(id).map(|node| self.nodes[node as usize].entry)
    }

    /// Enters a file as the one used last, in the place of one with the same name.
    pub fn insert(&mut self, entry: Entry) {
        self.remove(entry.id);
        let node = self.allocate(entry);
        self.link_newest(node);
    }

    /// Enters a file as the one that was not used for the longest time, unless there is one of its name.
    pub fn insert_oldest(&mut self, entry: Entry) -> bool {
        if self.find(entry.id).is_some() {
            return false;
        }
        let node = self.allocate(entry);
        self.link_oldest(node);
        true
    }

    /// Remembers that a file was used.
    pub fn touch(&mut self, id: FileId) {
        if let Some(node) = self.find(id).filter(|node| *node != self.newest) {
            self.unlink(node);
            self.link_newest(node);
        }
    }

    pub fn remove(&mut self, id: FileId) -> Option<Entry> {
        let node = self.find(id)?;
        Some(self.release(node))
    }

    /// Takes out the file that was not used for the longest time.
    pub fn pop_oldest(&mut self) -> Option<Entry> {
        Some(self.oldest).filter(|node| *node != NIL).map(|node| self.release(node))
    }

    /// Notes that a file has survived all purges up to `seq`. Nobody may put another in its place meanwhile.
    pub fn survived(&mut self, id: FileId, seq: PurgeSeq) {
        if let Some(node) = self.find(id) {
            let entry = &mut self.nodes[node as usize].entry;
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
    pub fn prove(&mut self, id: FileId, print: u32, before: Proof) {
        if let Some(node) = self.find(id).filter(|node| self.nodes[*node as usize].entry.proof == before) {
            self.nodes[node as usize].entry.proof = Proof::of(print);
        }
    }

    /// Notes that some of a file comes from the disk.
    pub fn disprove(&mut self, id: FileId) {
        self.disproved = self.disproved.wrapping_add(1);
        if let Some(node) = self.find(id) {
            self.nodes[node as usize].entry.proof = Proof(self.disproved & !Proof::PROVEN);
        }
    }

    /// Some entries from a place on, and the place to go on from; `None` at the end. What is entered or removed
    /// meanwhile may or may not be among them.
    pub fn walk(&self, from: usize, most: usize) -> (Vec<Entry>, Option<usize>) {
        let until = (from + most).min(self.nodes.len());
        let entries = (from..until).map(|node| &self.nodes[node]).filter(|node| node.older != FREE);
        (entries.map(|node| node.entry).collect(), Some(until).filter(|until| *until < self.nodes.len()))
    }

    /// All entries, those used last first.
    pub fn by_use(&self) -> impl Iterator<Item = &Entry> {
        let node = |number: u32| Some(number).filter(|number| *number != NIL);
        std::iter::successors(node(self.newest), move |number| node(self.nodes[*number as usize].older))
            .map(|number| &self.nodes[number as usize].entry)
    }

    fn hash(&self, key: KeyHash) -> u64 {
        self.hasher.hash_one(key)
    }

    fn find(&self, id: FileId) -> Option<u32> {
        self.table.find(self.hash(id.key), |node| self.nodes[*node as usize].entry.id == id).copied()
    }

    fn allocate(&mut self, entry: Entry) -> u32 {
        let node = Node { entry, newer: NIL, older: NIL };
        let number = match self.free {
            NIL => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32 // 2^32 files do not fit into memory, by far
            }
            free => {
                self.free = self.nodes[free as usize].newer;
                self.nodes[free as usize] = node;
                free
            }
        };
        self.bytes += entry.size();
        let Index { table, hasher, nodes, .. } = self;
        let hash = |node: &u32| hasher.hash_one(nodes[*node as usize].entry.id.key);
        table.insert_unique(hasher.hash_one(entry.id.key), number, hash);
        number
    }

    fn release(&mut self, node: u32) -> Entry {
        self.unlink(node);
        let entry = self.nodes[node as usize].entry;
        if let Ok(found) = self.table.find_entry(self.hash(entry.id.key), |other| *other == node) {
            found.remove();
        }
        self.bytes -= entry.size();
        (self.nodes[node as usize].newer, self.nodes[node as usize].older) = (self.free, FREE);
        self.free = node;
        entry
    }

    fn unlink(&mut self, node: u32) {
        let Node { newer, older, .. } = self.nodes[node as usize];
        match newer {
            NIL => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NIL => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, node: u32) {
        (self.nodes[node as usize].newer, self.nodes[node as usize].older) = (NIL, self.newest);
        match self.newest {
            NIL => self.oldest = node,
            newest => self.nodes[newest as usize].newer = node,
        }
        self.newest = node;
    }

    fn link_oldest(&mut self, node: u32) {
        (self.nodes[node as usize].newer, self.nodes[node as usize].older) = (self.oldest, NIL);
        match self.oldest {
            NIL => self.newest = node,
            oldest => self.nodes[oldest as usize].older = node,
        }
        self.oldest = node;
    }
}

/// In the place of `older`: the node is free.
const FREE: u32 = u32::MAX - 1;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn entry(key: u128, variant: u32, length: u64) -> Entry {
        Entry::new(FileId { key: KeyHash::from(key), variant }, length, PurgeSeq(0), Filter(0))
    }

    fn order(index: &Index) -> Vec<FileId> {
        index.by_use().map(|entry| entry.id).collect()
    }

    fn ids(keys: &[u128]) -> Vec<FileId> {
        keys.iter().map(|key| entry(*key, 0, 0).id).collect()
    }

    #[test]
    fn what_was_used_last_stays_longest() {
        let mut index = Index::new();
        for key in 1..=3 {
            index.insert(entry(key, 0, 1));
        }
        index.touch(entry(1, 0, 0).id);
        assert!(index.insert_oldest(entry(9, 0, PAGE + 1)));
        assert!(!index.insert_oldest(entry(1, 0, 1)));
        assert_eq!((order(&index), index.bytes()), (ids(&[1, 3, 2, 9]), 5 * PAGE));
        let popped: Vec<FileId> = std::iter::from_fn(|| index.pop_oldest()).map(|entry| entry.id).collect();
        assert_eq!((popped, index.bytes(), index.len()), (ids(&[9, 2, 3, 1]), 0, 0));
    }

    #[test]
    fn variants_of_a_key_are_found_together() {
        let mut index = Index::new();
        for variant in 0..3 {
            index.insert(entry(7, variant, 1));
        }
        index.insert(entry(8, 0, 1));
        assert_eq!(index.variants(7.into()).len(), 3);
        index.remove(entry(7, 1, 0).id).unwrap();
        assert!(index.remove(entry(7, 1, 0).id).is_none());
        let mut left: Vec<u32> = index.variants(7.into()).iter().map(|entry| entry.id.variant).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 2]);
        assert!(index.variants(9.into()).is_empty());
    }

    /// Against a plain list, with everything that can be done to it in random order.
    #[test]
    fn it_is_what_a_list_would_be() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut index, mut list) = (Index::new(), Vec::<Entry>::new());
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
                    assert_eq!(index.insert_oldest(new), at.is_none());
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
        }
        assert!(index.by_use().eq(list.iter()));
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
        let mut index = Index::new();
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
        let mut index = Index::new();
        for key in 0..100_000 {
            index.insert(entry(key, 0, 1));
        }
        assert!(index.memory() / 100_000 < 120, "{}", index.memory() / 100_000);
        assert!(size_of::<Node>() <= 56, "{}", size_of::<Node>());
    }
}
