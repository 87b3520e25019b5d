//! Writing: what is stored, what makes room for it, and what is changed in place.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cache::object::Object;
use crate::cache::purge::PurgeSeq;
use crate::cache::trouble::Trouble;

use super::super::file::{self, Rewritten};
use super::super::format::{Header, room_for};
use super::super::health::Operation;
use super::super::id::{FileId, KeyHash};
use super::super::index::Entry;
use super::super::restore;
use super::{Files, Volume, Write};

/// Files that are evicted for one that is written, at most.
const EVICT_AT_ONCE: usize = 1024;

impl Volume {
    /// Has an object written, if the disk keeps up. What was there of it before is gone either way.
    pub fn store(self: &Arc<Self>, object: Arc<Object>, max_variants: usize) {
        let id = FileId::new(KeyHash::of(object.key().as_str()), &object.variant);
        let number = self.begin_write(id, object.checked());
        if self.is_opening() {
            return self.abandon_write(id, number);
        }
        let bytes = object.weight() as u64;
        let obstacle = self.obstacle().or_else(|| (!self.write_buffer.take(bytes)).then_some(Trouble::Slow));
        let volume = self.clone();
        let write = move || {
            if let Err(error) = volume.write(id, number, &object, max_variants) {
                volume.fault(Operation::Write, &error);
                volume.abandon_write(id, number);
            }
            volume.write_buffer.give_back(bytes);
        };
        let obstacle = match obstacle {
            None if self.pool.write(write) => return,
            None => {
                self.write_buffer.give_back(bytes);
                Trouble::Slow
            }
            Some(obstacle) => obstacle,
        };
        self.count(obstacle);
        self.abandon_write(id, number);
    }

    /// What is stored under a name is out of date from now on. The number tells this write from later ones.
    pub fn begin_write(&self, id: FileId, seq: PurgeSeq) -> u64 {
        self.begin(&mut self.files.lock(), id, seq)
    }

    /// The same for a body that was written as it came. `None`: it is out of date already.
    pub fn begin_spooled(&self, spool: u64, id: FileId, seq: PurgeSeq) -> Option<u64> {
        let mut files = self.files.lock();
        let is_spoilt = files.spooling.get(&spool).is_none_or(|spooling| spooling.spoilt);
        (!is_spoilt).then(|| self.begin(&mut files, id, seq))
    }

    /// Has a body that is being written as it comes not be put in its place.
    pub fn spoil(&self, spool: u64) {
        if let Some(spooling) = self.files.lock().spooling.get_mut(&spool) {
            spooling.spoilt = true;
        }
    }

    fn begin(&self, files: &mut Files, id: FileId, seq: PurgeSeq) -> u64 {
        let outdated = files.index.remove(id).is_some() || !self.scan.is_done();
        if outdated {
            files.doomed.insert(id);
        }
        files.next_write += 1;
        let number = files.next_write;
        files.writing.insert(id, Write { number, seq });
        number
    }

    pub fn abandon_write(&self, id: FileId, number: u64) {
        let mut files = self.files.lock();
        if files.is_current(id, number) {
            files.writing.remove(&id);
        }
        if !files.doomed.is_empty() {
            self.chores.notify_all();
        }
    }

    fn write(&self, id: FileId, number: u64, object: &Object, max_variants: usize) -> std::io::Result<()> {
        let Some(body) = object.content.in_memory() else { return Ok(()) };
        let Some((header, meta)) = self.head_of(object) else { return Ok(()) };
        if !self.files.lock().is_current(id, number) {
            return Ok(()); // out of date before it was written
        }
        let (_, aside) = self.aside();
        self.make_room(header.file_length(), EVICT_AT_ONCE);
        if !self.fits(header.file_length()) {
            self.abandon_write(id, number); // more is to be evicted than one write may do: the warden is at it
            return Ok(());
        }
        let written = file::write_aside(&aside, &header, &meta, body);
        let committed = written.and_then(|()| self.commit(id, number, &aside, &header, max_variants));
        if committed.is_err() {
            let _ = std::fs::remove_file(&aside); // the first error is what counts
        }
        committed
    }

