//! A large body that is written to disk as it comes from the origin, and read by those who follow it meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::body::{FileBody, PATIENCE};
use super::buffers::{Buffer, PIECE};
use super::catalogue::Spooling;
use super::file::{self, Patience};
use super::format::{BLOCK, Header};
use super::health::Operation;
use super::id::FileId;
use super::volume::Volume;
use super::write_buffer::WriteBuffer;
use crate::cache::flight::{OnWritten, PartlyWritten};
use crate::cache::object::Object;
use crate::cache::trouble::Trouble;

/// Files that are evicted for one piece of a body, at most.
const EVICT_AT_ONCE: usize = 256;

/// A body on its way. Dropping it is giving it up.
pub struct Spool {
    file: Arc<SpoolFile>,
    /// Of the object as far as it is known: its head, and no body.
    header: Header,
    meta: Vec<u8>,
    id: FileId,
    /// Where an older one may be.
    others: Vec<Arc<Volume>>,
    committed: bool,
}

/// The file, shared with followers.
pub struct SpoolFile {
    volume: Arc<Volume>,
    aside: PathBuf,
    number: u64,
    /// Its bytes are no longer counted as being written.
    settled: AtomicBool,
    body_at: u64,
    /// Bytes of its body that there is room for, and that are written.
    room: AtomicU64,
    written: AtomicU64,
    state: Mutex<State>,
    /// Something was written, or that has failed.
    progress: Notify,
    /// Whose memory is free once it is written.
    on_written: OnceLock<Weak<dyn OnWritten>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    /// A thread is at work on the queue.
    running: bool,
    file: Option<Arc<File>>,
    sums: Sums,
    failed: Option<Trouble>,
}

/// The checksums of the blocks so far.
#[derive(Default)]
struct Sums {
    done: Vec<u8>,
    hasher: crc32fast::Hasher,
    in_block: u64,
}

impl Sums {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (BLOCK - self.in_block).min(bytes.len() as u64) as usize;
            let (block, rest) = bytes.split_at(room);
            self.hasher.update(block);
            self.in_block += room as u64;
            bytes = rest;
            if self.in_block == BLOCK {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        let hasher = std::mem::take(&mut self.hasher);
        self.done.extend_from_slice(&hasher.finalize().to_le_bytes());
        self.in_block = 0;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.in_block > 0 {
            self.end_block();
        }
        self.done
    }
}

impl Spool {
    /// `head`: the object, as yet without its body; `length`: of that, if it is known. `None`: there is no room for it.
    pub fn begin(volume: &Arc<Volume>, others: Vec<Arc<Volume>>, head: &Object, length: Option<u64>) -> Option<Self> {
        let (header, meta) = volume.head_of(head)?;
        let room = length.map_or(0, |body| Header { body, ..header }.file_length());
        if !volume.take_room(room) {
            volume.count(Trouble::Full);
            return None;
        }
        let (number, aside) = volume.aside();
        let file = Arc::new(SpoolFile {
            volume: volume.clone(),
            aside,
            number,
            settled: AtomicBool::new(false),
            body_at: header.body_at(),
            room: AtomicU64::new(room),
            written: AtomicU64::new(0),
            state: Mutex::default(),
            progress: Notify::new(),
            on_written: OnceLock::new(),
        });
        let id = FileId::of(head);
        // A sweep must know of it, for it is older than purges that come while it is written; and so must what takes it out.
        let spooling = Spooling { id, seq: head.checked(), spoilt: false };
        volume.files.lock().spooling.insert(file.number, spooling);
        Some(Spool { file, header, meta, id, others, committed: false })
    }

    pub fn file(&self) -> Arc<SpoolFile> {
        self.file.clone()
    }

    /// Has it not be put in its place: it is out of date.
    pub fn spoil(&self) {
        self.file.volume.files.spoil(self.file.number);
    }

    /// Has a piece written. `false`: it is given up, since the disk does not keep up or has failed.
    pub fn write(&self, piece: Bytes) -> bool {
        self.file.clone().push(piece)
    }

