//! A request on its way to an origin: its head, and its body as it comes, framed as HTTP/1.1 has it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::request::put_trailers;

use super::super::link::Frame;

/// A piece of up to so many bytes is cheaper copied behind what goes before it than written as a part of its own.
pub(crate) const COPIED: usize = 4 << 10;

/// What is to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// The head, what frames a piece, small pieces.
    first: Vec<u8>,
    piece: Bytes,
    /// What ends the body behind a piece.
    end: &'static [u8],
    written: usize,
    /// Bytes that have gone.
    pub(super) gone: u64,
    is_flushed: bool,
    chunked: bool,
    /// The line end of a chunk is still to come.
    in_chunk: bool,
}

/// The end of a chunk and of the body.
const END: &[u8] = b"\r\n0\r\n\r\n";

impl Outgoing {
    pub(crate) fn new(head: Vec<u8>, chunked: bool) -> Self {
        Outgoing { first: head, chunked, ..Outgoing::default() }
    }

    /// Puts some of the body behind what has gone; `None`: its end.
    pub(crate) fn put(&mut self, frame: Option<Frame>) {
        self.is_flushed = false;
        match frame {
            Some(Frame::Data { piece, last }) if !piece.is_empty() => self.put_piece(piece, last),
            Some(Frame::Data { last: false, .. }) => {}
            Some(Frame::Trailers(trailers)) => self.put_end(&trailers),
            Some(Frame::Data { .. }) | None => self.put_end(&HeaderMap::new()),
        }
    }

    fn put_piece(&mut self, piece: Bytes, last: bool) {
        if self.chunked {
            self.end_chunk();
            self.first.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            self.in_chunk = !last;
            self.end = if last { END } else { b"" };
        }
        if piece.len() <= COPIED {
            self.first.extend_from_slice(&piece);
        } else {
            self.piece = piece;
        }
    }

    fn put_end(&mut self, trailers: &HeaderMap) {
        if self.chunked {
            self.end_chunk();
            self.first.extend_from_slice(b"0\r\n");
            put_trailers(&mut self.first, trailers);
        }
    }

    fn end_chunk(&mut self) {
        if std::mem::take(&mut self.in_chunk) {
            self.first.extend_from_slice(b"\r\n");
        }
    }

    /// Writes what was put; ready when all of it has gone.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut rest = self.first[..].chain(&self.piece[..]).chain(self.end);
        rest.advance(self.written);
        while rest.has_remaining() {
            let written = ready!(pin!(stream.write_buf(&mut rest)).poll(cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.gone += written as u64;
        }
        self.first.clear();
        (self.piece, self.end, self.written) = (Bytes::new(), b"", 0);
        if !self.is_flushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// What goes over the wire for a body.
    fn wire(chunked: bool, frames: &[Option<Frame>]) -> String {
        let mut out = Outgoing::new(b"H;".to_vec(), chunked);
        let mut written = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        for frame in frames {
            out.put(frame.clone());
            assert!(out.poll_write(&mut written, &mut cx).is_ready());
        }
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn bodies_are_framed_whatever_the_size_of_their_pieces() {
        let large = "x".repeat(COPIED + 1);
        let data = |length, last| Some(Frame::Data { piece: vec![b'x'; length].into(), last });
        let trailers = crate::request::tests::map(&[("x-sum", "1")]);
        for (chunked, frames, expected) in [
            (false, &[None][..], "H;".to_owned()),
            (false, &[data(2, true)], "H;xx".to_owned()),
            (false, &[data(COPIED + 1, true)], format!("H;{large}")),
            (true, &[None], "H;0\r\n\r\n".to_owned()),
            (true, &[data(2, true)], "H;2\r\nxx\r\n0\r\n\r\n".to_owned()),
            (true, &[data(COPIED + 1, true)], format!("H;1001\r\n{large}\r\n0\r\n\r\n")),
            (true, &[data(3, false), None], "H;3\r\nxxx\r\n0\r\n\r\n".to_owned()),
            (
                true,
                &[data(3, false), Some(Frame::Trailers(trailers))],
                "H;3\r\nxxx\r\n0\r\nx-sum: 1\r\n\r\n".to_owned(),
            ),
            (true, &[data(0, true)], "H;0\r\n\r\n".to_owned()),
        ] {
            assert_eq!(wire(chunked, frames), expected);
        }
    }
}