    /// Header and metadata of an object; `None`: they are too large to be kept.
    pub fn head_of(&self, object: &Object) -> Option<(Header, Vec<u8>)> {
        let meta = restore::meta(object).encode()?;
        Some((self.header_of(object, &meta, room_for(meta.len())), meta))
    }

    /// The header of an object, as a restart may find it.
    pub fn header_of(&self, object: &Object, meta: &[u8], meta_room: u32) -> Header {
        let header = restore::header(object, meta, meta_room, self.terms.log);
        Header { seq: header.seq.min(self.durable()), ..header }
    }

    pub fn durable(&self) -> PurgeSeq {
        PurgeSeq(self.terms.durable.load(Ordering::Acquire))
    }

    /// A number and a name for a file that is being written.
    pub fn aside(&self) -> (u64, PathBuf) {
        let number = self.next_aside.fetch_add(1, Ordering::Relaxed);
        (number, self.root.join("tmp").join(number.to_string()))
    }

    /// Puts what was written aside in its place, unless it is out of date by now.
    pub fn commit(
        &self,
        id: FileId,
        number: u64,
        aside: &std::path::Path,
        header: &Header,
        max_variants: usize,
    ) -> std::io::Result<()> {
        let _stripe = self.stripe(id);
        if self.ended.load(Ordering::Acquire) || !self.files.lock().is_current(id, number) {
            return std::fs::remove_file(aside);
        }
        file::rename(aside, &id.path(&self.root))?;
        self.health.success(Operation::Write);
        self.counters.written.fetch_add(1, Ordering::Relaxed);
        self.counters.written_bytes.fetch_add(header.file_length(), Ordering::Relaxed);
        self.wrote(header.seq);
        let mut files = self.files.lock();
        if !files.is_current(id, number) {
            files.doomed.insert(id);
            return Ok(());
        }
        // What is written may say less than is known.
        let survived = files.writing.remove(&id).map_or(header.seq, |write| write.seq);
        files.doomed.remove(&id);
        let entry = Entry::new(id, header.file_length(), header.seq, header.filter);
        files.index.insert(entry.having_survived(survived));
        self.displace_variants(&mut files, id, max_variants);
        if !files.doomed.is_empty() {
            self.chores.notify_all();
        }
        Ok(())
    }

    /// Evicts what was not used for the longest time until there is room for a file. Bounded: if the limit was lowered
    /// by much, the warden does the rest.
    pub fn make_room(&self, length: u64, most: usize) {
        for _ in 0..most {
            let oldest = {
                let mut files = self.files.lock();
                let spooled = self.spooled.load(Ordering::Relaxed);
                let over = files.index.bytes() + spooled + length > self.max_size();
                over.then(|| files.index.pop_oldest()).flatten()
            };
            let Some(oldest) = oldest else { return };
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
            self.unlink(oldest.id);
        }
    }

    /// Whether something of this length is within the limit, besides what is there.
    fn fits(&self, length: u64) -> bool {
        self.files.lock().index.bytes() + self.spooled.load(Ordering::Relaxed) + length <= self.max_size()
    }