    /// What waits to be written to its disk.
    pub fn buffer(&self) -> &Arc<WriteBuffer> {
        &self.file.volume.write_buffer
    }

    /// Writes what is left and puts the file in its place. `object`: makes the object of its body.
    pub async fn finish(
        mut self,
        object: impl FnOnce(FileBody) -> Object + Send + 'static,
        max_variants: usize,
    ) -> Result<Arc<Object>, Trouble> {
        self.drained().await?;
        let length = self.file.written.load(Ordering::Relaxed);
        let volume = self.file.volume.clone();
        let (done, result) = tokio::sync::oneshot::channel();
        let work = move || {
            let committed = self.commit(length, object, max_variants);
            drop(done.send(committed.map_err(|error| self.file.volume.fault(Operation::Write, &error))));
        };
        if !volume.pool.write(work) {
            return Err(volume.count(Trouble::Slow));
        }
        result.await.unwrap_or(Err(Trouble::IoError))
    }

    /// Waits until all that was given is written.
    async fn drained(&self) -> Result<(), Trouble> {
        loop {
            let progress = self.file.progress.notified();
            {
                let state = self.file.state.lock();
                match state.failed {
                    Some(trouble) => return Err(trouble),
                    None if state.queue.is_empty() && !state.running => return Ok(()),
                    None => {}
                }
            }
            progress.await;
        }
    }

    fn commit(
        &mut self,
        length: u64,
        object: impl FnOnce(FileBody) -> Object,
        max_variants: usize,
    ) -> io::Result<Arc<Object>> {
        let volume = &self.file.volume;
        let (file, sums) = {
            let mut state = self.file.state.lock();
            (state.file.clone(), std::mem::take(&mut state.sums).finish())
        };
        let file = file.ok_or_else(|| io::Error::other("nothing was written"))?;
        self.header.body = length;
        file.write_all_at(&sums, self.header.checksum_at(0))?;
        let id = self.id;
        let object = object(FileBody::new(volume.clone(), id, file.clone(), self.header));
        // The purges that it has survived may be more by now; the metadata are as they were.
        let header = volume.header_of(&object, &self.meta, self.header.meta_room);
        let mut head = header.encode().to_vec();
        head.extend_from_slice(&self.meta);
        file.write_all_at(&head, 0)?;
        // Out of date, it is removed instead of put in its place.
        let write = volume.files.begin_spooled(self.file.number, id, object.checked());
        volume.commit(write, &self.file.aside, &header, max_variants).inspect_err(|_| volume.files.abandon(write))?;
        self.committed = true;
        self.others.iter().filter(|other| other.files.may_have(id.key)).for_each(|other| other.files.remove(id));
        Ok(Arc::new(object))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let volume = &self.file.volume;
        volume.files.lock().spooling.remove(&self.file.number);
        match self.committed {
            true => self.file.settle(),
            // A thread may be at work on it still, and count what it writes.
            false => self.file.fail(Trouble::Slow),
        }
        let file = self.file.clone();
        if !self.committed && !volume.pool.write(move || drop(std::fs::remove_file(&file.aside))) {
            tracing::debug!("a half-written file stays until the next start");
        }
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.settle();
    }
}

impl SpoolFile {
    /// Its bytes are counted elsewhere, or gone.
    fn settle(&self) {
        if !self.settled.swap(true, Ordering::AcqRel) {
            self.volume.spooled(-(self.written.load(Ordering::Relaxed) as i64));
            self.give_room_back();
        }
    }

    fn give_room_back(&self) {
        self.volume.give_room_back(self.room.swap(0, Ordering::AcqRel));
    }

    fn push(self: Arc<Self>, piece: Bytes) -> bool {
        let mut state = self.state.lock();
        if state.failed.is_some() {
            return false;
        }
        self.volume.write_buffer.add(piece.len() as u64);
        state.queue.push_back(piece);
        if !std::mem::replace(&mut state.running, true) {
            drop(state);
            let file = self.clone();
            if !self.volume.pool.write(move || file.work()) {
                self.fail(self.volume.count(Trouble::Slow));
                return false;
            }
        }
        true
    }

