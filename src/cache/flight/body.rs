//! The body of a flight: which of its bytes are here, and how far its readers have come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::trouble::Trouble;

/// What becomes of bytes that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Retention {
    /// All stay here.
    #[default]
    All,
    /// Those that are on disk go.
    Unwritten,
    /// Those that all readers have go.
    Unread,
}

/// Who is told that more of a body is on disk.
pub trait OnWritten: Send + Sync {
    /// What is written need not be kept in memory.
    fn written(&self);
}

/// A body on its way to a disk: it can be read as far as it is written.
pub trait PartlyWritten: Send + Sync {
    /// Has it tell of what is written from now on.
    fn tell(&self, who: Weak<dyn OnWritten>);

    /// Bytes from the start that are written.
    fn written(&self) -> u64;

    /// Some bytes from a place on that is written, at least one, and none from `until` on.
    fn read(self: Arc<Self>, from: u64, until: u64) -> Pin<Box<dyn Future<Output = Result<Bytes, Trouble>> + Send>>;
}

#[derive(Default)]
pub(super) struct Body {
    pub retention: Retention,
    /// Its beginning, on disk.
    pub file: Option<Arc<dyn PartlyWritten>>,
    chunks: VecDeque<Chunk>,
    /// Where the first byte that is still here lies, and where the next will.
    first: u64,
    end: u64,
    readers: SmallVec<[Position; 4]>,
    next_reader: u64,
}

struct Chunk {
    at: u64,
    bytes: Bytes,
}

/// How far a reader has come.
struct Position {
    reader: u64,
    at: u64,
    /// It has taken all that was there, and wants more.
    waits: bool,
}

/// What there is at a reader's place.
pub(super) enum Next {
    /// These bytes.
    Piece(Bytes),
    /// The bytes up to `until` are no longer in memory.
    OnDisk { file: Arc<dyn PartlyWritten>, at: u64, until: u64 },
    /// Nothing yet.
    Nothing,
}

impl Body {
    pub(crate) fn received(&self) -> u64 {
        self.end
    }

    /// Bytes that are here.
    pub(crate) fn here(&self) -> u64 {
        self.end - self.first
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter().map(|chunk| &chunk.bytes)
    }

    /// The piece that it begins with, if that is here.
    pub(crate) fn beginning(&self) -> Option<&Bytes> {
        self.chunks.front().filter(|chunk| chunk.at == 0).map(|chunk| &chunk.bytes)
    }

    pub(crate) fn append(&mut self, bytes: Bytes) {
        let at = self.end;
        self.end += bytes.len() as u64;
        self.chunks.push_back(Chunk { at, bytes });
    }

    /// Puts all of it, which begins with what has come, in the place of that.
    pub(crate) fn replace(&mut self, whole: Bytes) {
        self.end = whole.len() as u64;
        self.chunks = VecDeque::from([Chunk { at: 0, bytes: whole }]);
    }

    /// Drops all that is here.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.first = self.end;
    }

    /// Drops what nobody needs any more; how many bytes. `window`: what is kept of what is on disk already.
    pub(crate) fn trim(&mut self, window: u64) -> u64 {
        let slowest = || self.readers.iter().map(|position| position.at).min().unwrap_or(self.end);
        let until = match self.retention {
            Retention::All => return 0,
            Retention::Unread => slowest(),
            Retention::Unwritten => self.on_disk().min(slowest().max(self.end.saturating_sub(window))),
        };
        let before = self.first;
        while let Some(chunk) = self.chunks.front().filter(|chunk| chunk.at + chunk.bytes.len() as u64 <= until) {
            self.first = chunk.at + chunk.bytes.len() as u64;
            self.chunks.pop_front();
        }
        self.first - before
    }

    /// Enters a reader at the first byte; `None`: that is gone.
    pub(crate) fn enter_reader(&mut self) -> Option<u64> {
        if self.first > self.on_disk() {
            return None;
        }
        let reader = self.next_reader;
        self.next_reader += 1;
        self.readers.push(Position { reader, at: 0, waits: false });
        Some(reader)
    }

    pub(crate) fn remove_reader(&mut self, reader: u64) {
        self.readers.retain(|position| position.reader != reader);
    }

    /// What there is for a reader. `None`: it is neither in memory nor on disk any more.
    pub(crate) fn next(&self, reader: u64) -> Option<Next> {
        let at = self.readers.iter().find(|position| position.reader == reader)?.at;
        // Bytes are only dropped when they are on disk or every reader has them.
        if at < self.first {
            return Some(Next::OnDisk { file: self.file.clone()?, at, until: self.first });
        }
        Some(self.piece(at).map_or(Next::Nothing, Next::Piece))
    }

    /// A reader has taken so many bytes.
    pub(crate) fn advance(&mut self, reader: u64, bytes: usize) {
        if let Some(position) = self.position(reader) {
            position.at += bytes as u64;
            position.waits = false;
        }
    }

    /// A reader wants more than there is; whether that is new.
    pub(crate) fn wait(&mut self, reader: u64) -> bool {
        self.position(reader).is_some_and(|position| !std::mem::replace(&mut position.waits, true))
    }

    pub(crate) fn has_readers(&self) -> bool {
        !self.readers.is_empty()
    }

    pub(crate) fn is_deserted(&self) -> bool {
        self.next_reader > 0 && self.readers.is_empty()
    }

    pub(crate) fn has_waiting_readers(&self) -> bool {
        self.readers.iter().any(|position| position.waits)
    }

    fn position(&mut self, reader: u64) -> Option<&mut Position> {
        self.readers.iter_mut().find(|position| position.reader == reader)
    }

    /// Bytes from the start that can be read from disk.
    fn on_disk(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.written())
    }

    /// The bytes from a place on that are at hand, up to the end of a piece.
    fn piece(&self, at: u64) -> Option<Bytes> {
        let after = self.chunks.partition_point(|chunk| chunk.at <= at);
        let chunk = self.chunks.get(after.checked_sub(1)?)?;
        let skip = (at - chunk.at) as usize;
        (skip < chunk.bytes.len()).then(|| chunk.bytes.slice(skip..))
    }
}
