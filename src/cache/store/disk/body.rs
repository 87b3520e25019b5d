//! A large body, read from its file as it is sent.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::super::object::{Content, DiskBody};
use super::super::super::trouble::Trouble;
use super::buffers::PIECE;
use super::file::{self, Patience, ReadError};
use super::format::{BLOCK, Header};
use super::id::FileId;
use super::volume::Volume;

/// Blocks that are read at a time: a buffer full.
const READ_AHEAD: u64 = PIECE as u64 / BLOCK;

/// How long the middle of a body is waited for: what has been promised cannot be had from elsewhere.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An open file. It can be read to its end, whatever happens to its name.
pub struct FileBody {
    volume: Arc<Volume>,
    id: FileId,
    file: Arc<File>,
    header: Header,
}

impl FileBody {
    pub fn new(volume: Arc<Volume>, id: FileId, file: File, header: Header) -> Self {
        FileBody { volume, id, file: Arc::new(file), header }
    }

    /// Of a file that has just been written.
    pub fn of_spool(volume: Arc<Volume>, id: FileId, file: Arc<File>, header: Header) -> Self {
        FileBody { volume, id, file, header }
    }

    fn read_now(&self, first: u64, patience: Patience) -> Result<Bytes, ReadError> {
        file::read_blocks(&self.file, &self.header, first, READ_AHEAD, patience)
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
