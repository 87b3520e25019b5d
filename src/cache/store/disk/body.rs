//! A large body, read from its file as it is sent.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::super::super::object::{Content, DiskBody, FilePart};
use super::super::super::trouble::Trouble;
use super::buffers::PIECE;
use super::file::{self, Patience, ReadError};
use super::format::{BLOCK, Header};
use super::id::FileId;
use super::page_cache;
use super::volume::Volume;

/// Blocks that are read at a time: a buffer full.
const READ_AHEAD: u64 = PIECE as u64 / BLOCK;

/// How long the middle of a body is waited for: what has been promised cannot be had from elsewhere.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that are sent from the file as they are without asking anew whether they are in memory.
const SENT_AT_ONCE: u64 = 1 << 20;

/// An open file. It can be read to its end, whatever happens to its name.
///
/// Whoever reads a block proves its checksum. When all have been, the file may be sent as it is from then on, by the
/// kernel and without a copy, as long as it is not changed and stays in memory: what comes from the disk again is
/// proved again, and all the rest with it.
pub struct FileBody {
    volume: Arc<Volume>,
    id: FileId,
    file: Arc<File>,
    header: Header,
    /// See [`file::print`]; zero if it cannot be had.
    print: u32,
    is_proven: AtomicBool,
    /// Of the body from its beginning on, what has been proved through this.
    proved: AtomicU64,
}

impl FileBody {
    pub fn new(volume: Arc<Volume>, id: FileId, file: File, header: Header) -> Self {
        Self::of_spool(volume, id, Arc::new(file), header)
    }

    /// Of a file that has just been written.
    pub fn of_spool(volume: Arc<Volume>, id: FileId, file: Arc<File>, header: Header) -> Self {
        let print = file::print(&file).unwrap_or(0);
        let entry = volume.files.lock().index.get(id);
        let is_proven = AtomicBool::new(print != 0 && entry.is_some_and(|entry| entry.proven == print));
        FileBody { volume, id, file, header, print, is_proven, proved: AtomicU64::new(0) }
    }

    /// What was read from a place on is undamaged.
    fn prove(&self, from: u64, length: u64) {
        if from <= self.proved.load(Ordering::Relaxed) {
            let proved = self.proved.fetch_max(from + length, Ordering::Relaxed).max(from + length);
            if proved == self.header.body {
                self.volume.files.lock().index.prove(self.id, self.print);
            }
        }
    }

    fn read_now(&self, first: u64, patience: Patience) -> Result<Bytes, ReadError> {
        let blocks = file::read_blocks(&self.file, &self.header, first, READ_AHEAD, patience)?;
        self.prove(first * BLOCK, blocks.len() as u64);
        Ok(blocks)
    }
}

impl From<FileBody> for Content {
    fn from(body: FileBody) -> Self {
        Content::Disk(Arc::new(body))
    }
}

impl std::fmt::Debug for FileBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileBody").field("id", &self.id).field("length", &self.header.body).finish_non_exhaustive()
    }
}

impl DiskBody for FileBody {
    fn length(&self) -> u64 {
        self.header.body
    }

    fn inode(&self) -> (u64, u64) {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()))
    }

    fn part(&self, from: u64) -> Option<FilePart> {
        let length = self.header.body.checked_sub(from).filter(|left| *left > 0)?.min(SENT_AT_ONCE);
        if !self.is_proven.load(Ordering::Relaxed) {
            return None;
        }
        let at = self.header.body_at() + from;
        if page_cache::has(&self.file, at, length) {
            return Some(FilePart { file: self.file.clone(), at, length });
        }
        // Reading some of it brings more into memory that nobody has looked at.
        self.is_proven.store(false, Ordering::Relaxed);
        self.volume.files.lock().index.prove(self.id, 0);
        None
    }

    fn read(self: Arc<Self>, from: u64) -> Pin<Box<dyn Future<Output = Result<Bytes, Trouble>> + Send>> {
        Box::pin(async move {
            let first = from / BLOCK;
            let read = match self.read_now(first, Patience::PageCache) {
                Err(error) if error.needs_disk() => {
                    let body = self.clone();
                    self.volume.in_pool(move || body.read_now(first, Patience::Disk), PATIENCE).await?
                }
                read => read,
            };
            match read {
                Ok(blocks) => Ok(blocks.slice((from - first * BLOCK) as usize..)),
                Err(error) => Err(self.volume.unreadable(self.id, &error)),
            }
        })
    }
}
