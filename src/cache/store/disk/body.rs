//! A large body, read from its file as it is sent.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::buffers::PIECE;
use super::file::{self, Patience, ReadError};
use super::format::{BLOCK, Header};
use super::health::Operation;
use super::id::FileId;
use super::index::Proof;
use super::page_cache;
use super::volume::Volume;
use crate::cache::object::{Content, DiskBody, FilePart};
use crate::cache::trouble::Trouble;

/// Blocks that are read at a time: a buffer full.
const READ_AHEAD: u64 = PIECE as u64 / BLOCK;

/// How long the middle of a body is waited for: what has been promised cannot be had from elsewhere.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that are sent from the file as they are without asking anew whether they are in memory.
const SENT_AT_ONCE: u64 = 256 << 10;

/// An open file. It can be read to its end, whatever happens to its name.
///
/// Whoever reads a block proves its checksum. When all have been, and none of them came from the disk meanwhile, the file
/// may be sent as it is from then on, by the kernel and without a copy, as long as it is not changed and stays in memory:
/// if anything of it comes from the disk again, all of it is to be proved again.
pub struct FileBody {
    volume: Arc<Volume>,
    id: FileId,
    file: Arc<File>,
    header: Header,
    /// See [`file::fingerprint`].
    fingerprint: Option<u32>,
    reading: Mutex<Reading>,
}

/// How far a reading from the beginning on has come that found nothing damaged.
#[derive(Default)]
struct Reading {
    until: u64,
    /// When it began.
    proof: Proof,
}

impl FileBody {
    pub fn new(volume: Arc<Volume>, id: FileId, file: Arc<File>, header: Header) -> Self {
        let fingerprint = file::fingerprint(&file).ok();
        FileBody { volume, id, file, header, fingerprint, reading: Mutex::default() }
    }

    /// What was read from a place on is undamaged.
    fn prove(&self, from: u64, length: u64) {
        let mut reading = self.reading.lock();
        if from == 0 {
            let entry = self.volume.files.lock().index.get(self.id);
            *reading = Reading { until: 0, proof: entry.map(|entry| entry.proof).unwrap_or_default() };
        }
        if from == reading.until {
            reading.until += length;
            if let Some(fingerprint) = self.fingerprint.filter(|_| reading.until == self.header.body) {
                self.volume.files.lock().index.prove(self.id, fingerprint, reading.proof);
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

impl DiskBody for FileBody {
    fn length(&self) -> u64 {
        self.header.body
    }

    fn inode(&self) -> (u64, u64) {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()))
    }

    fn part(&self, from: u64, most: u64) -> Option<FilePart> {
        let length = self.header.body.saturating_sub(from).min(most).min(SENT_AT_ONCE);
        let entry = self.volume.files.lock().index.get(self.id)?;
        let (at, is_proven) = (self.header.body_at() + from, self.fingerprint.map(Proof::of) == Some(entry.proof));
        let may_be_sent = length > 0 && is_proven && page_cache::has(&self.file, at, length);
        may_be_sent.then(|| FilePart { file: self.file.clone(), at, length })
    }

    fn read(self: Arc<Self>, from: u64) -> Pin<Box<dyn Future<Output = Result<Bytes, Trouble>> + Send>> {
        Box::pin(async move {
            let first = from / BLOCK;
            let read = match self.read_now(first, Patience::PageCache) {
                Err(error) if error.needs_disk() => {
                    // It brings more into memory than is looked at.
                    self.volume.files.lock().index.disprove(self.id);
                    let body = self.clone();
                    let read = self.volume.in_pool(move || body.read_now(first, Patience::Disk), PATIENCE).await?;
                    if read.is_ok() {
                        self.volume.health.success(Operation::Read);
                    }
                    read
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
