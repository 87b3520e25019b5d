//! The body of an answer, read piece by piece.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::super::link::LinkError;
use super::find::Stamp;

/// Bytes that are read at once: with a head no more than is every connection's due, so that a client is waited for that takes
/// less than a disk gives.
const PIECE: u64 = 32 << 10;

/// What is left to be sent of a file.
pub(super) struct Reading {
    pub file: Option<Arc<File>>,
    /// What the file was when its head was sent: it is not to become another one meanwhile.
    pub stamp: Stamp,
    /// Of a body that is no file.
    pub text: Bytes,
    pub at: u64,
    pub left: u64,
}

impl Reading {
    /// The next piece.
    pub(super) fn read(mut self) -> Result<(Bytes, Self), LinkError> {
        let Some(file) = &self.file else { return Ok((std::mem::take(&mut self.text), Reading { left: 0, ..self })) };
        let mut piece = vec![0; self.left.min(PIECE) as usize];
        file.read_exact_at(&mut piece, self.at).map_err(LinkError::Io)?;
        self.at += piece.len() as u64;
        self.left -= piece.len() as u64;
        if self.left == 0 && !Stamp::of(&file.metadata().map_err(LinkError::Io)?).has_same_content(&self.stamp) {
            return Err(LinkError::Io(std::io::Error::other("the file has changed while it was sent")));
        }
        Ok((piece.into(), self))
    }
}