    /// Takes room for a body that is written as it comes, at the expense of what is there. All of them may have half of the
    /// limit: the other half of what is stored outlives fills that come to nothing.
    pub fn take_room(&self, bytes: u64) -> bool {
        let take = |taken: u64| Some(taken + bytes).filter(|after| *after <= self.most_for_spools());
        bytes == 0 || self.for_spools.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Bytes that all bodies may have together that are written as they come.
    pub fn most_for_spools(&self) -> u64 {
        self.max_size() / 2
    }

    pub fn give_room_back(&self, bytes: u64) {
        self.for_spools.fetch_sub(bytes, Ordering::Relaxed); // it was taken before
    }

    /// Counts bytes of files that are being written as their bodies come.
    pub fn spooled(&self, bytes: i64) {
        self.spooled.fetch_add(bytes as u64, Ordering::Relaxed); // wraps: what is taken away was added before
    }

    /// Frees the place of a file that is not in the index; whether that is done.
    pub fn unlink(&self, id: FileId) -> bool {
        let _stripe = self.stripe(id);
        if self.ended.load(Ordering::Acquire) {
            return false; // it is another process's by now
        }
        // It may have been written anew since.
        if self.files.lock().index.get(id).is_none()
            && let Err(error) = std::fs::remove_file(id.path(&self.root))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.fault(Operation::Write, &error);
            self.files.lock().doomed.insert(id);
            return false;
        }
        self.files.lock().doomed.remove(&id);
        true
    }

    /// Makes room among the variants of a key, at the expense of those whose fill began first.
    fn displace_variants(&self, files: &mut Files, id: FileId, most: usize) {
        let mut variants = files.index.variants(id.key);
        variants.sort_by_key(|entry| (entry.id == id, entry.seq));
        for entry in variants.iter().take(variants.len().saturating_sub(most)) {
            files.index.remove(entry.id);
            files.doomed.insert(entry.id);
        }
    }

    /// Changes the head of a stored object whose body stays, as after a 304.
    pub fn rewrite(self: &Arc<Self>, object: Arc<Object>) {
        let id = FileId::new(KeyHash::of(object.key().as_str()), &object.variant);
        let volume = self.clone();
        let rewrite = move || {
            let Some(body) = object.content.on_disk() else { return };
            let Some((header, meta)) = volume.head_of(&object) else { return volume.remove(id) };
            let _stripe = volume.stripe(id);
            if volume.ended.load(Ordering::Acquire) {
                return;
            }
            match file::rewrite_head(&id.path(&volume.root), Some(body.inode()), &header, &meta) {
                Ok(Rewritten::Done) => {
                    volume.wrote(header.seq);
                    volume.files.lock().index.survived(id, object.checked());
                }
                Ok(Rewritten::NoRoom) => volume.remove(id),
                Ok(Rewritten::Another) => {}
                Err(error) if error.is_missing() => {}
                Err(error) => drop(volume.unreadable(id, &error)),
            }
        };
        // What is stale on disk is only validated once more.
        if !self.pool.write(rewrite) {
            self.count(Trouble::Slow);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::super::super::journal::Journal;
    use super::super::super::places::Places;
    use super::super::Terms;
    use super::*;
    use crate::cache::object::Head;
    use crate::cache::policy::Storable;
    use crate::config::model::DiskDirectory;
    use crate::config::read::ByteSize;
    use crate::plan::CacheKey;

    #[test]
    fn what_is_not_written_takes_no_room_in_the_write_buffer() {
        let root = tempfile::tempdir().unwrap();
        let terms = Terms {
            log: 1,
            retired: Arc::default(),
            durable: Arc::default(),
            newest: PurgeSeq(0),
            journal: Journal::open(None).0,
            places: Arc::new(Places::open(None)),
            write_buffer: 1 << 20,
            read_timeout: Duration::from_secs(20),
        };
        let path = root.path().join("cache");
        let volume =
            Volume::start(&DiskDirectory { path, max_size: ByteSize(1 << 30), min_free: ByteSize(0) }, 1, terms);
        while volume.is_opening() {
            std::thread::yield_now();
        }
        volume.close();
        let key = CacheKey::from_written("s\u{1f}1\u{1f}h/a");
        let head = Head::from_origin(StatusCode::OK, HeaderMap::new());
        let object = Object::new(key.view(), head, Bytes::from_static(b"body"), Storable::default(), PurgeSeq(0));
        volume.store(Arc::new(object), 1);
        assert_eq!(volume.write_buffer.bytes(), 0);
        assert_eq!(volume.obstacle(), Some(Trouble::OutOfService));
    }
}
