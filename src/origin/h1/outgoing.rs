//! A request on its way to an origin: its head, and its body as it comes, framed as HTTP/1.1 has it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::request::put_trailers;

/// A piece of up to so many bytes is cheaper copied behind what goes before it than written as a part of its own.
const COPIED: usize = 4 << 10;

/// What is to be written, in order.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// The head, what frames a piece, small pieces.
    first: Vec<u8>,
    piece: Bytes,
    /// What ends the body behind a piece.
    end: &'static [u8],
    written: usize,
    gone: u64,
    is_flushed: bool,
    chunked: bool,
    /// The line end of a chunk is still to come.
    in_chunk: bool,
}

/// The end of a chunk and of the body.
const END: &[u8] = b"\r\n0\r\n\r\n";

impl Outgoing {
    pub fn new(head: Vec<u8>, chunked: bool) -> Self {
        Outgoing { first: head, chunked, ..Outgoing::default() }
    }

    /// Bytes that have gone.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// Puts a piece of the body behind what has gone.
    pub fn put_data(&mut self, piece: Bytes, last: bool) {
        self.is_flushed = false;
        if piece.is_empty() {
            return if last {
                self.put_end(None)
            };
        }
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

    /// Puts the end of the body.
    pub fn put_end(&mut self, trailers: Option<HeaderMap>) {
        if !self.chunked {
            return;
        }
        self.is_flushed = false;
        self.end_chunk();
        self.first.extend_from_slice(b"0\r\n");
        match trailers {
            Some(trailers) => put_trailers(&mut self.first, &trailers),
            None => self.first.extend_from_slice(b"\r\n"),
        }
    }

    fn end_chunk(&mut self) {
        if std::mem::take(&mut self.in_chunk) {
            self.first.extend_from_slice(b"\r\n");
        }
    }

    /// Writes what was put; ready when all of it has gone.
    pub fn poll_write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    /// What goes over the wire for pieces of so many bytes; `None`: the end is put by itself.
    fn wire(chunked: bool, pieces: &[(usize, bool)], ends: bool, trailers: Option<HeaderMap>) -> String {
        let mut out = Outgoing::new(b"H;".to_vec(), chunked);
        let mut written = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        for (length, last) in pieces {
            out.put_data(vec![b'x'; *length].into(), *last);
            assert!(out.poll_write(&mut written, &mut cx).is_ready());
        }
        if ends {
            out.put_end(trailers);
            assert!(out.poll_write(&mut written, &mut cx).is_ready());
        }
        assert!(out.poll_write(&mut written, &mut cx).is_ready());
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn bodies_are_framed_whatever_the_size_of_their_pieces() {
        let large = "x".repeat(COPIED + 1);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        for (chunked, pieces, ends, trailers, expected) in [
            (false, &[][..], true, None, "H;".to_owned()),
            (false, &[(2, true)], false, None, "H;xx".to_owned()),
            (false, &[(COPIED + 1, true)], false, None, format!("H;{large}")),
            (true, &[], true, None, "H;0\r\n\r\n".to_owned()),
            (true, &[(2, true)], false, None, "H;2\r\nxx\r\n0\r\n\r\n".to_owned()),
            (true, &[(COPIED + 1, true)], false, None, format!("H;1001\r\n{large}\r\n0\r\n\r\n")),
            (true, &[(3, false)], true, Some(trailers), "H;3\r\nxxx\r\n0\r\nx-sum: 1\r\n\r\n".to_owned()),
            (true, &[(0, true)], false, None, "H;0\r\n\r\n".to_owned()),
        ] {
            assert_eq!(wire(chunked, pieces, ends, trailers), expected);
        }
    }
}