    /// Writes what is in the queue, and what comes meanwhile.
    fn work(&self) {
        loop {
            let (pieces, file) = {
                let mut state = self.state.lock();
                if state.queue.is_empty() {
                    state.running = false;
                    break;
                }
                (std::mem::take(&mut state.queue), state.file.clone())
            };
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            let written = self.write(&pieces, file);
            self.volume.write_buffer.give_back(bytes as u64);
            if let Err(trouble) = written {
                return self.fail(trouble);
            }
            self.progress.notify_waiters();
            if let Some(flight) = self.on_written.get().and_then(Weak::upgrade) {
                flight.written();
            }
        }
        self.progress.notify_waiters();
    }

    fn write(&self, pieces: &VecDeque<Bytes>, file: Option<Arc<File>>) -> Result<(), Trouble> {
        let fault = |error: io::Error| self.volume.fault(Operation::Write, &error);
        let file = match file {
            Some(file) => file,
            None => {
                let file = Arc::new(file::create(&self.aside).map_err(fault)?);
                let mut state = self.state.lock();
                if state.failed.is_some() {
                    // Given up before it was begun. Whoever gave it up removes it as well: it may be gone.
                    let _ = std::fs::remove_file(&self.aside);
                    return Ok(());
                }
                state.file.insert(file).clone()
            }
        };
        for piece in pieces {
            if self.state.lock().failed.is_some() {
                return Ok(()); // given up meanwhile
            }
            let (length, at) = (piece.len() as u64, self.written.load(Ordering::Relaxed));
            // Of a body whose length is not known room is taken as it comes.
            let more = (at + length).saturating_sub(self.room.load(Ordering::Relaxed));
            if !self.volume.take_room(more) {
                return Err(self.volume.count(Trouble::Full));
            }
            self.room.fetch_add(more, Ordering::Relaxed);
            self.volume.make_room(length, EVICT_AT_ONCE);
            file.write_all_at(piece, self.body_at + at).map_err(fault)?;
            self.volume.spooled(length as i64);
            self.written.store(at + length, Ordering::Release);
            self.state.lock().sums.update(piece);
        }
        Ok(())
    }

    fn fail(&self, trouble: Trouble) {
        let mut state = self.state.lock();
        state.failed = Some(trouble);
        state.running = false;
        let waiting: usize = state.queue.drain(..).map(|piece| piece.len()).sum();
        drop(state);
        // Nothing more is written; what is there may be read for long, and counts as long.
        self.give_room_back();
        self.volume.write_buffer.give_back(waiting as u64);
        self.progress.notify_waiters();
    }
}

impl PartlyWritten for SpoolFile {
    fn tell(&self, who: Weak<dyn OnWritten>) {
        let _ = self.on_written.set(who); // one file is of one flight
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    fn read(self: Arc<Self>, from: u64, until: u64) -> Pin<Box<dyn Future<Output = Result<Bytes, Trouble>> + Send>> {
        Box::pin(async move {
            let open = self.state.lock().file.clone();
            let Some(file) = open else { return Err(Trouble::IoError) }; // nothing is written: not asked for
            let length = (until - from).min(PIECE as u64) as usize;
            let at = self.body_at + from;
            let read = move |file: &File, patience| {
                let mut bytes = Buffer::of(length);
                file::read_exact_at(file, bytes.as_mut(), at, patience).map(|()| bytes.freeze())
            };
            let read = match read(&file, Patience::PageCache) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.volume.in_pool(move || read(&file, Patience::Disk), PATIENCE).await?
                }
                read => read,
            };
            read.map_err(|error| self.volume.fault(Operation::Read, &error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::checksums;
    use super::*;

    #[test]
    fn checksums_do_not_depend_on_the_pieces() {
        let body: Vec<u8> = (0..3 * BLOCK + 17).map(|number| (number / 3) as u8).collect();
        for size in [1000, BLOCK as usize, 100_000, body.len()] {
            let mut sums = Sums::default();
            body.chunks(size).for_each(|piece| sums.update(piece));
            assert_eq!(sums.finish(), checksums(&body), "{size}");
        }
        assert_eq!(Sums::default().finish(), checksums(&[]));
    }
}
