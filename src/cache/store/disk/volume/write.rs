//! Writing: what is stored, what makes room for it, and what is changed in place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cache::object::Object;
use crate::cache::trouble::Trouble;

use super::super::catalogue::{Files, Write};
use super::super::file::{self, Rewritten};
use super::super::format::{Header, room_for};
use super::super::health::Operation;
use super::super::id::FileId;
use super::super::index::Entry;
use super::super::restore;
use super::Volume;

/// Files that are evicted for one that is written, at most.
const EVICT_AT_ONCE: usize = 1024;

impl Volume {
    /// Has an object written, if the disk keeps up. What was there of it before is gone either way.
    pub fn store(self: &Arc<Self>, object: Arc<Object>, max_variants: usize) {
        let write = self.files.begin_write(FileId::of(&object), object.checked());
        if self.is_opening() {
            return self.files.abandon(write);
        }
        if let Err(trouble) = self.put_in_queue(write, object, max_variants) {
            self.count(trouble);
            self.files.abandon(write);
        }
    }

    fn put_in_queue(self: &Arc<Self>, write: Write, object: Arc<Object>, max_variants: usize) -> Result<(), Trouble> {
        self.obstacle().map_or(Ok(()), Err)?;
        let room = self.write_buffer.keep(object.weight() as u64).ok_or(Trouble::Slow)?;
        let volume = self.clone();
        let job = move || {
            if let Err(error) = volume.write(write, &object, max_variants) {
                volume.fault(Operation::Write, &error);
                volume.files.abandon(write);
            }
            drop(room);
        };
        if self.pool.write(job) { Ok(()) } else { Err(Trouble::Slow) }
    }

    fn write(&self, write: Write, object: &Object, max_variants: usize) -> io::Result<()> {
        let Some(body) = object.content.in_memory() else { return Ok(()) };
        let Some((header, meta)) = self.head_of(object) else { return Ok(()) };
        if !self.files.lock().is_current(write) {
            return Ok(()); // out of date before it was written
        }
        let (_, aside) = self.aside();
        self.make_room(header.file_length(), EVICT_AT_ONCE);
        if !self.fits(&self.files.lock(), header.file_length()) {
            self.files.abandon(write); // more is to be evicted than one write may do: the warden is at it
            return Ok(());
        }
        let written = file::write_aside(&aside, &header, &meta, body);
        let committed = written.and_then(|()| self.commit(write, &aside, &header, max_variants));
        if committed.is_err() {
            let _ = fs::remove_file(&aside); // the first error is what counts
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
        let purges = &self.shared.purges;
        let header = restore::header(object, meta, meta_room, purges.log_id());
        Header { seq: header.seq.min(purges.durable()), ..header }
    }

    /// A number and a name for a file that is being written.
    pub fn aside(&self) -> (u64, PathBuf) {
        let number = self.next_aside.fetch_add(1, Ordering::Relaxed);
        (number, self.root.join("tmp").join(number.to_string()))
    }

    /// Puts what was written aside in its place, unless it is out of date by now.
    pub fn commit(&self, write: Write, aside: &Path, header: &Header, max_variants: usize) -> io::Result<()> {
        let _stripe = self.stripe(write.id);
        if self.has_ended() || !self.files.lock().is_current(write) {
            return fs::remove_file(aside);
        }
        file::rename(aside, &write.id.path(&self.root))?;
        self.health.success(Operation::Write);
        self.counters.written.fetch_add(1, Ordering::Relaxed);
        self.counters.written_bytes.fetch_add(header.file_length(), Ordering::Relaxed);
        self.files.written(write, header.entry(write.id), max_variants);
        Ok(())
    }

    /// Evicts what was not used for the longest time until there is room for a file. Bounded: if the limit was lowered
    /// by much, the warden does the rest.
    pub fn make_room(&self, length: u64, most: usize) {
        for _ in 0..most {
            let oldest = {
                let mut files = self.files.lock();
                if self.fits(&files, length) { None } else { files.index.pop_oldest() }
            };
            let Some(oldest) = oldest else { return };
            self.evict(oldest);
        }
    }

    /// Frees the place of what was taken out of the index to make room; whether that is done.
    pub fn evict(&self, entry: Entry) -> bool {
        self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        self.unlink(entry.id)
    }

    /// Whether something of this length is within the limit, besides what is there.
    fn fits(&self, files: &Files, length: u64) -> bool {
        files.index.bytes() + self.spooled.load(Ordering::Relaxed) + length <= self.max_size()
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

    /// Changes the head of a stored object whose body stays, as after a 304.
    pub fn rewrite(self: &Arc<Self>, object: Arc<Object>) {
        let id = FileId::of(&object);
        let volume = self.clone();
        let rewrite = move || {
            let Some(body) = object.content.on_disk() else { return };
            let Some((header, meta)) = volume.head_of(&object) else { return volume.files.remove(id) };
            let _stripe = volume.stripe(id);
            if volume.has_ended() {
                return;
            }
            match file::rewrite_head(&id.path(&volume.root), Some(body.inode()), &header, &meta) {
                Ok(Rewritten::Done) => {
                    volume.files.before.wrote(header.seq);
                    volume.files.lock().index.survived(id, object.checked());
                }
                Ok(Rewritten::NoRoom) => volume.files.remove(id),
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
    use super::super::super::journal::Journal;
    use super::super::super::places::Places;
    use super::super::Shared;
    use super::*;
    use crate::cache::purge::Purges;
    use crate::cache::testing::object;
    use crate::config::model::{CacheDisk, DiskDirectory};
    use crate::config::read::ByteSize;

    #[test]
    fn what_is_not_written_takes_no_room_in_the_write_buffer() {
        let (max_size, min_free) = (ByteSize(1 << 30), ByteSize(0));
        let directory = DiskDirectory { path: "unused".into(), max_size, min_free };
        let purges = Arc::new(Purges::open(None).unwrap());
        let shared = Shared { purges, journal: Journal::open(None).0, places: Arc::new(Places::open(None)) };
        let volume = Arc::new(Volume::new(&directory, &CacheDisk::default(), shared));
        volume.opened.store(true, Ordering::Release);
        volume.close();
        volume.store(Arc::new(object("h/a", &[], "body", 0)), 1);
        assert_eq!((volume.obstacle(), volume.write_buffer.bytes()), (Some(Trouble::OutOfService), 0));
    }
}
